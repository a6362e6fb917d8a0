//! `NodeFailureDetector`: on the leader, which members do not answer, and what that looks like from here. What is seen is said once,
//! and once more when it is over.
//!
//! Whether a member answers is Raft's own word: its heartbeats are what counts. Why it does not is found out by asking at its ports:
//! a process that is gone leaves a kernel that refuses what comes, over TCP and over UDP, one that hangs a kernel that takes the
//! connection of a client, and what cannot be reached answers neither way. It decides nothing but whether leadership is handed to a
//! member for where that is.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures::future::{join, join_all};
use openraft::ServerState;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::RaftNode;
use super::follower::Follower;
use crate::limits::{HEALTH_INTERVAL, HEALTH_PROBE_TIMEOUT, LOOKS_MIN};
use crate::types::{NodeId, NodeInfo};

/// How a member looks from its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeHealth {
    /// It answers.
    Healthy,
    /// It answers, but later than the next heartbeat is due, again and again.
    Slow,
    /// Its process is there and does nothing.
    Unresponsive,
    /// Its process is gone.
    Crashed,
    /// Nothing comes back from where it is: the network between is cut, or its machine is down.
    Partitioned,
}

impl NodeHealth {
    /// The word of the HTTP interface and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Slow => "slow",
            Self::Unresponsive => "unresponsive",
            Self::Crashed => "crashed",
            Self::Partitioned => "partitioned",
        }
    }
}

/// What a member's ports say to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// An answer.
    Answer,
    /// A connection, and nothing behind it.
    Silence,
    /// Nobody listens.
    Refusal,
    /// Nothing at all.
    Nothing,
}

/// What has been seen of a member so far.
#[derive(Debug, Clone, Copy)]
struct Seen {
    health: NodeHealth,
    /// How often in a row it was late.
    late: u32,
    /// How often in a row the same was seen of its clients' door, while Raft heard nothing.
    alike: (Probe, u32),
}

impl Seen {
    const NOTHING: Self = Self { health: NodeHealth::Healthy, late: 0, alike: (Probe::Answer, 0) };

    /// What is seen now of a member that answers, by how long ago it has done so last.
    fn answered(self, silent: Duration, heartbeat: Duration) -> Self {
        let late = if silent > 2 * heartbeat { self.late.saturating_add(1) } else { 0 };
        let was_slow = self.health == NodeHealth::Slow;
        let is_slow = late >= LOOKS_MIN || (was_slow && late > 0);
        Self { health: if is_slow { NodeHealth::Slow } else { NodeHealth::Healthy }, late, ..Self::NOTHING }
    }

    /// What is seen now of a member that Raft hears nothing of.
    fn silent(self, probe: Probe) -> Self {
        let (before, count) = self.alike;
        let count = if before == probe { count.saturating_add(1) } else { 1 };
        let looks = match probe {
            Probe::Refusal => NodeHealth::Crashed,
            Probe::Silence => NodeHealth::Unresponsive,
            // Where its clients reach it and this node's Raft does not, it is the way between that is cut.
            Probe::Answer | Probe::Nothing => NodeHealth::Partitioned,
        };
        // A process that starts listens before it serves, and serves before Raft hears of it; one that ends does the reverse.
        let is_in_between =
            probe == Probe::Answer || (probe == Probe::Silence && self.health == NodeHealth::Crashed);
        let health = if is_in_between && count < LOOKS_MIN { self.health } else { looks };
        Self { health, late: 0, alike: (probe, count) }
    }
}

/// Looks after the members' health on one node, whenever that leads.
#[derive(Debug)]
pub struct NodeFailureDetector {
    raft: RaftNode,
    /// Whether who does not answer is asked at its ports.
    probes: bool,
    /// Since when each member has been one under this leader.
    since: BTreeMap<NodeId, Instant>,
    seen: BTreeMap<NodeId, Seen>,
}

impl NodeFailureDetector {
    /// Of a node.
    pub fn new(raft: RaftNode) -> Self {
        Self { raft, probes: true, since: BTreeMap::new(), seen: BTreeMap::new() }
    }

    /// Asks nobody over a real network: whoever does not answer looks cut off.
    #[must_use]
    pub fn without_probes(self) -> Self {
        Self { probes: false, ..self }
    }

    /// Looks for as long as it runs.
    pub async fn run(mut self) {
        let mut ticks = interval(HEALTH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let heard = self.heard();
            self.seen.retain(|id, _| heard.contains_key(id));
            let looks = heard.into_iter().map(|(id, (info, silent))| {
                let before = self.seen.get(&id).copied().unwrap_or(Seen::NOTHING);
                let inner = &self.raft.inner;
                let (patience, heartbeat, probes) = (inner.patience, inner.heartbeat, self.probes);
                async move {
                    let now = if silent < patience {
                        before.answered(silent, heartbeat)
                    } else {
                        before.silent(if probes { probe(&info).await } else { Probe::Nothing })
                    };
                    (id, info, before, now)
                }
            });
            for (id, info, before, now) in join_all(looks).await {
                say(id, &info, before.health, now.health);
                self.seen.insert(id, now);
            }
            let health = self.seen.iter().map(|(id, seen)| (*id, seen.health)).collect();
            *self.raft.inner.health.lock().expect("nothing panics while it holds this lock") = health;
        }
    }

