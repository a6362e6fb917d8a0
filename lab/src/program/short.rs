//! Helpers: programs that run to their end while the lab waits, and whose output is read.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use super::output::read_end;
use super::running::own;
use super::{Program, ProgramError, ProgramLog, Running};
use crate::limits::TAIL_BYTES_MAX;

/// What a short program wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortOutput {
    /// The end of its output.
    pub stdout: String,
    /// The end of its error output.
    pub stderr: String,
}

impl Program {
    /// Runs a helper to its end, in the caller's namespace, and returns what it wrote.
    ///
    /// # Errors
    /// It cannot be started, does not end with success, or not within `limit`: then it is killed.
    pub fn run_short(&self, limit: Duration, log: &ProgramLog) -> Result<ShortOutput, ProgramError> {
        self.run_to_end(None, TAIL_BYTES_MAX, limit, log)
    }

    /// The same, with something to read for it. Of its output up to `output_bytes_max` bytes are kept.
    ///
    /// # Errors
    /// As [`run_short`](Self::run_short). A helper that does not read to the end is judged by how it ends.
    pub fn run_with_input(
        &self,
        input: &[u8],
        output_bytes_max: usize,
        limit: Duration,
        log: &ProgramLog,
    ) -> Result<ShortOutput, ProgramError> {
        self.run_to_end(Some(input), output_bytes_max, limit, log)
    }

    fn run_to_end(
        &self,
        input: Option<&[u8]>,
        output_bytes_max: usize,
        limit: Duration,
        log: &ProgramLog,
    ) -> Result<ShortOutput, ProgramError> {
        let started = |source| ProgramError::Start { command: self.to_string(), source };
        let mut command = self.command();
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = own(|| command.spawn()).map_err(started)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let mut running = Running::new(self.to_string(), PathBuf::from("/dev/null"), child)?;
        log.record(running.pid(), &running.command)?;
        let (ended, output) = thread::scope(|scope| {
            let stdout = scope.spawn(|| read_end(stdout, output_bytes_max));
            let stderr = scope.spawn(|| read_end(stderr, TAIL_BYTES_MAX));
            // Its end closes the pipe.
            let writer = input.zip(stdin).map(|(input, mut pipe)| scope.spawn(move || pipe.write_all(input)));
            let mut ended = running.wait(limit);
            if ended.is_err() {
                // Killing it closes its pipes, which ends the readers and the writer.
                ended = running.kill().and(ended);
            }
            // Who has read enough closes the pipe early.
            let _ = writer.map(thread::ScopedJoinHandle::join);
            let text = |reader: thread::ScopedJoinHandle<'_, String>| reader.join().unwrap_or_default();
            (ended, ShortOutput { stdout: text(stdout), stderr: text(stderr) })
        });
        match ended {
            Ok(exit) if exit.is_success() => Ok(output),
            Ok(exit) => Err(ProgramError::Failed { command: self.to_string(), exit, stderr: output.stderr }),
            Err(ProgramError::TimedOut { command, limit, .. }) => {
                Err(ProgramError::TimedOut { command, limit, stderr: output.stderr })
            }
            Err(other) => Err(other),
        }
    }
}
