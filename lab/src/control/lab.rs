//! A lab that is up: carries out what is asked of it, on any driver, and knows how everything is. It reads no socket.

mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::about::About;
use super::desk::{Desk, Order};
use super::links::{Change, LinkTable};
use super::protocol::{
    Answer, Failure, FailureKind, LinkStatus, LinksDone, NodeRole, NodeStatus, Phase, Power, Request, Status,
};
use super::words::{self, WordError};
use crate::causes::causes;
use crate::check::counted;
use crate::cluster::{Clock, Cluster, ClusterError, NodePair};
use crate::limits::NODES_MAX;
use crate::link::LinkRule;
use crate::observations::Role;
use crate::plan::{NodeIndex, Plan, Roles, cut_pairs, link_pairs};
use crate::runner::record::{Event, EventKind};
use crate::runner::{EventSink, Stage};
use crate::workload::client::nanos;

/// A lab that is up.
pub(super) struct Lab {
    plan: Arc<Plan>,
    cluster: Arc<dyn Cluster>,
    clock: Arc<dyn Clock>,
    sink: Arc<dyn EventSink>,
    about: About,
    desks: Vec<Desk>,
    links: Mutex<LinkTable>,
    phase: watch::Sender<Phase>,
    /// Ages are those of the user's own clock, whatever the pace of the cluster's.
    began: Instant,
    /// Turns true when the lab is to end.
    stop: Arc<watch::Sender<bool>>,
    /// What did not go as it should when the nodes were stopped; nothing as long as they are not.
    farewell: watch::Sender<Option<Vec<String>>>,
    /// How often something was drawn.
    draws_count: AtomicU32,
    /// The last term that somebody was seen to lead.
    term: AtomicU64,
}

impl Debug for Lab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lab").field("about", &self.about).finish_non_exhaustive()
    }
}

impl Lab {
    /// The run directory.
    pub(super) fn directory(&self) -> &Path {
        &self.about.directory
    }

    /// A lab on a stage whose nodes are not started yet. `stop` turns true when it is to end.
    pub(super) fn new(stage: &Stage, about: About, stop: Arc<watch::Sender<bool>>) -> Self {
        let Stage { plan, cluster, clock, sink, .. } = stage;
        let (plan, cluster, clock, sink) = (plan.clone(), cluster.clone(), clock.clone(), sink.clone());
        let desks = plan.nodes.iter().map(|_| Desk::new()).collect();
        let links = Mutex::new(LinkTable::new(&plan));
        Self {
            plan,
            cluster,
            clock,
            sink,
            about,
            desks,
            links,
            phase: watch::Sender::new(Phase::Booting),
            began: Instant::now(),
            stop,
            farewell: watch::Sender::new(None),
            draws_count: AtomicU32::new(0),
            term: AtomicU64::new(0),
        }
    }

    /// Makes the links what the scenario says.
    ///
    /// # Errors
    /// The fabric does not obey.
    pub(super) fn stand(&self) -> Result<(), ClusterError> {
        let mut links = self.links();
        let by_hand = links.changed(&BTreeSet::new(), Change::Heal).expect("to heal nothing is possible");
        let counts = self.cluster.set_links(&links.rules(&by_hand))?;
        links.commit(by_hand, self.began.elapsed(), &counts);
        Ok(())
    }

    /// Notes that every node runs.
    pub(super) fn note_started(&self) {
        for desk in &self.desks {
            desk.set_power(Power::Running);
        }
    }

    /// From now on the cluster can be worked on.
    pub(super) fn note_serving(&self) {
        self.phase.send_replace(Phase::Serving);
    }

    /// Whether every node that runs was seen to lead or to follow, so that a first look at the lab shows a cluster.
    pub(super) fn is_settled(&self) -> bool {
        let now = self.clock.now();
        let is_part = |desk: &Desk| {
            matches!(desk.role(now), None | Some(NodeRole::Known(Role::Leader | Role::Follower)))
        };
        // Whoever waits outside is part of nothing yet.
        let founders = self.plan.founders().map(|node| &self.desks[node.position()]);
        founders.into_iter().all(is_part) && self.desks.iter().any(|desk| desk.leads(now).is_some())
    }

