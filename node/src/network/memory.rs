//! A network in memory: the nodes of one process speak over links that can be slow, or cut in either direction, or as a simulation
//! says ([`LinkModel`]).
//!
//! A link loses nothing for good, as a QUIC connection does: what is sent over a link that is cut comes once it is whole
//! again, or is given up by whoever waits for the answer.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use irpc::channel::mpsc;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::rpc::{Confirmed, KeepLease, ReadIndex, StreamAppended};
use super::snapshot::{self, InstallSnapshot, SnapshotError};
use super::{Appended, Delivery, Peer, RaftService, Transport, TransportError, millis};
use crate::api::{ApiError, WriteResult};
use crate::host::{Host, Hosted, hosted, watch};
use crate::limits::{APPEND_PATIENCE, APPENDS_AHEAD_MAX, DIAL_BACKOFF, SNAPSHOT_CHUNK_BYTES};
use crate::storage::entry::entry_size;
use crate::storage::snapshot::SnapshotFile;
use crate::types::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, Vote, VoteRequest, VoteResponse,
};
use crate::types::{EncodedCommand, NodeId};

/// About the bytes of a message, besides the entries in it.
const MESSAGE_BYTES: u64 = 200;

/// One direction between two nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryLink {
    /// Whether nothing comes through.
    pub is_cut: bool,
    /// How long each message takes.
    pub delay: Duration,
}

/// Those that differ from the default, by sender and receiver.
type Links = BTreeMap<(NodeId, NodeId), MemoryLink>;

/// What a simulation does to messages.
pub trait LinkModel: Debug + Send + Sync {
    /// What becomes of a message of about so many bytes that sets out now.
    fn send(&self, from: NodeId, to: NodeId, bytes: u64) -> Passage;

    /// Whether a message arrives that was under way; called once, when its time has come.
    fn arrives(&self, from: NodeId, to: NodeId, flight: Flight) -> bool;
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It arrives after so long, unless something happens meanwhile.
    After(Duration, Flight),
    /// It is lost, and sent once more after so long.
    Again(Duration),
}

/// A message under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flight {
    /// Whatever the model knows it by.
    pub number: u64,
    /// About its bytes.
    pub bytes: u64,
    /// How long it takes.
    pub took: Duration,
}

/// Those that can be reached.
type Nodes = BTreeMap<NodeId, Reached>;

/// As long as a sender has it, it sends once more what was lost.
#[derive(Debug)]
struct Line;

/// A node, and the machine of a simulation that it is on.
#[derive(Clone)]
struct Reached {
    service: Arc<dyn RaftService>,
    host: Option<Host>,
}

/// Brings the messages of nodes to each other. Clones share it.
#[derive(Clone)]
pub struct AspenRouter {
    nodes: watch::Sender<Nodes>,
    links: watch::Sender<Links>,
    /// What counts in place of these.
    model: Option<Arc<dyn LinkModel>>,
    /// What nodes do on behalf of others.
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Default for AspenRouter {
    fn default() -> Self {
        let (nodes, links) = (watch::Sender::new(Nodes::new()), watch::Sender::new(Links::new()));
        Self { nodes, links, model: None, tasks: Arc::default() }
    }
}

impl Debug for AspenRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<NodeId> = self.nodes.borrow().keys().copied().collect();
        f.debug_struct("AspenRouter")
            .field("nodes", &nodes)
            .field("links", &*self.links.borrow())
            .finish_non_exhaustive()
    }
}

impl AspenRouter {
    /// A network of which a simulation says what it does to messages.
    pub fn over(model: Arc<dyn LinkModel>) -> Self {
        Self { model: Some(model), ..Self::default() }
    }

    /// How node `from` reaches the others.
    pub fn transport(&self, from: NodeId) -> MemoryTransport {
        MemoryTransport { from, router: self.clone() }
    }

