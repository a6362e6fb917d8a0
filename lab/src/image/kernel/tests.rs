use super::payload::tests::bzimage;
use super::*;

#[track_caller]
fn check_refused(name: &str, bytes: &[u8], want: &str) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let mut tell = |_: &str| {};
    let mut workshop = Workshop::open(&home.path().join("cache"), &mut tell).unwrap();
    let error = Kernel::load(&path, &options::APPLIANCE, &mut workshop).unwrap_err();
    assert_eq!(error.to_string(), want.replace("PATH", path.to_str().unwrap()));
}

#[test]
fn what_is_no_kernel_for_this_machine_is_refused_by_name() {
    check_refused("vmlinuz", b"nothing", "PATH is neither a Debian package nor a bzImage nor an ELF file");
    let mut arm = vec![0; 0x400];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    check_refused("Image", &arm, "PATH is a kernel for aarch64; the appliance is for x86_64 only");
    let zstd = zstd::encode_all(&b"no ELF"[..], 1).unwrap();
    check_refused("bzImage", &bzimage(&[zstd, vec![6, 0, 0, 0]].concat()), "cannot use the kernel PATH");
    // An ELF header of x86_64, and nothing else.
    let mut bare = vec![0; 64];
    bare[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bare[0x12] = 62;
    check_refused("vmlinux", &bare, "PATH does not name its version: is it a Linux kernel?");
}

#[test]
fn folder_with_no_kernel_or_with_two_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut tell = |_: &str| {};
    let mut workshop = Workshop::open(&home.path().join("cache"), &mut tell).unwrap();
    let folder = home.path().join("kernel");
    std::fs::create_dir_all(folder.join("boot")).unwrap();
    let mut load = || Kernel::load(&folder, &options::APPLIANCE, &mut workshop).unwrap_err().to_string();
    let shown = folder.display();
    let want = format!(
        "{shown} holds no kernel: vmlinuz-RELEASE, bzImage or vmlinux is looked for there and in its folder boot"
    );
    assert_eq!(load(), want);
    for release in ["6.1", "6.12"] {
        std::fs::write(folder.join(format!("boot/vmlinuz-{release}")), b"").unwrap();
    }
    assert_eq!(load(), format!("{shown} holds 2 kernels (vmlinuz-6.1, vmlinuz-6.12): name one of them"));
}

/// An ELF file for this machine that calls itself a kernel, and brings this along.
fn vmlinux(more: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[0x12] = 62;
    bytes.extend(b"Linux version 6.1.0-test (a@b) #1 SMP\n\0");
    bytes.extend(more);
    bytes
}

/// Found when a kernel without virtio disks was given as a file: only packages and folders were looked at.
#[test]
fn kernel_given_as_a_file_is_checked_for_its_options_or_told_to_have_none() {
    let home = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    let mut tell = |text: &str| told.push(text.to_owned());
    let mut workshop = Workshop::open(&home.path().join("cache"), &mut tell).unwrap();
    let path = home.path().join("vmlinux");
    std::fs::write(&path, vmlinux(b"")).unwrap();
    assert_eq!(Kernel::load(&path, &options::APPLIANCE, &mut workshop).unwrap().release, "6.1.0-test");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut gzip, b"CONFIG_64BIT=y\n").unwrap();
    let embedded = [b"IKCFG_ST".as_slice(), &gzip.finish().unwrap()].concat();
    std::fs::write(&path, vmlinux(&embedded)).unwrap();
    let mut lacks = || {
        let error = Kernel::load(&path, &options::APPLIANCE, &mut workshop).unwrap_err().to_string();
        error.split_once(" cannot run the appliance, it lacks ").unwrap().1.to_owned()
    };
    let inside = lacks();
    assert!(inside.starts_with("CONFIG_BLK_DEV_INITRD, ") && !inside.contains("64BIT"), "{inside}");
    // The one beside it is of the same version, and goes before: it is what a package brings.
    std::fs::write(home.path().join("config-6.1.0-test"), "").unwrap();
    assert!(lacks().starts_with("CONFIG_64BIT, "));
    let want = format!(
        "{} brings no configuration, in itself or as config-6.1.0-test beside it: whether it has the options that the \
         appliance needs shows when it boots",
        path.display()
    );
    assert_eq!(told, [want]);
}

#[test]
fn banner_is_not_taken_from_a_format_string() {
    let bytes = b"\0Linux version %s (%s)\0\0Linux version 6.1.192-aspen (a@b) #1 SMP\n\0";
    assert_eq!(banner(bytes).as_deref(), Some("6.1.192-aspen (a@b) #1 SMP"));
    assert_eq!(banner(b"Linux version %s"), None);
}