    /// Whether a node runs, from now on.
    pub(super) fn watch_power(&self, node: NodeIndex) -> watch::Receiver<Power> {
        self.desks[node.position()].watch()
    }

    /// The address of a node's HTTP interface inside the lab.
    pub(super) fn address(&self, node: NodeIndex) -> SocketAddr {
        self.plan.nodes[node.position()].http_address()
    }

    /// Does what is asked for.
    ///
    /// # Errors
    /// Why it was not done.
    pub(super) async fn answer(&self, request: Request) -> Result<Answer, Failure> {
        let arrived = Instant::now();
        match &request {
            Request::Status => return self.status().map(Answer::Status),
            Request::Await => return self.serving().await.map(Answer::Status),
            Request::Down => return Ok(self.down().await),
            _ => {}
        }
        match *self.phase.borrow() {
            Phase::Calibrating | Phase::Booting => {
                return Err(refused("the cluster is still booting: `lab status` shows how far it is"));
            }
            Phase::Stopping => return Err(refused("the lab is ending")),
            Phase::Serving => {}
        }
        match request {
            Request::Kill { nodes } => self.order(self.running(&nodes)?, Order::Kill).await,
            Request::Pause { nodes } => self.order(self.running(&nodes)?, Order::Pause).await,
            Request::Start { nodes } => self.order(self.named(&nodes)?, Order::Start).await,
            Request::Resume { nodes } => self.order(self.named(&nodes)?, Order::Resume).await,
            Request::Cut { groups } => {
                let sides = self.sides(&groups)?;
                let text = format!("cut {}", self.names(&sides, " | "));
                self.change_links(&text, &cut_pairs(&sides), Change::Cut, arrived)
            }
            Request::Link { from, to, is_both_ways, change } => {
                let sides =
                    words::ends(&from, &to, &self.plan, &self.roles(), self.draw()).map_err(of_word)?;
                let pairs = link_pairs(&sides[0], &sides[1], is_both_ways);
                let arrow = if is_both_ways { " <-> " } else { " -> " };
                let text = format!("link {}: {}", self.names(&sides, arrow), change.in_words());
                self.change_links(&text, &pairs, Change::Effect(change), arrived)
            }
            Request::Heal { groups } if groups.is_empty() => {
                let pairs = self.links().touched();
                self.change_links("heal", &pairs, Change::Heal, arrived)
            }
            Request::Heal { groups } => {
                let sides = self.sides(&groups)?;
                let text = format!("heal {}", self.names(&sides, " | "));
                self.change_links(&text, &cut_pairs(&sides), Change::Heal, arrived)
            }
            Request::Status | Request::Await | Request::Down => unreachable!("answered above"),
        }
    }

    /// How everything is.
    pub(super) fn status(&self) -> Result<Status, Failure> {
        let now = self.clock.now();
        let nodes = self.plan.node_indexes().map(|node| self.node_status(node, now)).collect();
        let phase = *self.phase.borrow();
        Ok(self.about.status(&self.plan, phase, self.began.elapsed(), nodes, self.link_status()?))
    }

    fn node_status(&self, node: NodeIndex, now: Duration) -> NodeStatus {
        let desk = &self.desks[node.position()];
        let said = desk.said(now);
        NodeStatus {
            state: desk.power(),
            role: desk.role(now),
            term: said.map(|said| said.term),
            applied_index: said.and_then(|said| said.applied).map(|applied| applied.index),
            ..self.about.node(&self.plan, node)
        }
    }

    fn link_status(&self) -> Result<Vec<LinkStatus>, Failure> {
        let links = self.links();
        let counts = self.cluster.frame_counts().map_err(|error| refused(&causes(&error)))?;
        Ok(links.status(&self.plan, self.began.elapsed(), &counts))
    }

    /// How everything is, once the cluster serves.
    async fn serving(&self) -> Result<Status, Failure> {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as the lab.
        let phase = phase.wait_for(|phase| *phase != Phase::Booting).await.map(|phase| *phase);
        match phase {
            Ok(Phase::Serving) => self.status(),
            _ => Err(refused("the lab was ended before the cluster was up")),
        }
    }

