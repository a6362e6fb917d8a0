//! What a machine's console says to programs: that its node answers, how it ended, and that it had to be started again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aspen_init::report::{self, Exit, Line, NodeExit, Ready};

use crate::limits::machines::CONSOLE_READ_BYTES;

/// Reads a console while it grows, from the machine's last start on.
#[derive(Debug)]
pub struct ConsoleWatch {
    path: PathBuf,
    /// How much of it was read.
    position: u64,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    said: Said,
    began: Instant,
    /// When its node was first seen to answer, since the start.
    ready_after: Option<Duration>,
}

/// What was said since the machine was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The node answers.
    pub ready: Option<Ready>,
    /// The machine goes off.
    pub exit: Option<Exit>,
    /// The first time that the node ended unasked.
    pub node_exit: Option<NodeExit>,
    /// The node answered a second time, and had not ended in between: the machine has started again by itself, as one does
    /// whose kernel panics, where the hypervisor lets it.
    pub has_rebooted: bool,
}

impl ConsoleWatch {
    /// Watches a console that may not be there yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            position: 0,
            partial: Vec::new(),
            said: Said::default(),
            began: Instant::now(),
            ready_after: None,
        }
    }

    /// Forgets what was said: the machine is about to be started. What is on the console now is of an earlier start.
    pub fn begin(&mut self) {
        self.position = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        self.partial.clear();
        self.said = Said::default();
        (self.began, self.ready_after) = (Instant::now(), None);
    }

    /// How long after the start its node was first seen to answer.
    pub fn ready_after(&self) -> Option<Duration> {
        self.ready_after
    }

    /// Reads what has come.
    ///
    /// # Errors
    /// The console cannot be read.
    pub fn look(&mut self) -> io::Result<&Said> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(&self.said),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.position))?;
        let mut bytes = vec![0; CONSOLE_READ_BYTES];
        loop {
            let count = file.read(&mut bytes)?;
            if count == 0 {
                return Ok(&self.said);
            }
            self.position += count as u64;
            self.take(&bytes[..count]);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned();
                match report::parse_line(&line) {
                    Some(Line::Ready(ready)) => {
                        self.said.has_rebooted |= self.said.ready.is_some() && self.said.node_exit.is_none();
                        self.said.ready = Some(ready);
                        self.ready_after.get_or_insert_with(|| self.began.elapsed());
                    }
                    Some(Line::Exit(exit)) => self.said.exit = Some(exit),
                    Some(Line::NodeExit(exit)) => {
                        self.said.node_exit.get_or_insert(exit);
                    }
                    Some(Line::Error(_)) | None => {}
                }
            } else if self.partial.len() > CONSOLE_READ_BYTES {
                // No line of a program is as long; the rest of it is nothing, too.
                self.partial.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use aspen_init::report::Reason;

    use super::*;

    #[test]
    fn lines_are_read_as_they_come_and_forgotten_at_a_start() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("console.log");
        let mut watch = ConsoleWatch::new(&path);
        assert_eq!(watch.look().unwrap(), &Said::default());
        let mut console = File::create(&path).unwrap();
        console.write_all(b"[    0.1] Linux\r\nASPEN-EXIT {\"reason\":\"power-button\",").unwrap();
        assert_eq!(watch.look().unwrap().exit, None);
        console.write_all(b"\"node_exit\":\"code 0\",\"uptime_ms\":9}\r\n").unwrap();
        let exit = Exit { reason: Reason::PowerButton, node_exit: Some("code 0".to_owned()), uptime_ms: 9 };
        assert_eq!(watch.look().unwrap().exit, Some(exit));
        console.write_all(b"ASPEN-EXIT {\"reason\":\"node\",\"node_exit\":null,\"uptime_ms\":9}\n").unwrap();
        watch.begin();
        assert_eq!(watch.look().unwrap(), &Said::default());
        console.write_all(&vec![b'x'; 3 * CONSOLE_READ_BYTES]).unwrap();
        console
            .write_all(b"\nASPEN-EXIT {\"reason\":\"node\",\"node_exit\":null,\"uptime_ms\":9}\n")
            .unwrap();
        let exit = Exit { reason: Reason::Node, node_exit: None, uptime_ms: 9 };
        assert_eq!(watch.look().unwrap().exit, Some(exit));
    }

    #[test]
    fn second_ready_line_tells_of_a_machine_that_has_started_again() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("console.log");
        let ready = Line::Ready(Ready {
            hostname: "n1".to_owned(),
            addresses: Vec::new(),
            version: "1".to_owned(),
            http: "10.0.0.1:80".to_owned(),
            endpoint_id: String::new(),
            kernel_ms: 1,
            init_ms: 1,
            disk_ms: 1,
            node_ms: 1,
            uptime_ms: 4,
        });
        let mut watch = ConsoleWatch::new(&path);
        let mut console = File::create(&path).unwrap();
        writeln!(console, "{ready}").unwrap();
        assert!(!watch.look().unwrap().has_rebooted);
        writeln!(console, "{ready}").unwrap();
        assert!(watch.look().unwrap().has_rebooted);
        // A node that ended has said so, and answers again.
        let mut watch = ConsoleWatch::new(&path);
        let ended = NodeExit { node_exit: "code 1".to_owned(), restarts: 0 };
        std::fs::write(&path, format!("{ready}\n{}\n{ready}\n", Line::NodeExit(ended))).unwrap();
        assert!(!watch.look().unwrap().has_rebooted);
    }
}