    /// Lets a node be reached, from now on, on the machine where this is done.
    pub fn add(&self, id: NodeId, service: Arc<dyn RaftService>) {
        let reached = Reached { service, host: Host::current() };
        self.nodes.send_modify(|nodes| drop(nodes.insert(id, reached)));
    }

    /// Takes a node away: it is unreachable, and streams to it end.
    pub fn remove(&self, id: NodeId) {
        self.nodes.send_modify(|nodes| drop(nodes.remove(&id)));
    }

    /// Changes one direction of a link.
    pub fn set_link(&self, from: NodeId, to: NodeId, link: MemoryLink) {
        self.change(|links| {
            links.insert((from, to), link);
        });
    }

    /// Has each message between any two of these nodes take so long.
    pub fn set_delay(&self, nodes: &[NodeId], delay: Duration) {
        self.change(|links| {
            for from in nodes {
                for to in nodes.iter().filter(|to| *to != from) {
                    links.entry((*from, *to)).or_default().delay = delay;
                }
            }
        });
    }

    /// Cuts every link from one group to another, both ways. Those that are cut already stay so.
    pub fn cut_between(&self, group: &[NodeId], others: &[NodeId]) {
        self.change(|links| {
            for one in group {
                for other in others.iter().filter(|other| *other != one) {
                    links.entry((*one, *other)).or_default().is_cut = true;
                    links.entry((*other, *one)).or_default().is_cut = true;
                }
            }
        });
    }

    /// Makes all links whole again. What was slow stays slow.
    pub fn heal(&self) {
        self.change(|links| links.values_mut().for_each(|link| link.is_cut = false));
    }

    /// Does something on a node's machine, whether anybody waits for it or not.
    fn spawn<T: Send + 'static>(
        &self,
        host: Option<Host>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (done, outcome) = oneshot::channel();
        let mut tasks = self.tasks.lock().expect("nothing panics while it holds this lock");
        while tasks.try_join_next().is_some() {}
        // Whoever has asked may be gone.
        tasks.spawn(Hosted::on(host, async move { drop(done.send(work.await)) }));
        outcome
    }

    fn change(&self, change: impl FnOnce(&mut Links)) {
        self.links.send_modify(change);
    }

    /// Has a message of about so many bytes on its way, which is nobody's machine's: it arrives also where its sender ends meanwhile.
    fn carry<T: Send + 'static>(
        &self,
        line: &Weak<Line>,
        (from, to): (NodeId, NodeId),
        bytes: u64,
        message: T,
    ) -> oneshot::Receiver<Option<T>> {
        let (router, line) = (self.clone(), line.clone());
        self.spawn(None, async move { router.cross(&line, (from, to), bytes).await.then_some(message) })
    }

    /// Returns once a message of about so many bytes would have come through, or would have to be sent once more and nobody is there any
    /// more to do it: whether it has.
    async fn cross(&self, line: &Weak<Line>, (from, to): (NodeId, NodeId), bytes: u64) -> bool {
        if let Some(model) = &self.model {
            loop {
                let (time, flight) = match model.send(from, to, bytes) {
                    Passage::After(time, flight) => (time, Some(flight)),
                    Passage::Again(pause) => (pause, None),
                };
                // The shortest sleep is a millisecond.
                if !time.is_zero() {
                    sleep(time).await;
                }
                if flight.is_some_and(|flight| model.arrives(from, to, flight)) {
                    return true;
                }
                if line.strong_count() == 0 {
                    return false;
                }
            }
        }
        let mut links = self.links.subscribe();
        loop {
            let open = links.wait_for(|links| !link(links, from, to).is_cut).await;
            // The sender of the links is ours.
            if open.is_err() || line.strong_count() == 0 {
                return false;
            }
            let delay = link(&self.links.borrow(), from, to).delay;
            sleep(delay).await;
            // It was on its way when the link was cut.
            if !self.is_cut(from, to) {
                return true;
            }
        }
    }

    /// Brings messages over, until one of their ends is gone.
    async fn relay<T: irpc::RpcMessage>(
        self,
        mut sent: mpsc::Receiver<T>,
        arrived: mpsc::Sender<T>,
        pair: (NodeId, NodeId),
        line: Weak<Line>,
    ) {
        while let Ok(Some(message)) = sent.recv().await {
            let is_there = self.cross(&line, pair, u64::from(SNAPSHOT_CHUNK_BYTES)).await;
            if !is_there || arrived.send(message).await.is_err() {
                return;
            }
        }
    }

    /// A node, if it runs. Otherwise that is found out as late as in a network, since openraft asks again at once.
    async fn reached(&self, id: NodeId) -> Result<Reached, TransportError> {
        let found = self.nodes.borrow().get(&id).cloned();
        if found.is_none() {
            let [first, _] = DIAL_BACKOFF;
            sleep(first).await;
        }
        found.ok_or_else(|| TransportError::Unreachable { peer: id, reason: "it does not run".to_owned() })
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        link(&self.links.borrow(), from, to).is_cut
    }

    /// Returns once a node is taken away.
    async fn gone(&self, id: NodeId) {
        // The sender is ours.
        let _ = self.nodes.subscribe().wait_for(|nodes| !nodes.contains_key(&id)).await;
    }

    /// Returns once either direction of a link is cut.
    async fn cut(&self, one: NodeId, other: NodeId) {
        let is_cut = |links: &Links| link(links, one, other).is_cut || link(links, other, one).is_cut;
        // The sender is ours.
        let _ = self.links.subscribe().wait_for(is_cut).await;
    }
}

