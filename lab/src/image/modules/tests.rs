//! A tree of modules, each a small ELF file that says what it depends on.

use std::io::Write;

use super::*;

/// An ELF file for this machine with one section, `.modinfo`.
fn module(information: &str) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let text = information.replace('|', "\0");
    let mut bytes = vec![0; 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[0x10] = 1;
    bytes[0x12] = 62;
    bytes.extend(text.as_bytes());
    bytes.extend(names);
    let table = bytes.len() as u64;
    bytes[0x28..0x30].copy_from_slice(&table.to_le_bytes());
    bytes[0x34] = 64;
    bytes[0x3a] = 64;
    bytes[0x3c] = 3;
    bytes[0x3e] = 2;
    let section = |name: u32, kind: u32, offset: u64, size: u64| {
        let mut header = vec![0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&offset.to_le_bytes());
        header[0x20..0x28].copy_from_slice(&size.to_le_bytes());
        header
    };
    let text_bytes = text.len() as u64;
    bytes.extend(section(0, 0, 0, 0));
    bytes.extend(section(1, 1, 64, text_bytes));
    bytes.extend(section(10, 3, 64 + text_bytes, names.len() as u64));
    bytes
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(built_in: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::write(folder.0.path().join("modules.builtin"), built_in).unwrap();
        std::fs::create_dir(folder.0.path().join("kernel")).unwrap();
        folder
    }

    fn with(self, path: &str, bytes: &[u8]) -> Self {
        let path = self.0.path().join("kernel").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        self
    }

    fn select(&self) -> Result<Selection, ModulesError> {
        select(self.0.path(), &APPLIANCE)
    }
}

const BUILT_IN: &str = "kernel/virtio_pci.ko\nkernel/virtio-console.ko\nkernel/virtio_net.ko\n";

#[test]
fn modules_come_after_what_they_depend_on_hard_or_soft_in_every_packing() {
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(&module("license=GPL|depends=jbd2,crc-16|softdep=pre: crc32c gone post: late|")).unwrap();
    let folder = Folder::new(BUILT_IN)
        .with("fs/ext4.ko.xz", &xz.finish().unwrap())
        .with("fs/jbd2.ko.zst", &zstd::encode_all(&*module("depends="), 1).unwrap())
        .with("lib/crc-16.ko", &module("depends="))
        .with("lib/crc32c.ko", &module("depends="))
        .with("lib/late.ko", &module("depends="))
        .with("drivers/virtio_blk.ko", &module("depends=virtio_console|license=Dual BSD/GPL|"));
    let selection = folder.select().unwrap();
    let names: Vec<&str> = selection.modules.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(names, ["virtio_blk", "crc32c", "jbd2", "crc_16", "ext4"]);
    let last = selection.modules.last().unwrap();
    assert_eq!((last.path.as_str(), last.licence.as_str()), ("kernel/fs/ext4.ko", "GPL"));
    assert!(last.bytes.starts_with(b"\x7fELF"));
    assert!(selection.absent.contains(&"evdev"));
    // In the order in which the appliance wants them, every time.
    assert_eq!(folder.select().unwrap(), selection);
}

#[track_caller]
fn check_refused(folder: &Folder, want: &str) {
    let error = folder.select().unwrap_err().to_string();
    assert_eq!(error, want.replace("FOLDER", folder.0.path().to_str().unwrap()));
}

#[test]
fn what_is_missing_is_named_with_who_needs_it() {
    let folder = Folder::new(BUILT_IN);
    let want = "FOLDER has no module virtio_blk, and it is not built in: the appliance cannot do without it";
    check_refused(&folder, want);
    let folder = folder.with("virtio_blk.ko", &module("depends="));
    let folder = folder.with("ext4.ko", &module("depends=jbd2"));
    check_refused(&folder, "module ext4 depends on jbd2, which is neither in FOLDER nor built in");
    let folder = folder.with("jbd2.ko", &module("depends=ext4"));
    check_refused(&folder, "module ext4 depends on itself, through others");
    let mut arm = module("depends=");
    arm[0x12] = 183;
    let folder = folder.with("jbd2.ko", &arm);
    check_refused(&folder, "cannot use module FOLDER/kernel/jbd2.ko");
}
