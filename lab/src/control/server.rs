//! The lab's end of the control socket: reads calls, has them answered, sends the replies.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::about::Prospect;
use super::lab::Lab;
use super::protocol::{Answer, Call, Failure, FailureKind, Reply, Request, VERSION};
use crate::limits::LOOK_INTERVAL;
use crate::limits::control::{CONTROL_CONNECTIONS_MAX, CONTROL_LINE_BYTES_MAX};

/// Becomes a sender for whoever has to send a reply; when the last sender is gone, the lab may end.
pub(super) type Pending = mpsc::WeakSender<()>;

/// The lab, once its machines are made; closed when there will be none.
pub(super) type Coming = watch::Receiver<Option<Arc<Lab>>>;

/// What every conversation needs.
#[derive(Debug, Clone)]
pub(super) struct Porter {
    /// The lab.
    pub(super) lab: Coming,
    /// What can be said of it before its machines are made.
    pub(super) prospect: Arc<Prospect>,
    /// Turns true when the lab is to end.
    pub(super) stop: Arc<watch::Sender<bool>>,
    /// For those who have to send a reply.
    pub(super) pending: Pending,
}

impl Porter {
    /// Does what is asked for, also where there are no machines yet.
    async fn answer(&self, request: Request) -> Result<Answer, Failure> {
        let mut coming = self.lab.clone();
        let lab = coming.borrow().clone();
        if let Some(lab) = lab {
            return lab.answer(request).await;
        }
        let refused = |text: &str| Failure { kind: FailureKind::Refused, text: text.to_owned() };
        match request {
            Request::Status => Ok(Answer::Status(self.prospect.status(*self.stop.borrow()))),
            Request::Await => match coming.wait_for(Option::is_some).await.map(|lab| lab.clone()) {
                Ok(Some(lab)) => lab.answer(request).await,
                _ => Err(refused("the lab was ended before its machines were made")),
            },
            Request::Down => {
                self.stop.send_replace(true);
                // Either it is closed, or the lab has come just now and can be asked.
                match coming.wait_for(Option::is_some).await.map(|lab| lab.clone()) {
                    Ok(Some(lab)) => lab.answer(request).await,
                    _ => Ok(Answer::Down { problems: Vec::new() }),
                }
            }
            _ => Err(refused("the lab is still making its machines: `lab status` shows how far it is")),
        }
    }
}

/// Answers calls, as long as it is polled.
///
/// # Errors
/// The socket cannot be used.
pub(super) async fn serve(listener: UnixListener, porter: Porter) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let permits = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return Ok(()) };
        // Those that have ended are let go.
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let porter = porter.clone();
                connections.spawn(async move {
                    // Whoever has gone away cannot be told anything.
                    let _ = converse(stream, &porter).await;
                    drop(permit);
                });
            }
            // Descriptors may have run out; some will be closed.
            Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

/// Call and reply in turn, until the other side closes the connection.
async fn converse(mut stream: UnixStream, porter: &Porter) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        let length = (&mut reader).take(CONTROL_LINE_BYTES_MAX).read_line(&mut line).await?;
        if length == 0 {
            return Ok(());
        }
        // Nobody can hold it any more when the lab has ended.
        let Some(_pending) = porter.pending.upgrade() else { return Ok(()) };
        let reply = match read(&line) {
            Ok(call) => Reply::to(porter.answer(call.request).await),
            Err(failure) => Reply::to(Err(failure)),
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        writer.write_all(&text).await?;
        writer.flush().await?;
    }
}

/// A call, if it is one that this version knows.
fn read(line: &str) -> Result<Call, Failure> {
    let failure = |text: String| Failure { kind: FailureKind::Usage, text };
    if !line.ends_with('\n') {
        return Err(failure(format!("a call is one line of JSON of at most {CONTROL_LINE_BYTES_MAX} bytes")));
    }
    let value: serde_json::Value = serde_json::from_str(line)
        .map_err(|error| failure(format!("a call is one line of JSON: {error}")))?;
    match value["version"].as_u64() {
        Some(version) if version == u64::from(VERSION) => {}
        version => {
            let version = version.map_or("none".to_owned(), |version| version.to_string());
            let own = aspen_node::VERSION;
            return Err(failure(format!(
                "the call is of version {version} of the protocol, this lab ({own}) speaks version {VERSION}: use the `lab` \
                 that has started it"
            )));
        }
    }
    serde_json::from_value(value).map_err(|error| failure(format!("no such call: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::about::About;
    use crate::control::protocol::Phase;
    use crate::plan::Plan;
    use crate::scenario::Scenario;

    fn prospect() -> Arc<Prospect> {
        let text = "name: early\nabout: Early.\nnodes: { count: 2 }\nchecks: [raft]\n";
        let plan = Arc::new(Plan::new(&Scenario::parse("early.yaml", text).unwrap(), 1));
        let (directory, driver) = ("/r/early-1".into(), "qemu with tcg".to_owned());
        Arc::new(Prospect::new(About { directory, pid: 7, driver, slowdown: None, publish: None }, plan))
    }

    #[track_caller]
    fn check(line: &str, want: Result<Request, &str>) {
        let got = read(line).map(|call| call.request).map_err(|failure| failure.text);
        assert_eq!(got, want.map_err(str::to_owned));
    }

    #[test]
    fn calls_of_another_version_and_things_that_are_no_calls_are_refused() {
        check("{\"version\":1,\"do\":\"status\"}\n", Ok(Request::Status));
        let other = |version| {
            format!(
                "the call is of version {version} of the protocol, this lab ({}) speaks version 1: use the `lab` that has \
                 started it",
                aspen_node::VERSION
            )
        };
        check("{\"version\":2,\"do\":\"status\"}\n", Err(&other("2")));
        check("{\"do\":\"status\"}\n", Err(&other("none")));
        check("{\"version\":1", Err("a call is one line of JSON of at most 1048576 bytes"));
        check("nonsense\n", Err("a call is one line of JSON: expected ident at line 1 column 2"));
        let unknown = read("{\"version\":1,\"do\":\"dance\"}\n").unwrap_err().text;
        assert!(
            unknown.starts_with("no such call: unknown variant `dance`, expected one of `status`"),
            "{unknown}"
        );
    }

    #[tokio::test]
    async fn before_there_are_machines_a_lab_can_be_seen_waited_for_and_ended_and_nothing_else() {
        let (sender, _calls) = mpsc::channel(1);
        let (announce, coming) = watch::channel(None);
        let stop = Arc::new(watch::Sender::new(false));
        let pending = sender.downgrade();
        let porter = Porter { lab: coming, prospect: prospect(), stop: stop.clone(), pending };
        let Ok(Answer::Status(status)) = porter.answer(Request::Status).await else { panic!("no status") };
        assert_eq!((status.phase, status.nodes.len()), (Phase::Calibrating, 2));
        let early = porter.answer(Request::Kill { nodes: vec!["n1".to_owned()] }).await.unwrap_err();
        assert_eq!(early.text, "the lab is still making its machines: `lab status` shows how far it is");
        let ended = async {
            let _ = stop.subscribe().wait_for(|is_wanted| *is_wanted).await;
            let Ok(Answer::Status(status)) = porter.answer(Request::Status).await else {
                panic!("no status")
            };
            assert_eq!(status.phase, Phase::Stopping);
            drop(announce);
        };
        let (down, waited, ()) =
            tokio::join!(porter.answer(Request::Down), porter.answer(Request::Await), ended);
        assert_eq!(down, Ok(Answer::Down { problems: vec![] }));
        assert_eq!(waited.unwrap_err().text, "the lab was ended before its machines were made");
    }
}