    /// On the leader: the other members, and how long ago each was heard last. Who was not heard yet is as silent as it has been a
    /// member under this leader.
    fn heard(&mut self) -> BTreeMap<NodeId, (NodeInfo, Duration)> {
        let metrics = self.raft.metrics();
        if metrics.state != ServerState::Leader {
            self.since.clear();
            return BTreeMap::new();
        }
        let now = Instant::now();
        let others =
            metrics.membership_config.membership().nodes().filter(|(id, _)| **id != self.raft.inner.id);
        let heard = others.map(|(id, info)| {
            let since = *self.since.entry(*id).or_insert(now);
            let silent = Follower::of(&metrics, *id).silent;
            (*id, (info.clone(), silent.unwrap_or(now.duration_since(since))))
        });
        heard.collect()
    }
}

/// Says what has changed.
fn say(id: NodeId, info: &NodeInfo, before: NodeHealth, now: NodeHealth) {
    let (raft, http) = (info.raft, info.http);
    match now {
        _ if now == before => {}
        NodeHealth::Healthy => tracing::info!(%id, was = before.as_str(), "a member answers again"),
        NodeHealth::Slow => tracing::warn!(%id, %raft, "a member answers late"),
        _ => tracing::warn!(%id, %raft, %http, looks = now.as_str(), "a member does not answer"),
    }
}

/// Asks at a member's ports for anything.
async fn probe(info: &NodeInfo) -> Probe {
    let clients = async {
        // One of loopback on another machine is somebody else's.
        if info.has_own_http() { probe_http(info.http).await } else { Probe::Nothing }
    };
    let (is_closed, clients) = join(is_closed(info.raft), clients).await;
    // Whoever answers clients in its place, such as a proxy, does not make it a process that is there.
    if is_closed { Probe::Refusal } else { clients }
}

/// Whether a kernel says that nobody listens at a UDP port (RFC 792: port unreachable).
async fn is_closed(raft: SocketAddr) -> bool {
    let any: IpAddr =
        if raft.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let asked = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(raft).await?;
        // Too short for a packet of QUIC, which nobody heeds.
        socket.send(&[0]).await?;
        socket.recv(&mut [0]).await
    };
    let said = timeout(HEALTH_PROBE_TIMEOUT, asked).await;
    matches!(said, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Asks an HTTP interface for anything.
async fn probe_http(http: SocketAddr) -> Probe {
    let Ok(connected) = timeout(HEALTH_PROBE_TIMEOUT, TcpStream::connect(http)).await else {
        return Probe::Nothing;
    };
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Probe::Refusal,
        Err(_) => return Probe::Nothing,
    };
    let answer = async {
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await?;
        stream.read_u8().await
    };
    match timeout(HEALTH_PROBE_TIMEOUT, answer).await {
        Ok(Ok(_)) => Probe::Answer,
        // Closed at once: whoever was there is going.
        Ok(Err(_)) => Probe::Refusal,
        Err(_) => Probe::Silence,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::types::EndpointKey;

    const HEARTBEAT: Duration = Duration::from_millis(200);

    #[test]
    fn member_is_slow_only_when_it_is_late_again_and_again() {
        let mut seen = Seen::NOTHING;
        let mut look = |silent_ms: u64| {
            seen = seen.answered(Duration::from_millis(silent_ms), HEARTBEAT);
            seen.health
        };
        assert_eq!([500, 500, 100, 500, 500].map(&mut look), [NodeHealth::Healthy; 5]);
        assert_eq!([500, 900].map(&mut look), [NodeHealth::Slow; 2]);
        assert_eq!(look(300), NodeHealth::Healthy);
    }

    #[test]
    fn silence_is_judged_by_what_the_probe_says() {
        let mut seen = Seen::NOTHING;
        let mut look = |probe| {
            seen = seen.silent(probe);
            seen.health
        };
        assert_eq!(look(Probe::Nothing), NodeHealth::Partitioned);
        assert_eq!(look(Probe::Silence), NodeHealth::Unresponsive);
        assert_eq!(look(Probe::Refusal), NodeHealth::Crashed);
        // It listens, and serves its clients, before Raft hears of it.
        assert_eq!([Probe::Silence, Probe::Answer, Probe::Answer].map(&mut look), [NodeHealth::Crashed; 3]);
        assert_eq!(look(Probe::Answer), NodeHealth::Partitioned);
    }

    #[test]
    fn loopback_of_another_machine_says_nothing_of_it() {
        let info = |raft: &str, http: &str| NodeInfo {
            endpoint_id: EndpointKey([1; 32]),
            raft: raft.parse().unwrap(),
            http: http.parse().unwrap(),
        };
        let has_own = NodeInfo::has_own_http;
        assert!(has_own(&info("127.0.0.1:4001", "127.0.0.1:8001")));
        assert!(has_own(&info("10.0.0.1:4001", "10.0.0.1:8001")));
        assert!(!has_own(&info("10.0.0.1:4001", "127.0.0.1:8001")));
    }

    #[tokio::test]
    async fn probe_tells_a_process_that_hangs_from_one_that_is_gone() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        // The kernel takes the connection, and nobody serves it.
        assert_eq!(probe_http(address).await, Probe::Silence);
        drop(listener);
        assert_eq!(probe_http(address).await, Probe::Refusal);
    }

    #[tokio::test]
    async fn process_that_is_gone_is_told_from_one_that_hangs_where_nobody_serves_clients() {
        let raft = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut info = NodeInfo {
            endpoint_id: EndpointKey([1; 32]),
            raft: raft.local_addr().unwrap(),
            http: clients.local_addr().unwrap(),
        };
        assert_eq!(probe(&info).await, Probe::Silence);
        // A proxy that takes its clients is not the node.
        drop(raft);
        assert_eq!(probe(&info).await, Probe::Refusal);
        info.raft = "[::1]:9".parse().unwrap();
        if std::net::UdpSocket::bind("[::1]:0").is_ok() {
            assert_eq!(probe(&info).await, Probe::Refusal);
        }
    }
}