fn link(links: &Links, from: NodeId, to: NodeId) -> MemoryLink {
    links.get(&(from, to)).copied().unwrap_or_default()
}

/// One node's way to the others.
#[derive(Debug)]
pub struct MemoryTransport {
    from: NodeId,
    router: AspenRouter,
}

impl MemoryTransport {
    /// Asks a peer, and waits so long for its answer. It acts on it whether anybody waits or not.
    async fn ask<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        to: &Peer,
        within: Duration,
        question: impl FnOnce(Arc<dyn RaftService>) -> F + Send + 'static,
    ) -> Result<T, TransportError> {
        let (router, from, peer) = (self.router.clone(), self.from, to.id);
        let line = Arc::new(Line);
        let held = Arc::downgrade(&line);
        let lost = move || TransportError::Lost { peer, reason: "it has ended".to_owned() };
        let asked = self.router.spawn(None, async move {
            if !router.cross(&held, (from, peer), MESSAGE_BYTES).await {
                return Err(lost());
            }
            let Reached { service, host } = router.reached(peer).await?;
            let answer = router.spawn(host, question(service)).await.map_err(|_| lost())?;
            // Where it does not come, nobody waits for it any more.
            router.cross(&held, (peer, from), MESSAGE_BYTES).await;
            Ok(answer)
        });
        let late = |_| TransportError::Timeout { peer, within_ms: millis(within) };
        let answer = timeout(within, asked).await.map_err(late)?;
        drop(line);
        answer.map_err(|_| lost())?
    }

    /// The same, of a peer that may refuse.
    async fn ask_service<T: Send + 'static, F: Future<Output = Result<T, String>> + Send + 'static>(
        &self,
        to: &Peer,
        within: Duration,
        question: impl FnOnce(Arc<dyn RaftService>) -> F + Send + 'static,
    ) -> Result<T, TransportError> {
        let answer = self.ask(to, within, question).await?;
        answer.map_err(|reason| TransportError::Refused { peer: to.id, reason })
    }
}

