//! The shell of `lab rig shell`, and what helps to look around in a guest.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::RigError;
use super::bundle::Bundle;
use super::pack::{PROGRAMS, on_search_path};
use crate::image::debian;
use crate::image::workshop::Workshop;
use crate::program::Program;

/// Where the small programs of a shell are.
const APPLETS: &str = "/usr/lib/busybox";
/// The shell, where it is here. That of busybox takes its own programs before any others.
const BASH: &str = "bash";
/// What a shell uses besides, and a shell itself; and its package.
const BUSYBOX: &str = "busybox";
const BUSYBOX_PACKAGE: &str = "busybox-static";
/// What helps to look around, where it is here.
const CURIOUS: [&str; 6] = ["bridge", "ethtool", "tcpdump", "ss", "strace", "curl"];
/// Where terminals are described (terminfo(5)).
const TERMINFO: [&str; 4] = ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo", "/usr/lib/terminfo"];

/// Adds a shell, with what helps to look around: its command line.
///
/// # Errors
/// There is none, and none can be fetched.
pub(super) fn pack(bundle: &mut Bundle, workshop: &mut Workshop<'_>) -> Result<Vec<OsString>, RigError> {
    let busybox = match Program::find(BUSYBOX) {
        Some(path) => path,
        None => fetch_busybox(workshop).map_err(RigError::Shell)?,
    };
    bundle.program_as(&busybox, &Path::new(PROGRAMS).join(BUSYBOX))?;
    let names = workshop.helper(Program::new(&busybox).arg("--list"))?.stdout;
    for name in names.lines().filter(|name| !name.is_empty()) {
        bundle.link(&format!("{APPLETS}/{name}"), &format!("{PROGRAMS}/{BUSYBOX}"));
    }
    // For scripts, where this host's own shell has not come in.
    bundle.link_unless_there("/bin/sh", &format!("{PROGRAMS}/{BUSYBOX}"));
    for name in CURIOUS {
        on_search_path(bundle, name)?;
    }
    for path in terminfo(&std::env::var("TERM").unwrap_or_default()) {
        bundle.file(&path)?;
    }
    let at = |name: &str| OsString::from(format!("{PROGRAMS}/{name}"));
    if on_search_path(bundle, BASH)? {
        return Ok(vec![at(BASH), "--norc".into(), "--noprofile".into()]);
    }
    Ok(vec![at(BUSYBOX), "sh".into()])
}

/// The descriptions of a terminal that are here.
fn terminfo(name: &str) -> Vec<PathBuf> {
    let Some(first) = name.chars().next().filter(|_| !name.contains('/')) else { return vec![] };
    // By its first letter, or where letters have no case by its number.
    let below = [first.to_string(), format!("{:x}", u32::from(first))];
    let folders = TERMINFO.iter().flat_map(|folder| below.iter().map(|below| Path::new(folder).join(below)));
    folders.map(|folder| folder.join(name)).filter(|path| path.is_file()).collect()
}

fn fetch_busybox(workshop: &mut Workshop<'_>) -> Result<PathBuf, debian::DebianError> {
    let instead = "busybox on the search path";
    let named = debian::newest(BUSYBOX_PACKAGE, instead, workshop)?;
    let package = debian::fetch(&named, instead, workshop)?;
    let unpacked = debian::unpack(&package, workshop)?.folder;
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| unpacked.join(place));
    let found = places.iter().find(|path| path.is_file()).cloned();
    found.ok_or_else(|| debian::DebianError::File {
        path: places[0].clone(),
        source: io::ErrorKind::NotFound.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_is_looked_up_by_its_name_only() {
        assert_eq!(terminfo(""), Vec::<PathBuf>::new());
        assert_eq!(terminfo("../../etc/passwd"), Vec::<PathBuf>::new());
        assert!(terminfo("vt100").iter().all(|path| path.ends_with("v/vt100") || path.ends_with("76/vt100")));
    }
}
