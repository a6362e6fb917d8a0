//! A command's end of the control socket: a call, and the reply to it.
//!
//! How long a reply takes is for the lab to know: a node that is started on an emulated machine takes minutes. So it is waited
//! for as long as the connection lives, and whoever waits is told that.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::client::ClientError;
use super::protocol::{Answer, Call, Outcome, Reply, Request, Status, VERSION};
use crate::limits::control::{CONTROL_LINE_BYTES_MAX, CONTROL_WORD_AFTER};

/// A connection to a lab.
#[derive(Debug)]
pub(super) struct Connection {
    reader: BufReader<UnixStream>,
    /// After how long whoever waits is told so.
    word_after: Duration,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { reader: BufReader::new(stream), word_after: CONTROL_WORD_AFTER }
    }

    /// Asks, and waits for the answer as long as the lab lives; says so when that takes long.
    ///
    /// # Errors
    /// There is none, or it says why not.
    pub(super) fn ask(&mut self, request: Request) -> Result<Answer, ClientError> {
        self.ask_telling(request, &mut |text| {
            // A terminal that is closed cannot be told anything.
            let _ = writeln!(io::stderr(), "{text}");
        })
    }

    fn ask_telling(&mut self, request: Request, tell: &mut dyn FnMut(&str)) -> Result<Answer, ClientError> {
        let word_after = self.word_after;
        self.call(request, Some(word_after))?;
        let mut line = Vec::new();
        if !self.read_line(&mut line)? {
            tell("the lab is still at it; Ctrl-C ends this command, and not what the lab does");
            self.reader.get_ref().set_read_timeout(None).map_err(ClientError::Lost)?;
            while !self.read_line(&mut line)? {}
        }
        answer(&line)
    }

    /// Asks how the lab is.
    ///
    /// # Errors
    /// There is no answer.
    pub(super) fn status(&mut self) -> Result<Status, ClientError> {
        of_status(self.ask(Request::Status)?)
    }

    /// Asks how the lab is, and waits no longer than that.
    ///
    /// # Errors
    /// There is no answer in time.
    pub(super) fn status_within(&mut self, within: Duration) -> Result<Status, ClientError> {
        self.call(Request::Status, Some(within))?;
        let mut line = Vec::new();
        if self.read_line(&mut line)? { of_status(answer(&line)?) } else { Err(ClientError::Silent(within)) }
    }

    /// Waits for the cluster to serve, without a word: what goes on is told elsewhere.
    ///
    /// # Errors
    /// It will not.
    pub(super) fn await_serving(&mut self) -> Result<Status, ClientError> {
        of_status(self.ask_telling(Request::Await, &mut |_| {})?)
    }

    fn call(&mut self, request: Request, within: Option<Duration>) -> Result<(), ClientError> {
        let call = Call { version: VERSION, request };
        let mut line = serde_json::to_vec(&call).map_err(ClientError::Strange)?;
        line.push(b'\n');
        let stream = self.reader.get_mut();
        stream.set_read_timeout(within).map_err(ClientError::Lost)?;
        stream.set_write_timeout(within).map_err(ClientError::Lost)?;
        stream.write_all(&line).map_err(ClientError::Lost)
    }

    /// Goes on to read a line; whether it is whole. If not, it was waited for as long as that is allowed.
    fn read_line(&mut self, line: &mut Vec<u8>) -> Result<bool, ClientError> {
        let left = CONTROL_LINE_BYTES_MAX.saturating_sub(line.len() as u64);
        match (&mut self.reader).take(left).read_until(b'\n', line) {
            Ok(_) if line.ends_with(b"\n") => Ok(true),
            // The lab has ended, or says more than any lab does.
            Ok(_) => Err(ClientError::Lost(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if is_early(&error) => Ok(false),
            Err(error) => Err(ClientError::Lost(error)),
        }
    }

    /// Waits so long, and says whether the lab has ended by then.
    pub(super) fn has_ended(&mut self, within: Duration) -> bool {
        let waits = self.reader.get_ref().set_read_timeout(Some(within));
        let mut byte = [0];
        match waits.and_then(|()| self.reader.read(&mut byte)) {
            // It says nothing unless it is asked.
            Ok(length) => length == 0,
            Err(error) => !is_early(&error),
        }
    }
}

/// Whether nothing is wrong but that nothing has come yet.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn answer(line: &[u8]) -> Result<Answer, ClientError> {
    match serde_json::from_slice::<Reply>(line).map_err(ClientError::Strange)?.outcome {
        Outcome::Ok(answer) => Ok(answer),
        Outcome::Error(failure) => Err(ClientError::Failed(failure)),
    }
}

fn of_status(answer: Answer) -> Result<Status, ClientError> {
    match answer {
        Answer::Status(status) => Ok(status),
        _ => Err(ClientError::Lost(io::ErrorKind::InvalidData.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn lab_that_ends_is_noticed_and_one_that_is_silent_is_not_taken_for_it() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut lab = Connection::new(near);
        assert!(!lab.has_ended(Duration::from_millis(1)));
        let silent = lab.status_within(Duration::from_millis(1));
        assert!(matches!(silent, Err(ClientError::Silent(_))), "{silent:?}");
        drop(far);
        assert!(lab.has_ended(Duration::from_millis(1)));
        assert!(matches!(lab.ask(Request::Status), Err(ClientError::Lost(_))));
    }

    /// There was a limit of two minutes once, less than an emulated machine may take to be started.
    #[test]
    fn answer_that_takes_long_is_waited_for_with_a_word() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut lab = Connection { word_after: Duration::from_millis(10), ..Connection::new(near) };
        let (told, waits) = std::sync::mpsc::sync_channel(1);
        let reply = serde_json::to_vec(&Reply::to(Ok(Answer::Down { problems: vec![] }))).unwrap();
        let (first, rest) = reply.split_at(7);
        thread::scope(|scope| {
            scope.spawn(move || {
                // A part of it that comes early is not lost.
                far.write_all(first).unwrap();
                let text: String = waits.recv().unwrap();
                assert!(text.starts_with("the lab is still at it; "), "{text}");
                far.write_all(rest).unwrap();
                far.write_all(b"\n").unwrap();
            });
            let answer = lab.ask_telling(Request::Down, &mut |text| told.send(text.to_owned()).unwrap());
            assert_eq!(answer.unwrap(), Answer::Down { problems: vec![] });
        });
    }
}
