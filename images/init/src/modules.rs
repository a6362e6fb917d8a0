//! Loads the modules that the image lists, in that order, and gives their memory back.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::limits::READ_BYTES_MAX;
use crate::texts::head;

const NO_PARAMETERS: &CStr = c"";

/// The listed paths: one a line, empty lines and comments (`#`) are none.
fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Loads what `list` lists. A module that cannot be loaded is told of and left out: what really needs it says so later,
/// with the reason.
pub fn load(list: &Path, tell: &mut dyn FnMut(&str)) {
    let text = match head(list, READ_BYTES_MAX) {
        Ok(text) => text,
        // A kernel without modules.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tell(&format!("cannot read the list of modules {}: {error}", list.display()));
            return;
        }
    };
    for path in listed(&text) {
        if let Some(trouble) = load_one(Path::new(path)) {
            tell(&format!("cannot load the module {path}: {trouble}"));
        }
        // The initramfs is memory, and a module that is loaded is there twice.
        let _ = fs::remove_file(path);
    }
}

/// What is wrong with loading it, if anything is.
fn load_one(path: &Path) -> Option<String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return Some(error.to_string()),
    };
    match finit_module(&file, NO_PARAMETERS, ModuleInitFlags::empty()) {
        // Loaded, loaded before, or for hardware or a hypervisor that is not here.
        Ok(()) | Err(Errno::EEXIST | Errno::ENODEV | Errno::ENXIO | Errno::EOPNOTSUPP) => None,
        Err(Errno::ENOEXEC) => Some("it was built for another kernel: build the image again".to_owned()),
        Err(Errno::ENOSYS) => Some("the kernel has no modules (CONFIG_MODULES)".to_owned()),
        Err(Errno::ENOENT) => Some("a module that it needs is not loaded: build the image again".to_owned()),
        Err(errno) => Some(errno.desc().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_is_read_in_its_order() {
        let text = "# virtio\n/lib/modules/virtio_ring.ko\n\n /lib/modules/virtio.ko \n";
        assert_eq!(
            listed(text).collect::<Vec<_>>(),
            ["/lib/modules/virtio_ring.ko", "/lib/modules/virtio.ko"]
        );
    }

    #[test]
    fn module_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("modules");
        fs::write(&list, "/nowhere/a.ko\n").unwrap();
        let mut told = Vec::new();
        load(&list, &mut |text| told.push(text.to_owned()));
        assert_eq!(told, ["cannot load the module /nowhere/a.ko: No such file or directory (os error 2)"]);
        load(&dir.path().join("none"), &mut |text| panic!("{text}"));
    }
}
