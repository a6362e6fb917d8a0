//! `lab doctor`: what this host can do, found out by doing it, and the commands that get what is missing.

mod image;
mod inner;
mod kernel;
mod rows;

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::time::Duration;

use self::inner::Finding;
pub use self::inner::run_inner;
use self::rows::{Fix, Row, machine_rows, write_rows};
use crate::check::counted;
use crate::fabric::FabricError;
use crate::fabric::kernel::KernelError;
use crate::image::workshop::WorkshopError;
use crate::limits::{DOCTOR_ANSWER_MAX, DOCTOR_LATENCY};
use crate::machine::{MachineError, ProbeError};
use crate::program::{Exit, Program, ProgramError};
use crate::sandbox::{self, SandboxError};

/// First argument of the inner process of `lab doctor`.
pub const INNER: &str = "doctor";
/// Keeps the sandbox until it is stopped; for those who want to look around in it.
pub const HOLD: &str = "--hold";

/// Why `lab doctor` found something missing.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// No sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The inner process could not be waited for.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The switch.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// The kernel's fabric.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A probe that had to be answered was not.
    #[error("a probe over a whole link failed")]
    Probe(#[from] ProbeError),
    /// A cut that cuts nothing.
    #[error("a probe over a cut link was answered")]
    CutIgnored,
    /// A slow link that is not slow.
    #[error("a probe over a link of {DOCTOR_LATENCY:?} each way took {0:?}")]
    LatencyIgnored(Duration),
    /// A pause that freezes nobody.
    #[error("a process that was told to stand still does not")]
    PauseIgnored,
    /// A command that was to get what is missing.
    #[error("`{command}` ended with {exit}: run it by hand to see why")]
    Fix {
        /// As a shell takes it.
        command: String,
        /// How it ended.
        exit: Exit,
    },
    /// That command does not start.
    #[error("cannot start `{command}`: get what is missing by the means of this system, README.md names it")]
    FixStart {
        /// As a shell takes it.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// Everything was done, and it is not enough.
    #[error("still missing: {}; the table says why, and no command that `--fix` knows gets it", .0.join(", "))]
    StillMissing(Vec<String>),
    /// The table.
    #[error("cannot write the table")]
    Table(#[source] io::Error),
    /// The pipe between the two processes, at its inner end.
    #[error("cannot report from inside the sandbox")]
    Report(#[source] io::Error),
    /// The same pipe, at its outer end.
    #[error("cannot read what is reported from inside the sandbox")]
    Reported(#[source] io::Error),
    /// A folder for trials.
    #[error("cannot make {}, where things are tried out", path.display())]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file in it.
    #[error(transparent)]
    Workshop(WorkshopError),
    /// The inner process did not come to its end.
    #[error("the sandbox ended with {0}")]
    Ended(Exit),
}

impl DoctorError {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Sandbox(error) if error.is_refused() => 3,
            _ => 1,
        }
    }
}

/// Looks, and writes a table to `report`. With `fix` the commands that get what is missing are shown and run, and then it looks
/// again.
///
/// # Errors
/// This host cannot run scenarios with any driver, a command to mend that has failed, or with `fix` something is missing in the
/// end.
pub fn run(hold: bool, fix: bool, report: &mut impl Write) -> Result<(), DoctorError> {
    let (rows, outcome) = look(hold, report)?;
    let commands = missing(&rows, outcome.as_ref().err());
    if commands.is_empty() {
        return conclude(&rows, outcome, fix);
    }
    let how = if fix {
        "running, to get what is missing:"
    } else {
        "what is missing, `lab doctor --fix` gets by running:"
    };
    let list: Vec<String> = commands.iter().map(|command| format!("  {command}\n")).collect();
    write!(report, "\n{how}\n{}", list.concat()).map_err(DoctorError::Table)?;
    if !fix {
        return outcome;
    }
    report.flush().map_err(DoctorError::Table)?;
    for command in commands {
        run_command(&command)?;
    }
    writeln!(report).map_err(DoctorError::Table)?;
    let (rows, outcome) = look(false, report)?;
    conclude(&rows, outcome, fix)
}

/// What came of it: who has asked for everything is told what there is not.
fn conclude(rows: &[Row], outcome: Result<(), DoctorError>, fix: bool) -> Result<(), DoctorError> {
    outcome?;
    let wanting: Vec<String> = rows.iter().filter_map(Row::wanting).collect();
    if fix && !wanting.is_empty() { Err(DoctorError::StillMissing(wanting)) } else { Ok(()) }
}

/// One look: the rows of the table, which is written, and whether scenarios can be run.
fn look(hold: bool, report: &mut impl Write) -> Result<(Vec<Row>, Result<(), DoctorError>), DoctorError> {
    let mut rows = Vec::new();
    let outcome = sandbox_rows(hold, &mut rows, report);
    if outcome.is_err() {
        let missing = "nothing runs without the sandbox, see below".to_owned();
        rows.push(Row::new("driver", "process", Err(missing)));
        write_rows(&rows[rows.len() - 1..], report).map_err(DoctorError::Table)?;
    }
    for find in [machine_rows, image::rows] {
        let more = find()?;
        write_rows(&more, report).map_err(DoctorError::Table)?;
        rows.extend(more);
    }
    Ok((rows, outcome))
}

/// What works inside the sandbox, each as soon as it is known.
fn sandbox_rows(hold: bool, rows: &mut Vec<Row>, report: &mut impl Write) -> Result<(), DoctorError> {
    let hold = hold.then(|| HOLD.into());
    let mut sandbox = sandbox::start(std::iter::once(INNER.into()).chain(hold))?;
    if let Some(events) = sandbox.take_events() {
        for line in BufReader::new(events).lines() {
            // A line that is cut off is the end of the inner process, which is told below.
            let line = line.map_err(DoctorError::Reported)?;
            let Ok(finding) = serde_json::from_str(&line) else { break };
            rows.push(row(&finding));
            write_rows(&rows[rows.len() - 1..], report).map_err(DoctorError::Table)?;
        }
    }
    match sandbox.wait(DOCTOR_ANSWER_MAX)? {
        Exit::Code(0) => Ok(()),
        exit => Err(DoctorError::Ended(exit)),
    }
}

fn row(finding: &Finding) -> Row {
    let (part, name, found) = match finding {
        Finding::Sandbox { pid } => ("driver", "process", format!("namespaces of its own, pid {pid} inside")),
        Finding::Probe { rtt_us } => ("fabric", "switch", format!("a probe took {rtt_us} us")),
        Finding::Cut { frames_dropped, rtt_us } => {
            let found = format!(
                "a probe went unanswered, {} dropped; after the heal one took {rtt_us} us",
                counted(*frames_dropped, "frame")
            );
            ("fault", "partition", found)
        }
        Finding::Latency { rtt_us } => (
            "fault",
            "link",
            format!("a probe over {} ms each way took {rtt_us} us", DOCTOR_LATENCY.as_millis()),
        ),
        Finding::Kernel(finding) => return kernel::row(finding),
        Finding::Pause => ("fault", "pause", "a process stood still and went on".to_owned()),
        Finding::Kill { exit } => ("fault", "kill", format!("a process ended by {exit}")),
        Finding::Holding => ("holding", "", "until stopped".to_owned()),
    };
    Row::new(part, name, Ok(found))
}

/// The commands that get what is missing, each once.
fn missing(rows: &[Row], error: Option<&DoctorError>) -> Vec<String> {
    let sandbox = match error {
        Some(DoctorError::Sandbox(error)) => error.command(),
        _ => None,
    };
    let fixes: Vec<Fix> = rows.iter().filter_map(|row| row.fix).collect();
    let mut packages: Vec<&str> = Vec::new();
    for fix in &fixes {
        if let Fix::Packages(names) = fix {
            packages.extend(names.split(' ').filter(|name| !packages.contains(name)).collect::<Vec<_>>());
        }
    }
    let mut commands: Vec<String> = sandbox.into_iter().map(str::to_owned).collect();
    let sudo = if nix::unistd::geteuid().is_root() { "" } else { "sudo " };
    if !fixes.is_empty() {
        commands.push(format!("{sudo}apt-get update"));
    }
    if !packages.is_empty() {
        // Nothing that is here goes for it, and nothing comes that nobody asked for.
        commands.push(format!(
            "{sudo}apt-get install --yes --no-remove --no-upgrade --no-install-recommends {}",
            packages.join(" ")
        ));
    }
    commands
}

/// Runs a command of words without quotes, on the user's terminal.
fn run_command(command: &str) -> Result<(), DoctorError> {
    let mut words = command.split(' ');
    let program = Program::new(words.next().unwrap_or_default()).args(words).inherit_environment();
    let started = program.run_in_place();
    let exit = started.map_err(|source| DoctorError::FixStart { command: command.to_owned(), source })?;
    if exit.is_success() { Ok(()) } else { Err(DoctorError::Fix { command: command.to_owned(), exit }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_are_missing_are_named_in_one_command_each_once() {
        let mut rows = vec![
            Row::new("driver", "qemu, KVM", Err("not installed".to_owned()))
                .fix(Fix::Packages("qemu-system-x86")),
            Row::new("driver", "qemu, emulated", Err("not installed".to_owned()))
                .fix(Fix::Packages("qemu-system-x86")),
            Row::new("image", "programs", Err("no linker".to_owned())).fix(Fix::Packages("gcc libc6-dev")),
            Row::new("fabric", "switch", Ok("fast".to_owned())),
        ];
        let commands = missing(&rows, None);
        assert_eq!(commands.len(), 2);
        assert!(commands[0].ends_with("apt-get update"), "{commands:?}");
        assert!(commands[1].ends_with(" qemu-system-x86 gcc libc6-dev"), "{commands:?}");
        assert!(commands[1].contains("apt-get install --yes --no-remove --no-upgrade "), "{commands:?}");
        rows.drain(..3);
        assert!(missing(&rows, None).is_empty());
        rows.push(Row::new("image", "kernel", Err("unknown".to_owned())).fix(Fix::Index));
        let commands = missing(&rows, None);
        assert!(commands.len() == 1 && commands[0].ends_with("apt-get update"), "{commands:?}");
    }

    /// `--fix` once ended with 0 where nothing was mended, since the row that was wrong had no command.
    #[test]
    fn fix_that_leaves_something_missing_is_no_success() {
        let rows = [
            Row::new("image", "programs", Err("no Rust".to_owned())),
            Row::new("fabric", "switch", Ok("fast".to_owned())),
        ];
        let left = conclude(&rows, Ok(()), true).unwrap_err();
        assert_eq!(
            (left.exit_code(), left.to_string().as_str()),
            (
                1,
                "still missing: image programs; the table says why, and no command that `--fix` knows gets it"
            )
        );
        assert!(conclude(&rows, Ok(()), false).is_ok(), "scenarios can be run, as processes");
        assert!(conclude(&rows[1..], Ok(()), true).is_ok());
        let broken = conclude(&rows[1..], Err(DoctorError::CutIgnored), true);
        assert!(matches!(broken, Err(DoctorError::CutIgnored)));
    }

    #[test]
    fn command_that_fails_or_is_not_there_is_told() {
        let failed = run_command("false").unwrap_err();
        assert_eq!(
            (failed.exit_code(), failed.to_string().as_str()),
            (1, "`false` ended with exit code 1: run it by hand to see why")
        );
        let missing = run_command("no-such-program-anywhere --yes").unwrap_err();
        let want = "cannot start `no-such-program-anywhere --yes`: get what is missing by the means of this system, \
                    README.md names it";
        assert_eq!((missing.exit_code(), missing.to_string().as_str()), (1, want));
    }
}
