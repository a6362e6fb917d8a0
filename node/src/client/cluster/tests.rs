//! Whom a client asks, and what it never asks twice, with nodes that say what they are told to.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::types::{Command, NodeId};

/// What a node says to method and path: status and body; `None`: it is gone before it says anything.
type Says = dyn Fn(&str) -> Option<(u16, String)> + Send + Sync;

/// A node that notes what it was asked.
struct FakeNode {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
}

impl FakeNode {
    async fn new(says: impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        Self::on(listener, says)
    }

    fn on(
        listener: TcpListener,
        says: impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (noted, says): (_, Arc<Says>) = (asked.clone(), Arc::new(says));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, says.clone(), noted.clone()));
            }
        });
        Self { address, asked, tasks }
    }

    /// What it was asked since this was called last, but for its health.
    fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.into_iter().filter(|request| request != "GET /health").collect()
    }

    /// Nobody is there any more, and nothing is open.
    async fn end(mut self) -> SocketAddr {
        self.tasks.shutdown().await;
        self.address
    }
}

async fn serve(mut stream: TcpStream, says: Arc<Says>, asked: Arc<Mutex<Vec<String>>>) {
    let mut got = Vec::new();
    while stream.read_buf(&mut got).await.is_ok_and(|count| count > 0) {
        let text = String::from_utf8(got.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() < length.map_or(0, |length| length.parse().unwrap()) {
            continue;
        }
        let request = head.split(" HTTP").next().unwrap();
        asked.lock().unwrap().push(request.to_owned());
        let Some((status, body)) = says(request) else { return };
        let answer = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        got.clear();
    }
}

/// Says that a write is done.
fn writes() -> impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static {
    |_| Some((200, json!({ "revision": 7 }).to_string()))
}

/// Says that another one leads.
fn follows(leader: SocketAddr) -> impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static {
    move |_| {
        let hint = json!({ "id": 2, "http": leader.to_string() });
        let error = json!({ "code": "not_leader", "message": "ask it", "leader": hint });
        Some((503, json!({ "error": error }).to_string()))
    }
}

/// An address at which nobody is.
async fn nobody() -> SocketAddr {
    FakeNode::new(writes()).await.end().await
}

fn client(nodes: &[SocketAddr]) -> ClusterClient {
    ClusterClient::new(nodes.to_vec(), Credentials::default())
}

fn set() -> Command {
    Command::Set { key: "k".into(), value: "v".into() }
}

const WRITE: &str = "POST /kv/write";

#[tokio::test]
async fn first_node_that_is_there_is_asked_and_asked_again() {
    let (gone, one, two) = (nobody().await, FakeNode::new(writes()).await, FakeNode::new(writes()).await);
    let mut client = client(&[gone, one.address, two.address]);
    client.write(set()).await.unwrap();
    client.write(set()).await.unwrap();
    assert_eq!((one.asked(), two.asked()), (vec![WRITE.to_owned(); 2], vec![]));
    assert_eq!(client.node(), Some(one.address));
    // What it has shown to nobody another one may be asked.
    one.end().await;
    let mut error = None;
    for _ in 0..2 {
        error = client.write(set()).await.err();
    }
    assert!(error.is_none(), "{error:?}");
    assert!(!two.asked().is_empty());
    two.end().await;
    let mut clone = client.clone();
    let error = clone.write(set()).await.unwrap_err();
    assert!(matches!(&error, ClusterClientError::Unreachable(reasons) if reasons.len() == 3), "{error}");
    assert!(!error.is_unknown());
}

#[tokio::test]
async fn what_may_have_been_written_is_not_asked_again() {
    let (lost, other) = (FakeNode::new(|_| None).await, FakeNode::new(writes()).await);
    let mut client = client(&[lost.address, other.address]);
    let error = client.write(set()).await.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    assert_eq!((lost.asked(), other.asked()), (vec![WRITE.to_owned()], vec![]));
    // What is asked next is asked of the others first.
    client.write(set()).await.unwrap();
    assert_eq!((lost.asked(), other.asked()), (vec![], vec![WRITE.to_owned()]));

    let late = |_: &str| {
        let error = json!({ "code": "timeout", "message": "not finished" });
        Some((504, json!({ "error": error }).to_string()))
    };
    let (late, strange) = (FakeNode::new(late).await, FakeNode::new(|_| Some((200, "<html>".into()))).await);
    let mut client = self::client(&[late.address, other.address]);
    let error = client.write(set()).await.unwrap_err();
    assert_eq!((error.code(), error.is_unknown()), (Some("timeout"), true));
    assert_eq!((late.asked(), other.asked()), (vec![WRITE.to_owned()], vec![]));
    let error = self::client(&[strange.address, other.address]).write(set()).await.unwrap_err();
    assert!(matches!(error, ClusterClientError::Strange { node, .. } if node == strange.address), "{error}");
    assert!(error.is_unknown() && other.asked().is_empty());
}

#[tokio::test]
async fn node_that_cannot_serve_is_asked_last_next_time() {
    let alone = |_: &str| Some((503, r#"{"error":{"code":"no_quorum","message":"m"}}"#.to_owned()));
    let (alone, other) = (FakeNode::new(alone).await, FakeNode::new(writes()).await);
    let mut client = client(&[alone.address, other.address]);
    assert_eq!(client.write(set()).await.unwrap_err().code(), Some("no_quorum"));
    client.write(set()).await.unwrap();
    assert_eq!((alone.asked().len(), other.asked().len()), (1, 1));
    assert_eq!(client.nodes(), [other.address, alone.address]);
}

#[tokio::test]
async fn next_node_is_asked_where_one_belongs_to_no_cluster() {
    for code in ["removed", "joining"] {
        let refuses = move |_: &str| Some((503, format!(r#"{{"error":{{"code":"{code}","message":"m"}}}}"#)));
        let (outside, other) = (FakeNode::new(refuses).await, FakeNode::new(writes()).await);
        let mut client = client(&[outside.address, other.address]);
        client.write(set()).await.unwrap();
        assert_eq!((outside.asked().len(), other.asked().len()), (1, 1));
        assert_eq!(client.nodes(), [other.address, outside.address]);
        let client = self::client(&[outside.address, nobody().await]);
        let error = client.clone().write(set()).await.unwrap_err();
        assert_eq!((error.code(), error.is_unknown()), (Some(code), false));
        let error = client.backup(Consistency::Stale).await.unwrap_err();
        assert_eq!(error.code(), Some(code));
    }
}

#[tokio::test]
async fn leader_is_asked_as_often_as_it_may_change_and_no_more() {
    let promote = "POST /cluster/promote-learner";
    let leader =
        FakeNode::new(|_| Some((409, r#"{"error":{"code":"change_in_progress","message":"m"}}"#.into())))
            .await;
    let follower = FakeNode::new(follows(leader.address)).await;
    let mut client = client(&[follower.address]);
    for want in [1, 0] {
        let error = client.promote_learner(NodeId(4), false).await.unwrap_err();
        let refusal = error.refusal().unwrap();
        assert_eq!(
            (refusal.status, refusal.is("change_in_progress"), refusal.is_unknown),
            (409, true, false)
        );
        // It stays with the leader.
        assert_eq!((follower.asked().len(), leader.asked()), (want, vec![promote.to_owned()]));
    }

    // Each says that the other one leads, or somebody who is not there.
    let (one, two) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let [at_one, at_two] = [&one, &two].map(|listener| listener.local_addr().unwrap());
    let (one, two) = (FakeNode::on(one, follows(at_two)), FakeNode::on(two, follows(at_one)));
    let error = self::client(&[at_one]).promote_learner(NodeId(4), false).await.unwrap_err();
    assert_eq!(
        error.refusal().and_then(|refusal| refusal.leader.as_ref()).map(|leader| leader.id),
        Some(NodeId(2))
    );
    assert_eq!((one.asked().len(), two.asked().len()), (1, 1));
    let lonely = FakeNode::new(follows(nobody().await)).await;
    let error = self::client(&[lonely.address]).promote_learner(NodeId(4), false).await.unwrap_err();
    assert_eq!((error.code(), lonely.asked().len()), (Some("not_leader"), 1));
}
