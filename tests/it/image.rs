//! Images, built as a user builds them, and given to the tools of others: QEMU, OVMF, skopeo, umoci, OpenSSL.

#![allow(
    clippy::disallowed_methods,
    reason = "a test starts the programs that it tests, and those that it tests with"
)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use aspen_init::report::{Line, parse_line};
use aspen_lab::image::fat::FatFile;
use aspen_lab::image::manifest::Manifest;
use aspen_lab::image::workshop::Workshop;
use aspen_lab::image::{cache, config_disk, digest};

use crate::appliance::CONFIG;
use crate::host;
use crate::lab::turn;

/// Firmware as Debian's package ovmf has it.
const FIRMWARE: &str = "/usr/share/ovmf/OVMF.fd";
/// A machine on an emulated processor that shares two cores with other tests.
const BOOT_MAX: Duration = Duration::from_mins(3);

/// Whether these programs are here; if not, says so loudly, or fails where `LAB_REQUIRE` wants them.
fn has(word: &str, programs: &[&str]) -> bool {
    let missing: Vec<&str> =
        programs.iter().copied().filter(|name| host::program(&[name]).is_none()).collect();
    if !missing.is_empty() {
        host::lacks(word, &missing.join(" and no "));
    }
    missing.is_empty()
}

/// The same of a file and the package that has it.
fn is_file(word: &str, path: &str, package: &str) -> bool {
    let is_there = Path::new(path).is_file();
    if !is_there {
        host::lacks(word, &format!("{path} (apt-get install {package})"));
    }
    is_there
}

fn run(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).stdin(Stdio::null()).output().unwrap()
}