impl Transport for MemoryTransport {
    fn append_stream<'a>(
        &'a self,
        to: &'a Peer,
        requests: BoxStream<'static, AppendEntriesRequest>,
        within: Duration,
    ) -> Delivery<'a, BoxStream<'a, Appended>> {
        async move {
            let Reached { service, host } = self.router.reached(to.id).await?;
            let within = within * APPEND_PATIENCE;
            let (from, id, ahead) = (self.from, to.id, APPENDS_AHEAD_MAX as usize);
            let line = Arc::new(Line);
            let due = Due::default();
            let sent = due.clone();
            let (under_way, arriving) = tokio::sync::mpsc::channel(ahead);
            let (router, held, mut requests) = (self.router.clone(), Arc::downgrade(&line), requests);
            // It ends with the stream: nothing is sent after the sender has given up.
            let mut relay = JoinSet::new();
            relay.spawn(hosted(async move {
                while let Some(request) = requests.next().await {
                    sent.push(Instant::now() + within);
                    let bytes: u64 = request.entries.iter().map(entry_size).sum();
                    let carried = router.carry(&held, (from, id), MESSAGE_BYTES + bytes, request);
                    if under_way.send(carried).await.is_err() {
                        return;
                    }
                }
            }));
            let (answered, returning) = tokio::sync::mpsc::channel(ahead);
            let (router, held) = (self.router.clone(), Arc::downgrade(&line));
            // On its own machine, whatever becomes of the other one.
            let served = self.router.spawn(host, async move {
                let mut answers = service.append_stream(in_order(arriving));
                while let Some(answer) = answers.next().await {
                    let carried = router.carry(&held, (id, from), MESSAGE_BYTES, answer);
                    if answered.send(carried).await.is_err() {
                        return;
                    }
                }
            });
            drop(served);
            let stream = MemoryStream {
                peer: id,
                router: self.router.clone(),
                answers: in_order(returning),
                due,
                within,
                _relay: relay,
                _line: line,
            };
            Ok(stream::unfold(Some(stream), MemoryStream::next).boxed())
        }
        .boxed()
    }

    fn append_entries<'a>(
        &'a self,
        to: &'a Peer,
        request: AppendEntriesRequest,
        within: Duration,
    ) -> Delivery<'a, AppendEntriesResponse> {
        let question = async move |peer: Arc<dyn RaftService>| peer.append_entries(request).await;
        self.ask_service(to, within, question).boxed()
    }

    fn vote<'a>(
        &'a self,
        to: &'a Peer,
        request: VoteRequest,
        within: Duration,
    ) -> Delivery<'a, VoteResponse> {
        self.ask_service(to, within, async move |peer| peer.vote(request).await).boxed()
    }

    fn pre_vote<'a>(
        &'a self,
        to: &'a Peer,
        request: VoteRequest,
        within: Duration,
    ) -> Delivery<'a, VoteResponse> {
        self.ask_service(to, within, async move |peer| peer.pre_vote(request).await).boxed()
    }

    fn transfer_leader<'a>(
        &'a self,
        to: &'a Peer,
        request: TransferLeaderRequest,
        within: Duration,
    ) -> Delivery<'a, TransferLeaderResponse> {
        self.ask_service(to, within, async move |peer| peer.transfer_leader(request).await).boxed()
    }

    fn install_snapshot<'a>(
        &'a self,
        to: &'a Peer,
        vote: Vote,
        snapshot: SnapshotFile,
    ) -> Delivery<'a, SnapshotResponse> {
        async move {
            let peer = to.id;
            let Reached { service, host } = self.router.reached(peer).await?;
            let line = Arc::new(Line);
            let held = || Arc::downgrade(&line);
            let request = InstallSnapshot { vote, meta: snapshot.meta().clone(), seal: snapshot.seal() };
            let ((parts, sent), (arrived, parts_there)) = (mpsc::channel(1), mpsc::channel(1));
            let ((answers_there, answered), (returned, mut answers)) = (mpsc::channel(1), mpsc::channel(1));
            let mut relays = JoinSet::new();
            relays.spawn(self.router.clone().relay(sent, arrived, (self.from, peer), held()));
            relays.spawn(self.router.clone().relay(answered, returned, (peer, self.from), held()));
            let receive =
                async move { snapshot::receive(&*service, request, parts_there, answers_there).await };
            relays.spawn(Hosted::on(host, receive));
            let sent = tokio::select! {
                biased;
                sent = snapshot::send(&snapshot, &parts, &mut answers) => sent,
                () = self.router.cut(self.from, peer) => Err(SnapshotError::Lost("the link was cut".to_owned())),
                () = self.router.gone(peer) => Err(SnapshotError::Lost("it has ended".to_owned())),
            };
            sent.map_err(|error| error.of(peer))
        }
        .boxed()
    }

    fn read_index<'a>(
        &'a self,
        to: &'a Peer,
        request: ReadIndex,
        within: Duration,
    ) -> Delivery<'a, Result<Confirmed, ApiError>> {
        self.ask(to, within, async move |peer| peer.read_index(request).await).boxed()
    }

    fn keep_lease<'a>(
        &'a self,
        to: &'a Peer,
        request: KeepLease,
        within: Duration,
    ) -> Delivery<'a, Result<Duration, ApiError>> {
        self.ask(to, within, async move |peer| peer.keep_lease(request).await).boxed()
    }

    fn forward<'a>(
        &'a self,
        to: &'a Peer,
        command: EncodedCommand,
        within: Duration,
    ) -> Delivery<'a, Result<WriteResult, ApiError>> {
        self.ask(to, within, async move |peer| peer.forwarded(command).await).boxed()
    }
}

