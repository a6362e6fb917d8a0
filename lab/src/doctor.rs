//! `lab doctor`: what this host can do, found out by doing it, and the commands that get what is missing.

mod inner;
mod rows;

use std::io::{self, BufRead, BufReader, Write};
use std::time::Duration;

use self::inner::Finding;
pub use self::inner::run_inner;
use self::rows::{Row, hypervisor_rows, image_row, write_rows};
use crate::fabric::FabricError;
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
    /// The pipe between the two processes.
    #[error("cannot report from inside the sandbox")]
    Report(#[from] io::Error),
    /// The inner process did not come to its end.
    #[error("the sandbox ended with {0}")]
    Ended(Exit),
}

/// Looks, and writes a table to `report`. With `fix` the commands that get what is missing are shown and run, and then it looks
/// again.
///
/// # Errors
/// This host cannot run scenarios with any driver, or a command to mend that has failed.
pub fn run(hold: bool, fix: bool, report: &mut impl Write) -> Result<(), DoctorError> {
    let (rows, outcome) = look(hold, report)?;
    let commands = missing(&rows, outcome.as_ref().err());
    if commands.is_empty() {
        return outcome;
    }
    let how = if fix {
        "running, to get what is missing:"
    } else {
        "what is missing, `lab doctor --fix` gets by running:"
    };
    writeln!(report, "\n{how}")?;
    for command in &commands {
        writeln!(report, "  {command}")?;
    }
    if !fix {
        return outcome;
    }
    report.flush()?;
    for command in commands {
        run_command(&command)?;
    }
    writeln!(report)?;
    look(false, report)?.1
}

/// One look: the rows of the table, which is written, and whether scenarios can be run.
fn look(hold: bool, report: &mut impl Write) -> Result<(Vec<Row>, Result<(), DoctorError>), DoctorError> {
    let mut rows = Vec::new();
    let outcome = sandbox_rows(hold, &mut rows, report);
    if outcome.is_err() {
        let missing = "nothing runs without the sandbox, see below".to_owned();
        rows.push(Row::new("driver", "process", Err(missing)));
        write_rows(&rows[rows.len() - 1..], report)?;
    }
    let more: Vec<Row> = hypervisor_rows()?.into_iter().chain([image_row()?]).collect();
    write_rows(&more, report)?;
    rows.extend(more);
    Ok((rows, outcome))
}

/// What works inside the sandbox, each as soon as it is known.
fn sandbox_rows(hold: bool, rows: &mut Vec<Row>, report: &mut impl Write) -> Result<(), DoctorError> {
    let hold = hold.then(|| HOLD.into());
    let mut sandbox = sandbox::start(std::iter::once(INNER.into()).chain(hold))?;
    if let Some(events) = sandbox.take_events() {
        for line in BufReader::new(events).lines() {
            // A line that is cut off is the end of the inner process, which is told below.
            let Ok(finding) = serde_json::from_str(&line?) else { break };
            rows.push(row(&finding));
            write_rows(&rows[rows.len() - 1..], report)?;
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
                "a probe went unanswered, {frames_dropped} frames dropped; after the heal one took {rtt_us} us"
            );
            ("fault", "partition", found)
        }
        Finding::Latency { rtt_us } => (
            "fault",
            "link",
            format!("a probe over {} ms each way took {rtt_us} us", DOCTOR_LATENCY.as_millis()),
        ),
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
    let packages: Vec<&str> = rows.iter().filter_map(|row| row.package).collect();
    let mut commands: Vec<String> = sandbox.into_iter().map(str::to_owned).collect();
    if !packages.is_empty() {
        let sudo = if nix::unistd::geteuid().is_root() { "" } else { "sudo " };
        commands.push(format!("{sudo}apt-get update"));
        commands.push(format!("{sudo}apt-get install --yes {}", packages.join(" ")));
    }
    commands
}

/// Runs a command of words without quotes, on the user's terminal.
fn run_command(command: &str) -> Result<(), DoctorError> {
    let mut words = command.split(' ');
    let program = Program::new(words.next().unwrap_or_default()).args(words).inherit_environment();
    let exit = program.run_in_place()?;
    if exit.is_success() { Ok(()) } else { Err(DoctorError::Fix { command: command.to_owned(), exit }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_are_missing_are_named_in_one_command() {
        let mut rows = vec![
            Row::new("driver", "qemu", Err("not installed".to_owned())).package("qemu-system-x86"),
            Row::new("image", "build", Err("no mke2fs".to_owned())).package("e2fsprogs"),
            Row::new("fabric", "switch", Ok("fast".to_owned())),
        ];
        let commands = missing(&rows, None);
        assert!(commands[0].ends_with("apt-get update"), "{commands:?}");
        assert!(commands[1].ends_with("apt-get install --yes qemu-system-x86 e2fsprogs"), "{commands:?}");
        rows.drain(..2);
        assert!(missing(&rows, None).is_empty());
    }
}