/// The standard output of a program that succeeds.
#[track_caller]
pub(crate) fn succeed(program: &str, words: &[&str]) -> String {
    let output = run(program, words);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `lab image`, expects a failure, and returns what it says.
#[track_caller]
fn refuse(words: &[&str]) -> String {
    let output = run(env!("CARGO_BIN_EXE_lab"), words);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A path as a word of a command line.
fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn image_built_twice_has_the_same_bytes_and_the_tools_of_others_take_it() {
    let tools = ["apt-get", "dpkg-deb", "mke2fs", "qemu-img", "qemu-system-x86_64"];
    if !has("qemu", &tools)
        || !is_file("ovmf", FIRMWARE, "ovmf")
        || !has("oci-tools", &["skopeo", "umoci", "openssl"])
    {
        return;
    }
    let _turn = turn();
    let home = tempfile::tempdir().unwrap();
    let (one, two) = (home.path().join("one"), home.path().join("two"));
    for folder in [&one, &two] {
        let said = succeed(env!("CARGO_BIN_EXE_lab"), &["image", "build", "--out", word(folder)]);
        assert!(said.contains("parts of the initramfs"), "{said}");
    }
    let manifest = Manifest::read(&one).unwrap();
    assert_eq!(manifest, Manifest::read(&two).unwrap());
    manifest.check(&one, None).unwrap();
    manifest.check(&two, None).unwrap();
    sizes_are_within_their_bounds(&one, &manifest);
    qemu_reads_the_disk(&one);
    oci_tools_unpack_the_same_files(&one, home.path());
    only_the_signed_image_is_accepted(&one, home.path());
    for file in ["disk.raw", "disk.qcow2", "aspen.efi"] {
        boots_to_a_node_that_serves(&one.join(file), home.path());
    }
    cached_image_is_found_again_and_a_damaged_one_is_built_again(&one.join("bzImage"), home.path());
    let said = refuse(&["image", "build", "--out", word(&one)]);
    let want = format!("lab: {} is not empty: give a new folder with --out\n", one.display());
    assert_eq!(said, want);
}

fn sizes_are_within_their_bounds(folder: &Path, manifest: &Manifest) {
    let bytes = |name: &str| manifest.outputs.iter().find(|output| output.path == name).unwrap().bytes;
    assert!(bytes("initramfs.cpio.zst") <= 12 << 20, "{}", bytes("initramfs.cpio.zst"));
    let allocated = fs::metadata(folder.join("disk.raw")).unwrap().blocks() * 512;
    assert!(allocated <= 32 << 20, "{allocated} bytes of the raw disk are allocated");
    let shown = succeed(env!("CARGO_BIN_EXE_lab"), &["image", "inspect", word(folder)]);
    for wanted in
        ["/bin/aspen-node", ".linux", "aspen-data", "GPL-2.0-only WITH Linux-syscall-note", "not signed"]
    {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
}

fn qemu_reads_the_disk(folder: &Path) {
    let (raw, qcow2) = (folder.join("disk.raw"), folder.join("disk.qcow2"));
    succeed("qemu-img", &["check", word(&qcow2)]);
    // Not strictly: a qcow2 allocates clusters of 64 KiB, the raw disk blocks of 4 KiB.
    let said = succeed("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", word(&raw), word(&qcow2)]);
    assert_eq!(said.trim(), "Images are identical.");
}

fn oci_tools_unpack_the_same_files(folder: &Path, home: &Path) {
    for (layout, files) in [
        ("oci", &["vmlinux", "bzImage", "initramfs.cpio.zst", "aspen.efi"][..]),
        ("container-disk", &["disk.qcow2"]),
    ] {
        let image = format!("{}:latest", folder.join(layout).display());
        let said = succeed("skopeo", &["inspect", &format!("oci:{image}")]);
        assert!(said.contains("\"Architecture\": \"amd64\""), "{said}");
        let unpacked = home.join(layout);
        succeed("umoci", &["raw", "unpack", "--rootless", "--image", &image, word(&unpacked)]);
        let below = if layout == "oci" { unpacked } else { unpacked.join("disk") };
        for file in files {
            let digests = [&below, folder].map(|place| digest::of_file(&place.join(file)).unwrap());
            assert_eq!(digests[0], digests[1], "{file} of {layout}");
        }
    }
}

fn only_the_signed_image_is_accepted(folder: &Path, home: &Path) {
    let (secret, public) = (home.join("key"), home.join("key.pub"));
    succeed("openssl", &["genpkey", "-algorithm", "ed25519", "-out", word(&secret)]);
    succeed("openssl", &["pkey", "-in", word(&secret), "-pubout", "-out", word(&public)]);
    let lab = env!("CARGO_BIN_EXE_lab");
    let verify = ["image", "verify", word(folder), "--key", word(&public)];
    assert!(refuse(&verify).ends_with("is not signed: sign it with lab image sign\n"));
    succeed(lab, &["image", "sign", word(folder), "--key", word(&secret)]);
    assert!(succeed(lab, &verify).contains("signed by this key"));
    let (manifest, signature) = (folder.join("manifest.json"), folder.join("manifest.json.sig"));
    let checked =
        ["-verify", "-pubin", "-inkey", word(&public), "-rawin", "-in", word(&manifest), "-sigfile"];
    succeed("openssl", &[&["pkeyutl"], &checked[..], &[word(&signature)]].concat());
    let sbom = folder.join("sbom.spdx.json");
    let text = fs::read_to_string(&sbom).unwrap();
    fs::write(&sbom, text.replacen("SPDX-2.3", "SPDX-2.2", 1)).unwrap();
    assert!(refuse(&verify).contains("sbom.spdx.json is not what the manifest says"));
    fs::write(&sbom, text).unwrap();
    assert!(succeed(lab, &verify).contains("files are whole"));
}

fn cached_image_is_found_again_and_a_damaged_one_is_built_again(kernel: &Path, home: &Path) {
    let mut told = Vec::new();
    let mut tell = |text: &str| told.push(text.to_owned());
    let mut workshop = Workshop::open(&home.join("cache"), &mut tell).unwrap();
    let image = cache::built(Some(kernel.to_owned()), &mut workshop).unwrap();
    assert_eq!(cache::built(Some(kernel.to_owned()), &mut workshop).unwrap(), image);
    fs::write(image.initramfs(), "damaged").unwrap();
    assert_eq!(cache::built(Some(kernel.to_owned()), &mut workshop).unwrap(), image);
    assert_ne!(fs::read(image.initramfs()).unwrap(), b"damaged");
    let packed = told.iter().filter(|text| *text == "packing the initramfs").count();
    assert_eq!(packed, 2, "{told:?}");
    assert!(told.iter().any(|text| text.starts_with("building the image again: ")), "{told:?}");
}

/// Firmware finds the EFI program, its kernel the initramfs, and PID 1 the configuration and the image's own data partition or,
/// where the EFI program is all there is, a blank disk: the node serves.
fn boots_to_a_node_that_serves(file: &Path, home: &Path) {
    let config = home.join("config.raw");
    config_disk::write(&config, &[FatFile { path: "aspen.conf", bytes: CONFIG.as_bytes() }]).unwrap();
    let drive = |file: &Path, kind: &str, more: &str| {
        format!("file={},format={kind},if=virtio,{more}", file.display())
    };
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults", "-display", "none"])
        .args(["-no-reboot", "-serial", "stdio", "-bios", FIRMWARE])
        .args(["-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,romfile="])
        .args(["-drive", &drive(&config, "raw", "readonly=on")]);
    match file.extension().unwrap().to_str().unwrap() {
        "efi" => {
            let data = home.join("blank.raw");
            File::create(&data).unwrap().set_len(256 << 20).unwrap();
            command.arg("-kernel").arg(file).args(["-drive", &drive(&data, "raw", "snapshot=on")])
        }
        kind => command.args(["-drive", &drive(file, kind, "snapshot=on")]),
    };
    let mut machine = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut console = BufReader::new(machine.stdout.take().unwrap());
    let (sender, lines) = channel();
    let reader = std::thread::spawn(move || {
        let mut line = Vec::new();
        // Firmware writes what is no text.
        while console.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            let text = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + BOOT_MAX;
    let mut said = String::new();
    let ready = loop {
        let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
            break None;
        };
        said.push_str(&line);
        if let Some(Line::Ready(ready)) = parse_line(&line) {
            break Some(ready);
        }
    };
    machine.kill().unwrap();
    machine.wait().unwrap();
    drop(lines);
    reader.join().unwrap();
    let ready = ready.unwrap_or_else(|| panic!("no node serves from {}:\n{said}", file.display()));
    assert_eq!(ready.http, "10.1.2.10:7001");
}

#[test]
fn every_wanted_option_of_the_kernel_survives_in_both_flavours() {
    let tools = ["apt-get", "make", "gcc", "flex", "bison", "bc", "lz4", "xz", "tar"];
    // What make allnoconfig of a kernel wants besides: it builds a tool that reads ELF files.
    if !has("kernel-tools", &tools) || !is_file("kernel-tools", "/usr/include/libelf.h", "libelf-dev") {
        return;
    }
    let _turn = turn();
    let home = tempfile::tempdir().unwrap();
    for flavour in ["appliance", "lab"] {
        let out = home.path().join(flavour);
        let words = ["image", "kernel", "--config-only", "--flavour", flavour, "--out", word(&out)];
        succeed(env!("CARGO_BIN_EXE_lab"), &words);
        let config = fs::read_to_string(out.join("config")).unwrap();
        assert_eq!(config.contains("CONFIG_NET_SCH_NETEM=y"), flavour == "lab", "{flavour}");
        assert!(config.contains("CONFIG_PVH=y"), "{flavour}");
    }
}

#[test]
fn image_that_cannot_be_built_is_refused_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let (out, env) = (word(&out), Path::new("/usr/bin/env"));
    let said = refuse(&["image", "build", "--out", out, "--init", word(env)]);
    assert_eq!(said, "lab: give both --init and --node, or neither: they have to be of one version\n");
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["image", "build", "--out", out])
        .current_dir(home.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let want = "lab: here are no sources to build the appliance's programs from: run this in a checkout, name an image that is \
                built (ASPEN_IMAGE=FOLDER), or give `lab image build` both --init PROGRAM and --node PROGRAM\n";
    assert_eq!((output.status.code(), said.as_str()), (Some(1), want));
    let said = refuse(&["image", "inspect", word(home.path())]);
    let missing = home.path().join("manifest.json");
    assert!(said.starts_with(&format!("lab: cannot use {}\n", missing.display())), "{said}");
    assert!(!Path::new(out).exists(), "a build that fails before it begins leaves nothing");
}