/// Until when the requests of a stream may be answered, the oldest one first.
#[derive(Debug, Clone, Default)]
struct Due(Arc<Mutex<VecDeque<Instant>>>);

impl Due {
    fn held(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }

    fn push(&self, until: Instant) {
        self.held().push_back(until);
    }

    fn pop(&self) {
        self.held().pop_front();
    }

    /// Returns once one of them is late; `within` is what each is given.
    async fn passed(&self, within: Duration) {
        loop {
            let oldest = self.held().front().copied();
            match oldest {
                Some(until) if until <= Instant::now() => return,
                Some(until) => sleep_until(until).await,
                // Whatever is sent meanwhile has as long.
                None => sleep(within).await,
            }
        }
    }
}

/// A stream of AppendEntries, as its sender has it.
struct MemoryStream {
    peer: NodeId,
    router: AspenRouter,
    answers: BoxStream<'static, StreamAppended>,
    due: Due,
    within: Duration,
    _relay: JoinSet<()>,
    _line: Arc<Line>,
}

/// The messages that were sent, as they arrive, each after those before it; it ends with the first that does not.
fn in_order<T: Send + 'static>(
    carried: tokio::sync::mpsc::Receiver<oneshot::Receiver<Option<T>>>,
) -> BoxStream<'static, T> {
    let next = async |mut carried: tokio::sync::mpsc::Receiver<oneshot::Receiver<Option<T>>>| {
        let message = carried.recv().await?.await.ok()??;
        Some((message, carried))
    };
    stream::unfold(carried, next).boxed()
}

impl MemoryStream {
    /// The next answer, and the stream unless it ends with that.
    async fn next(stream: Option<Self>) -> Option<(Appended, Option<Self>)> {
        let mut stream = stream?;
        let peer = stream.peer;
        let answer = tokio::select! {
            biased;
            answer = stream.answers.next() => answer?,
            () = stream.due.passed(stream.within) => {
                let within_ms = millis(stream.within);
                return Some((Err(TransportError::Timeout { peer, within_ms }), None));
            }
            () = stream.router.gone(peer) => {
                return Some((Err(TransportError::Lost { peer, reason: "it has ended".to_owned() }), None));
            }
        };
        stream.due.pop();
        match answer {
            Ok(Ok(matching)) => Some((Ok(Ok(matching)), Some(stream))),
            Ok(Err(refused)) => Some((Ok(Err(refused)), None)),
            Err(reason) => Some((Err(TransportError::Refused { peer, reason }), None)),
        }
    }
}
