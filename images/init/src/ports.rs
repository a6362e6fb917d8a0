//! The virtio-serial ports that a hypervisor gives a machine, by their names.

use std::fs;
use std::path::{Path, PathBuf};

use crate::limits::READ_BYTES_MAX;
use crate::texts::head;

/// The device of the port of this name, if the hypervisor gave us one. `sys` is where sysfs is.
pub fn find(sys: &Path, name: &str) -> Option<PathBuf> {
    let ports = fs::read_dir(sys.join("class/virtio-ports")).into_iter().flatten().flatten();
    let is_it = |port: &fs::DirEntry| {
        head(&port.path().join("name"), READ_BYTES_MAX).is_ok_and(|found| found == name)
    };
    ports.into_iter().find(is_it).map(|port| Path::new("/dev").join(port.file_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_found_by_its_name() {
        let sys = tempfile::tempdir().unwrap();
        for (port, name) in [("vport1p1", "org.other\n"), ("vport1p2", "org.aspen.control\n")] {
            let folder = sys.path().join("class/virtio-ports").join(port);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("name"), name).unwrap();
        }
        assert_eq!(find(sys.path(), "org.aspen.control"), Some(PathBuf::from("/dev/vport1p2")));
        assert_eq!(find(Path::new("/nowhere"), "org.aspen.control"), None);
    }
}