    /// Lets the lab end, and says how its nodes have stopped.
    async fn down(&self) -> Answer {
        self.stop.send_replace(true);
        let mut farewell = self.farewell.subscribe();
        let told = farewell.wait_for(Option::is_some).await;
        Answer::Down { problems: told.ok().and_then(|problems| problems.clone()).unwrap_or_default() }
    }

    /// Changes links, and says what is in force now.
    fn change_links(
        &self,
        text: &str,
        pairs: &BTreeSet<NodePair>,
        change: Change,
        arrived: Instant,
    ) -> Result<Answer, Failure> {
        let mut links = self.links();
        let by_hand = links.changed(pairs, change).map_err(|mistake| usage(&mistake.to_string()))?;
        let rules: BTreeMap<NodePair, LinkRule> = links.rules(&by_hand);
        let counts = self.cluster.set_links(&rules).map_err(|error| refused(&causes(&error)))?;
        let took_us = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
        links.commit(by_hand, self.began.elapsed(), &counts);
        let is_cut = match change {
            Change::Cut => true,
            Change::Effect(change) => change.is_cut(),
            Change::Heal => false,
        };
        let still = if is_cut { String::new() } else { links.still_cut(pairs) };
        drop(links);
        let text = match pairs.len() {
            0 => format!("{text}: nothing was done by hand to any link"),
            count => format!("{text}: {}{still}", counted(count as u64, "link")),
        };
        self.event(EventKind::Hand, "links", &text);
        Ok(Answer::Links(LinksDone { text, took_us, links: self.link_status()? }))
    }

    fn running(&self, words: &[String]) -> Result<Vec<NodeIndex>, Failure> {
        words::nodes(words, &self.plan, &self.roles(), self.draw()).map_err(of_word)
    }

    fn named(&self, words: &[String]) -> Result<Vec<NodeIndex>, Failure> {
        words::named(words, &self.plan).map_err(of_word)
    }

    fn sides(&self, groups: &[Vec<String>]) -> Result<Vec<Vec<NodeIndex>>, Failure> {
        words::sides(groups, &self.plan, &self.roles(), self.draw()).map_err(of_word)
    }

    /// Who is who now. Of several that say they lead, the one of the latest term does.
    fn roles(&self) -> Roles {
        let now = self.clock.now();
        let desks = || self.plan.node_indexes().zip(&self.desks);
        let leaders = desks().filter_map(|(node, desk)| Some((desk.leads(now)?, node)));
        Roles {
            nodes_count: u16::try_from(self.desks.len()).unwrap_or(NODES_MAX),
            leader: leaders.max().map(|(_, node)| node),
            alive: desks().filter(|(_, desk)| desk.power() == Power::Running).map(|(node, _)| node).collect(),
        }
    }

    /// From the seed, so that the same commands choose the same nodes.
    fn draw(&self) -> u32 {
        let count = self.draws_count.fetch_add(1, Ordering::Relaxed);
        let seed = u32::try_from(self.plan.seed & u64::from(u32::MAX)).expect("32 bits");
        // Each choice takes at most as many draws as there are nodes.
        seed.wrapping_add(count.wrapping_mul(NODES_MAX.into()))
    }

    /// Notes an event, and tells whoever listens.
    fn event(&self, kind: EventKind, subject: &str, text: &str) {
        let at_ns = nanos(self.clock.now());
        self.sink.event(&Event { at_ns, kind, subject: subject.to_owned(), text: text.to_owned() });
    }

    fn name(&self, node: NodeIndex) -> &str {
        &self.plan.nodes[node.position()].name
    }

    fn names(&self, sides: &[Vec<NodeIndex>], between: &str) -> String {
        let side =
            |side: &Vec<NodeIndex>| side.iter().map(|node| self.name(*node)).collect::<Vec<_>>().join(" ");
        sides.iter().map(side).collect::<Vec<_>>().join(between)
    }

    fn links(&self) -> MutexGuard<'_, LinkTable> {
        self.links.lock().expect("nothing panics while it holds this lock")
    }
}

fn refused(text: &str) -> Failure {
    Failure { kind: FailureKind::Refused, text: text.to_owned() }
}

fn usage(text: &str) -> Failure {
    Failure { kind: FailureKind::Usage, text: text.to_owned() }
}

fn of_word(error: WordError) -> Failure {
    let text = error.to_string();
    if error.is_passing() { refused(&text) } else { usage(&text) }
}
