//! Packages of the Debian or Ubuntu that runs here: fetched with apt-get, unpacked, never installed.

use std::io;
use std::path::{Path, PathBuf};

use super::workshop::{Workshop, WorkshopError, make_anew};
use crate::program::Program;

/// The package that always depends on the newest kernel for virtual machines.
pub const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// The package with the stub of unified kernel images.
pub const STUB_PACKAGE: &str = "systemd-boot-efi";

/// An unpacked package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Where its files are.
    pub folder: PathBuf,
    /// Package and version.
    pub origin: String,
}

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// The index does not know it, or there is no apt.
    #[error(
        "cannot look up package {package}: run apt-get update, or on another distribution than Debian and Ubuntu give \
         {instead}"
    )]
    Unknown {
        /// The package.
        package: String,
        /// The option that makes it unnecessary.
        instead: &'static str,
        /// Why.
        source: Box<WorkshopError>,
    },
    /// The answer of apt-cache has no such field.
    #[error("apt-cache show {package} names no {field}: run apt-get update, or give {instead}")]
    NoField {
        /// The package.
        package: String,
        /// The field.
        field: &'static str,
        /// The option that makes it unnecessary.
        instead: &'static str,
    },
    /// It cannot be fetched.
    #[error("cannot fetch package {package}: run apt-get update, or give {instead}")]
    Fetch {
        /// The package.
        package: String,
        /// The option that makes it unnecessary.
        instead: &'static str,
        /// Why.
        source: Box<WorkshopError>,
    },
    /// It cannot be unpacked.
    #[error("cannot unpack {}: is it a whole Debian package?", .path.display())]
    Unpack {
        /// The package's file.
        path: PathBuf,
        /// Why.
        source: Box<WorkshopError>,
    },
    /// A file or folder of the cache.
    #[error("cannot use {}", .path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The workshop.
    #[error(transparent)]
    Workshop(#[from] WorkshopError),
}

/// A package and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
}

/// The kernel package that [`KERNEL_PACKAGE`] depends on now, and what to give instead when it cannot be had.
///
/// # Errors
/// The index does not know it.
pub fn newest_kernel(instead: &'static str, workshop: &Workshop<'_>) -> Result<Named, DebianError> {
    let shown = show(KERNEL_PACKAGE, instead, workshop)?;
    let no = |field| DebianError::NoField { package: KERNEL_PACKAGE.to_owned(), field, instead };
    let depends = field(&shown, "Depends").ok_or_else(|| no("Depends"))?;
    let package = depends.split([' ', ',']).find(|word| word.starts_with("linux-image-"));
    let package = package.ok_or_else(|| no("Depends"))?.to_owned();
    let version = field(&shown, "Version").ok_or_else(|| no("Version"))?;
    // Ubuntu's depends on another version than its own.
    let version = match depends.split_once("(= ").and_then(|(_, rest)| rest.split_once(')')) {
        Some((exact, _rest)) => exact.to_owned(),
        None => version.to_owned(),
    };
    Ok(Named { package, version })
}

/// The version of a package that would be installed.
///
/// # Errors
/// The index does not know it.
pub fn newest(package: &str, instead: &'static str, workshop: &Workshop<'_>) -> Result<Named, DebianError> {
    let shown = show(package, instead, workshop)?;
    let no = || DebianError::NoField { package: package.to_owned(), field: "Version", instead };
    let version = field(&shown, "Version").ok_or_else(no)?.to_owned();
    Ok(Named { package: package.to_owned(), version })
}

fn show(package: &str, instead: &'static str, workshop: &Workshop<'_>) -> Result<String, DebianError> {
    let program = Program::new("apt-cache").args(["show", "--no-all-versions", package]);
    match workshop.helper(program) {
        Ok(output) => Ok(output.stdout),
        Err(error) => {
            Err(DebianError::Unknown { package: package.to_owned(), instead, source: error.into() })
        }
    }
}

fn field<'a>(shown: &'a str, name: &str) -> Option<&'a str> {
    shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// The file of a package, from the cache or fetched into it.
///
/// # Errors
/// It cannot be fetched.
pub fn fetch(
    named: &Named,
    instead: &'static str,
    workshop: &mut Workshop<'_>,
) -> Result<PathBuf, DebianError> {
    let folder =
        workshop.folder().join("packages").join(format!("{}_{}", named.package, file_word(&named.version)));
    let _turn = workshop.turn("packages")?;
    if let Some(found) = package_in(&folder) {
        return Ok(found);
    }
    // Renamed when it is complete: apt-get writes under the package's own name from its first byte on.
    let half = workshop.folder().join("packages").join(".half");
    make_anew(&half)?;
    workshop.tell(&format!("fetching {} {}", named.package, named.version));
    let word = format!("{}={}", named.package, named.version);
    let fetched = Program::new("apt-get").args(["download", &word]).in_folder(&half);
    let failed = |error: WorkshopError| DebianError::Fetch {
        package: named.package.clone(),
        instead,
        source: error.into(),
    };
    workshop
        .long(
            "apt-get download",
            &with_path(fetched),
            &half.join("apt-get.log"),
            crate::limits::image::FETCH_MAX,
        )
        .map_err(failed)?;
    let missing = || DebianError::File { path: folder.clone(), source: io::ErrorKind::NotFound.into() };
    package_in(&half).ok_or_else(missing)?;
    // A folder without a package, such as an earlier attempt's, is in the way.
    make_anew(&folder)?;
    std::fs::rename(&half, &folder).map_err(|source| DebianError::File { path: folder.clone(), source })?;
    package_in(&folder).ok_or_else(missing)
}

