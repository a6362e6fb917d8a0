//! The rows of the table of `lab doctor`: what runs virtual machines here, and what makes their image.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::DoctorError;
use crate::limits::machines::QEMU_VERSION_MAX;
use crate::machine::qemu::arguments::Accelerator;
use crate::machine::qemu::trial::{self, TrialError};
use crate::program::{Program, ProgramLog, ShortOutput};

/// Something that this host can do or cannot.
#[derive(Debug)]
pub(super) struct Row {
    part: &'static str,
    name: &'static str,
    /// What was found: that it works, or why not.
    found: Result<String, String>,
    /// Debian's package that gets it.
    pub(super) package: Option<&'static str>,
}

impl Row {
    pub(super) fn new(part: &'static str, name: &'static str, found: Result<String, String>) -> Self {
        Self { part, name, found, package: None }
    }

    pub(super) fn package(self, package: &'static str) -> Self {
        Self { package: Some(package), ..self }
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

/// What runs virtual machines.
pub(super) fn hypervisor_rows() -> Result<Vec<Row>, DoctorError> {
    const ARCHITECTURE: &str = "x86_64";
    const KVM: &str = "qemu, KVM";
    const EMULATED: &str = "qemu, emulated";
    if std::env::consts::ARCH != ARCHITECTURE {
        let why =
            format!("the appliance is for {ARCHITECTURE} only for now, this is {}", std::env::consts::ARCH);
        return Ok([KVM, EMULATED].map(|name| Row::new("driver", name, Err(why.clone()))).into());
    }
    let log = ProgramLog::open(Path::new("/dev/null"))?;
    let qemu = match trial::find(&log) {
        Ok(qemu) => qemu,
        Err(error) => {
            let is_missing = matches!(error, TrialError::Missing);
            let why = error.in_short();
            let row = |name| Row::new("driver", name, Err(why.clone()));
            let row = |name| if is_missing { row(name).package("qemu-system-x86") } else { row(name) };
            // One package gets both.
            return Ok(vec![Row { package: None, ..row(KVM) }, row(EMULATED)]);
        }
    };
    let directory = trial_directory()?;
    let rows = [(KVM, Accelerator::Kvm), (EMULATED, Accelerator::Tcg)].map(|(name, accelerator)| {
        let tried = trial::smallest_guest(&qemu, accelerator, &directory, &log);
        let found = tried.map(|()| format!("QEMU {} ran a guest to its end", qemu.version));
        Row::new("driver", name, found.map_err(|error| error.in_short()))
    });
    // Nothing is in it any more; if it cannot be removed, it harms nobody.
    let _ = fs::remove_dir(&directory);
    Ok(rows.into())
}

/// What makes the empty file system of an image.
pub(super) fn image_row() -> Result<Row, DoctorError> {
    let log = ProgramLog::open(Path::new("/dev/null"))?;
    let row = |found| Row::new("image", "build", found);
    // It is where only root's search path has it.
    let usual = || ["/usr/sbin/mke2fs", "/sbin/mke2fs"].iter().map(PathBuf::from).find(|path| path.is_file());
    let Some(mke2fs) = Program::find("mke2fs").or_else(usual) else {
        return Ok(row(Err("mke2fs is not installed".to_owned())).package("e2fsprogs"));
    };
    let found = Program::new(mke2fs).arg("-V").run_short(QEMU_VERSION_MAX, &log);
    let version = |output: ShortOutput| output.stderr.lines().next().unwrap_or_default().to_owned();
    Ok(row(found.map(version).map_err(|error| error.to_string())))
}

fn trial_directory() -> io::Result<PathBuf> {
    let directory = std::env::temp_dir().join(format!("aspen-doctor-{}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&directory)?;
    Ok(directory)
}
