//! The rows of the table of `lab doctor`, and those about what runs virtual machines here.

use std::io::{self, Write};
use std::path::Path;

use super::DoctorError;
use crate::check::counted;
use crate::limits::machines::{EMULATOR_MEMORY_MIB, HYPERVISOR_MEMORY_MIB, MEMORY_MIB_DEFAULT};
use crate::machine::cloud_hypervisor::arguments::CLOUD_HYPERVISOR;
use crate::machine::cloud_hypervisor::trial as cloud_hypervisor;
use crate::machine::qemu::arguments::Accelerator;
use crate::machine::qemu::trial::{self, TrialError};
use crate::memory::{self, Free};
use crate::program::ProgramLog;
use crate::scratch::Scratch;

/// Fewest machines that a host is good for: topologies have three and more.
const MACHINES_MIN: u32 = 3;

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

    /// Something else does its work here.
    pub(super) fn replaced(self) -> Self {
        Self { is_replaced: true, ..self }
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
        writeln!(report, "{part:<8} {name:<16} {word:<6} {text}")?;
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

/// A folder for trials.
pub(super) fn trials() -> Result<Scratch, DoctorError> {
    let made = Scratch::make(&std::env::temp_dir(), "aspen-doctor-");
    made.map_err(|(path, source)| DoctorError::Folder { path, source })
}

/// What runs virtual machines, and for how many there is room.
pub(super) fn machine_rows() -> Result<Vec<Row>, DoctorError> {
    let mut rows = hypervisor_rows()?;
    let runs = |names: &[&str]| rows.iter().any(|row| names.contains(&row.name) && row.found.is_ok());
    let hypervisor_mib = if runs(&[CLOUD_HYPERVISOR, KVM]) {
        Some(HYPERVISOR_MEMORY_MIB)
    } else {
        runs(&[EMULATED]).then_some(EMULATOR_MEMORY_MIB)
    };
    rows.extend(hypervisor_mib.and_then(|mib| memory_row(memory::free(), mib)));
    Ok(rows)
}

const KVM: &str = "qemu, KVM";
const EMULATED: &str = "qemu, emulated";

/// What runs virtual machines.
fn hypervisor_rows() -> Result<Vec<Row>, DoctorError> {
    let others = [CLOUD_HYPERVISOR, KVM, EMULATED].into_iter().filter_map(|name| is_x86_64("driver", name));
    let others: Vec<Row> = others.collect();
    if !others.is_empty() {
        return Ok(others);
    }
    let log = ProgramLog::open(Path::new("/dev/null"))?;
    let folder = trials()?;
    let found = cloud_hypervisor::find(&log).and_then(|installed| {
        cloud_hypervisor::smallest_guest(&installed, folder.path(), &log)?;
        Ok(format!("{} ran a guest to its end", installed.version))
    });
    let first = Row::new("driver", CLOUD_HYPERVISOR, found.map_err(|error| error.in_short()));
    let qemu = match trial::find(&log) {
        Ok(qemu) => qemu,
        Err(error) => {
            let is_missing = matches!(error, TrialError::Missing);
            let rows = [KVM, EMULATED].map(|name| {
                let row = Row::new("driver", name, Err(error.in_short()));
                if is_missing { row.fix(Fix::Packages("qemu-system-x86")) } else { row }
            });
            // Machines need one of them: packages get the other.
            return Ok([Row { is_replaced: true, ..first }].into_iter().chain(rows).collect());
        }
    };
    let [on_kvm, emulated] =
        [(KVM, Accelerator::Kvm), (EMULATED, Accelerator::Tcg)].map(|(name, accelerator)| {
            let tried = trial::smallest_guest(&qemu, accelerator, folder.path(), &log);
            let found = tried.map(|()| format!("QEMU {} ran a guest to its end", qemu.version));
            Row::new("driver", name, found.map_err(|error| error.in_short()))
        });
    // No package gives a host KVM, and slower machines do what it would.
    let is_replaced = emulated.found.is_ok();
    Ok(vec![Row { is_replaced, ..first }, Row { is_replaced, ..on_kvm }, emulated])
}

/// How many machines of the usual size there is memory for, each with so much for its hypervisor; nothing where the kernel does not
/// say.
fn memory_row(free: Option<Free>, hypervisor_mib: u32) -> Option<Row> {
    let free = free?;
    let count = free.mib / u64::from(MEMORY_MIB_DEFAULT + hypervisor_mib);
    let machines = counted(count, "machine");
    let text = format!("{free} of memory to spare, enough for {machines} of {MEMORY_MIB_DEFAULT} MiB");
    let few =
        || format!("{text}, and topologies have {MACHINES_MIN} and more: end something, or run processes");
    let found = if count >= u64::from(MACHINES_MIN) { Ok(text.clone()) } else { Err(few()) };
    // Processes need less.
    Some(Row::new("driver", "memory", found).replaced())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_that_something_else_does_the_work_of_is_not_wanting() {
        let row = Row::new("driver", "qemu, KVM", Err("no MSR".to_owned()));
        assert_eq!(row.wanting().as_deref(), Some("driver qemu, KVM"));
        assert_eq!(Row { is_replaced: true, ..row }.wanting(), None);
        assert_eq!(Row::new("fabric", "switch", Ok("fast".to_owned())).wanting(), None);
    }

    #[test]
    fn memory_for_three_machines_is_enough() {
        let row = |mib| memory_row(Some(Free { mib, is_of_group: false }), 44).unwrap();
        let text = |mib: u64, count| {
            format!("this host has {mib} MiB of memory to spare, enough for {count} of 256 MiB")
        };
        assert_eq!(row(900).found, Ok(text(900, "3 machines")));
        let few = "and topologies have 3 and more: end something, or run processes";
        assert_eq!(row(599).found, Err(format!("{}, {few}", text(599, "1 machine"))));
        assert!(row(599).wanting().is_none() && memory_row(None, 44).is_none());
    }
}
