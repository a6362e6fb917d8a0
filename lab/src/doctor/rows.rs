//! The rows of the table of `lab doctor`, and those about what runs virtual machines here.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::DoctorError;
use crate::machine::qemu::arguments::Accelerator;
use crate::machine::qemu::trial::{self, TrialError};
use crate::program::{ProcessStat, ProgramLog};

/// Something that this host can do or cannot.
#[derive(Debug)]
pub(super) struct Row {
    part: &'static str,
    name: &'static str,
    /// What was found: that it works, or why not.
    found: Result<String, String>,
    /// What gets it.
    pub(super) fix: Option<Fix>,
    /// Whether something else does its work here.
    is_replaced: bool,
}

/// What `lab doctor --fix` can do about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fix {
    /// Debian's packages, with blanks between them.
    Packages(&'static str),
    /// Debian's index of packages.
    Index,
}

impl Row {
    pub(super) fn new(part: &'static str, name: &'static str, found: Result<String, String>) -> Self {
        Self { part, name, found, fix: None, is_replaced: false }
    }

    pub(super) fn fix(self, fix: Fix) -> Self {
        Self { fix: Some(fix), ..self }
    }

    /// What it is about, if that does not work and nothing else does its work.
    pub(super) fn wanting(&self) -> Option<String> {
        (self.found.is_err() && !self.is_replaced).then(|| format!("{} {}", self.part, self.name))
    }
}

/// Writes rows as lines of a table.
pub(super) fn write_rows(rows: &[Row], report: &mut impl Write) -> io::Result<()> {
    for Row { part, name, found, .. } in rows {
        let (word, text) = match found {
            Ok(text) => ("works", text),
            Err(text) => ("no", text),
        };
        writeln!(report, "{part:<8} {name:<15} {word:<6} {text}")?;
    }
    report.flush()
}

/// A row that says that this is no machine for the appliance, if it is none.
pub(super) fn is_x86_64(part: &'static str, name: &'static str) -> Option<Row> {
    const ARCHITECTURE: &str = "x86_64";
    let here = std::env::consts::ARCH;
    let why = || format!("the appliance is for {ARCHITECTURE} only for now, this is {here}");
    (here != ARCHITECTURE).then(|| Row::new(part, name, Err(why())))
}

/// What runs virtual machines.
pub(super) fn hypervisor_rows() -> Result<Vec<Row>, DoctorError> {
    const KVM: &str = "qemu, KVM";
    const EMULATED: &str = "qemu, emulated";
    let others = [KVM, EMULATED].into_iter().filter_map(|name| is_x86_64("driver", name));
    let others: Vec<Row> = others.collect();
    if !others.is_empty() {
        return Ok(others);
    }
    let log = ProgramLog::open(Path::new("/dev/null"))?;
    let qemu = match trial::find(&log) {
        Ok(qemu) => qemu,
        Err(error) => {
            let is_missing = matches!(error, TrialError::Missing);
            let rows = [KVM, EMULATED].map(|name| {
                let row = Row::new("driver", name, Err(error.in_short()));
                if is_missing { row.fix(Fix::Packages("qemu-system-x86")) } else { row }
            });
            return Ok(rows.into());
        }
    };
    let folder = TrialFolder::make()?;
    let [kvm, emulated] =
        [(KVM, Accelerator::Kvm), (EMULATED, Accelerator::Tcg)].map(|(name, accelerator)| {
            let tried = trial::smallest_guest(&qemu, accelerator, folder.path(), &log);
            let found = tried.map(|()| format!("QEMU {} ran a guest to its end", qemu.version));
            Row::new("driver", name, found.map_err(|error| error.in_short()))
        });
    // No package gives a host KVM, and slower machines do what it would.
    let kvm = Row { is_replaced: emulated.found.is_ok(), ..kvm };
    Ok(vec![kvm, emulated])
}

/// A folder for trials, gone with this value. What a doctor that was killed has left goes with the next one.
#[derive(Debug)]
pub(super) struct TrialFolder(PathBuf);

/// How the names of these folders begin; the process's number follows.
const FOLDER: &str = "aspen-doctor-";

impl TrialFolder {
    pub(super) fn make() -> Result<Self, DoctorError> {
        let temporary = std::env::temp_dir();
        remove_left(&temporary);
        let path = temporary.join(format!("{FOLDER}{}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(DoctorError::Folder { path, source }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TrialFolder {
    fn drop(&mut self) {
        // If it cannot be removed, the next doctor tries again.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the folders of this user's doctors that are no more.
fn remove_left(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    let user = geteuid().as_raw();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(FOLDER)?.parse().ok());
        // The metadata are those of the entry itself: a link is no folder.
        let is_own = entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user);
        if is_own && pid.is_some_and(|pid| pid == std::process::id() || ProcessStat::read(pid).is_none()) {
            // Somebody else may be at it.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn folders_of_doctors_that_are_no_more_are_removed_and_no_others() {
        let home = tempfile::tempdir().unwrap();
        let gone = u32::MAX;
        let make = |name: &str| {
            let path = home.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("trial.raw"), "left").unwrap();
            path
        };
        let left = make(&format!("{FOLDER}{gone}"));
        let others = [make(&format!("{FOLDER}1")), make("aspen-doctor"), make(&format!("x{FOLDER}{gone}"))];
        let link = home.path().join(format!("{FOLDER}{}", gone - 1));
        symlink(&others[1], &link).unwrap();
        remove_left(home.path());
        assert!(!left.exists());
        assert!(others.iter().all(|path| path.join("trial.raw").exists()) && link.exists());
    }

    #[test]
    fn trials_are_made_in_a_folder_that_goes_with_them() {
        let folder = TrialFolder::make().unwrap();
        let path = folder.path().to_owned();
        fs::write(path.join("trial.raw"), "left").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn row_that_something_else_does_the_work_of_is_not_wanting() {
        let row = Row::new("driver", "qemu, KVM", Err("no MSR".to_owned()));
        assert_eq!(row.wanting().as_deref(), Some("driver qemu, KVM"));
        assert_eq!(Row { is_replaced: true, ..row }.wanting(), None);
        assert_eq!(Row::new("fabric", "switch", Ok("fast".to_owned())).wanting(), None);
    }
}