/// A version may hold a colon, which files do without.
pub(super) fn file_word(version: &str) -> String {
    version.replace(':', "-")
}

fn with_path(program: Program) -> Program {
    let variables = ["PATH", "http_proxy", "https_proxy", "APT_CONFIG"];
    let set = variables.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    set.fold(program, |program, (name, value)| program.env(name, value))
}

fn package_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).min()
}

/// Unpacks a package into the cache, once for each content.
///
/// # Errors
/// It cannot be read or unpacked.
pub fn unpack(path: &Path, workshop: &mut Workshop<'_>) -> Result<Unpacked, DebianError> {
    let digest =
        super::digest::of_file(path).map_err(|source| DebianError::File { path: path.to_owned(), source })?;
    let folder = workshop.folder().join("unpacked").join(&digest.to_string()[..16]);
    let failed = |error: WorkshopError| DebianError::Unpack { path: path.to_owned(), source: error.into() };
    let fields = Program::new("dpkg-deb").arg("--field").arg(path).args(["Package", "Version"]);
    let shown = workshop.helper(fields).map_err(failed)?.stdout;
    let word = |name| field(&shown, name).unwrap_or("?");
    let origin = format!("Debian package {} {}", word("Package"), word("Version"));
    let _turn = workshop.turn("packages")?;
    if !folder.is_dir() {
        // Renamed when it is complete, so that a build that is ended leaves no half of a package.
        let half = workshop.folder().join("unpacked").join(".half");
        make_anew(&half)?;
        let program = Program::new("dpkg-deb").arg("--extract").arg(path).arg(&half);
        workshop.helper(program).map_err(failed)?;
        std::fs::rename(&half, &folder)
            .map_err(|source| DebianError::File { path: folder.clone(), source })?;
    }
    Ok(Unpacked { folder, origin })
}

#[cfg(test)]
mod tests {
    use super::super::workshop::make_folder;
    use super::*;
    use crate::host;

    #[test]
    fn fields_of_apt_cache_are_found_and_versions_become_names() {
        let shown =
            "Package: x\nVersion: 1:6.1.192-2\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n";
        assert_eq!(field(shown, "Version"), Some("1:6.1.192-2"));
        assert_eq!(field(shown, "Source"), None);
        assert_eq!(file_word("1:6.1.192-2"), "1-6.1.192-2");
    }

    /// A package with one file, as dpkg-deb makes it; none where that is missing.
    fn package(home: &Path) -> Option<PathBuf> {
        let (tree, path) = (home.join("tree"), home.join("x.deb"));
        std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: a test\n";
        std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
        std::fs::write(tree.join("file"), "whole").unwrap();
        let mut tell = |_: &str| {};
        let workshop = Workshop::open(&home.join("maker"), &mut tell).unwrap();
        let program = Program::new("dpkg-deb").arg("--build").arg(&tree).arg(&path);
        workshop.helper(program).ok().map(|_| path)
    }

    #[test]
    fn half_of_a_package_is_not_taken_for_a_whole_one() {
        let home = tempfile::tempdir().unwrap();
        let Some(path) = package(home.path()) else {
            host::lacks("qemu", "dpkg-deb (apt-get install dpkg)");
            return;
        };
        let mut tell = |_: &str| {};
        let mut workshop = Workshop::open(&home.path().join("cache"), &mut tell).unwrap();
        // What builds that were ended have left.
        for place in ["unpacked/.half/old", "packages/.half", "packages/x_1"] {
            make_folder(&workshop.folder().join(place)).unwrap();
        }
        std::fs::write(workshop.folder().join("packages/.half/x_1_all.deb"), "half of it").unwrap();
        let unpacked = unpack(&path, &mut workshop).unwrap();
        assert_eq!(unpacked.origin, "Debian package x 1");
        assert_eq!(std::fs::read_to_string(unpacked.folder.join("file")).unwrap(), "whole");
        assert!(!unpacked.folder.join("old").exists());
        assert_eq!(unpack(&path, &mut workshop).unwrap(), unpacked);
        let named = Named { package: "x".to_owned(), version: "1".to_owned() };
        // No archive has it: the half that was left is not taken instead.
        let error = fetch(&named, "--kernel PATH", &mut workshop).unwrap_err().to_string();
        assert_eq!(error, "cannot fetch package x: run apt-get update, or give --kernel PATH");
    }

    #[test]
    fn file_that_is_no_package_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let mut tell = |_: &str| {};
        let mut workshop = Workshop::open(home.path(), &mut tell).unwrap();
        let path = home.path().join("kernel.deb");
        std::fs::write(&path, "not one").unwrap();
        let error = unpack(&path, &mut workshop).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot unpack {}: is it a whole Debian package?", path.display())
        );
        let error = newest("no-such-package-anywhere", "--kernel PATH", &workshop).unwrap_err();
        let want = "cannot look up package no-such-package-anywhere: run apt-get update, or on another distribution \
                    than Debian and Ubuntu give --kernel PATH";
        assert_eq!(error.to_string(), want);
    }
}
