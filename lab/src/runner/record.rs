//! What happened in a run, apart from the history: events, faults with their receipts, leaders, deaths.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::EventSink;
use crate::cluster::{Clock, Cluster, Footprint, NodePair};
use crate::observations::{Observation, Seen, write_observation};
use crate::plan::NodeIndex;
use crate::workload::client::{LoadCounts, nanos};

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The run goes over to its next part.
    Phase,
    /// A fault begins, ends, or cannot.
    Fault,
    /// A node was seen to lead.
    Leader,
    /// A node has ended by itself.
    Death,
    /// The user has done something by hand, in a lab that stays up.
    Hand,
    /// Something is not as it should be, but the run goes on.
    Warning,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in nanoseconds since the clock began.
    pub at_ns: u64,
    /// What it is about.
    pub kind: EventKind,
    /// Which phase, fault or node.
    pub subject: String,
    /// What happened.
    pub text: String,
}

/// One piece of evidence that a fault had its effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What had to be seen.
    pub what: String,
    /// Whether it was.
    pub is_seen: bool,
    /// What was seen.
    pub detail: String,
}

/// One repetition of one fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// Position in the plan's steps.
    pub step: usize,
    /// Which repetition, from 0.
    pub repetition: usize,
    /// What it did, with names.
    pub text: String,
    /// When it was in force, in nanoseconds since the clock began.
    pub began_ns: Option<u64>,
    /// When it was taken back: links healed, victim started again or let go on.
    pub ended_ns: Option<u64>,
    /// The nodes that it left without a majority, while it was in force.
    pub minority: Vec<NodeIndex>,
    /// The nodes that it was aimed at.
    pub touched: Vec<NodeIndex>,
    /// The nodes that it put out of the cluster for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<NodeIndex>,
    /// The nodes that it took out of the cluster, and that run on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<NodeIndex>,
    /// The directed links that it changed.
    pub links: Vec<NodePair>,
    /// The term of the leader that it hit, if the others have to elect another: by a kill at once, by anything else when it
    /// outlasts their patience.
    pub hit_leader_of_term: Option<u64>,
    /// The receipt.
    pub proofs: Vec<Proof>,
    /// Why the fault could not be carried out.
    pub problem: Option<String>,
}

impl FaultRecord {
    /// Whether everything that had to be seen was seen.
    pub fn has_receipt(&self) -> bool {
        self.problem.is_none() && !self.proofs.is_empty() && self.proofs.iter().all(|proof| proof.is_seen)
    }
}

/// The links that are not perfect for the whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinksRecord {
    /// What was done to them, with names.
    pub text: String,
    /// The directed links.
    pub links: Vec<NodePair>,
    /// The receipt.
    pub proofs: Vec<Proof>,
}

impl LinksRecord {
    /// Whether everything that had to be seen was seen.
    pub fn has_receipt(&self) -> bool {
        !self.proofs.is_empty() && self.proofs.iter().all(|proof| proof.is_seen)
    }
}

/// A node that was seen to lead a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderSeen {
    /// When it was first seen, in nanoseconds since the clock began.
    pub at_ns: u64,
    /// Which node.
    pub node: NodeIndex,
    /// Which term.
    pub term: u64,
}

/// A node that ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// When it was noticed, in nanoseconds since the clock began.
    pub at_ns: u64,
    /// Which node.
    pub node: NodeIndex,
    /// How it ended.
    pub exit: String,
    /// The last that it printed.
    pub console_end: String,
    /// Whether it was its hypervisor that has ended, which says nothing of the node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_of_hypervisor: bool,
}

impl Death {
    /// What has ended, in a sentence about a node.
    pub fn subject(&self, name: &str) -> String {
        if self.is_of_hypervisor {
            format!("the hypervisor of {name} has ended, not its node:")
        } else {
            format!("{name} ended by itself with")
        }
    }
}

/// How the members were found after the load had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The entry up to which every member had applied the log when every key was read from each of them.
    pub index: Option<u64>,
    /// How many reads that were: so many have to be in the history.
    pub reads_count: u64,
    /// Why there is none, after all the time that they were given.
    pub problem: Option<String>,
}

/// What the nodes took of their host, and how the cluster came up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// From the start of the first node to the first answered operation, or to the end of waiting for it, in nanoseconds of the
    /// plan.
    pub up_ns: u64,
    /// What each node took that ran at the end of the load.
    pub nodes: Vec<(NodeIndex, Footprint)>,
    /// In which share of the load's time somebody waited for a processor of the host, from 0 to 1; `None`: nobody counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<f64>,
}

/// What happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// When the first operation was answered: where a scenario's time begins.
    pub origin_ns: u64,
    /// When the load was ended.
    pub load_ended_ns: u64,
    /// How the operations ended.
    pub counts: LoadCounts,
    /// How the members were found after that; absent where the run came to an early end, or nobody asks for it.
    pub settled: Option<Settled>,
    /// What the nodes took of their host, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub costs: Option<Costs>,
    /// What was measured of a host that is too slow for the plan at any pace: who is late on it may be so for that alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortage: Option<String>,
    /// Every fault that was due.
    pub faults: Vec<FaultRecord>,
    /// The links of the whole run, where the scenario has any.
    #[serde(default)]
    pub links: Option<LinksRecord>,
    /// Who led, in the order in which it was seen.
    pub leaders: Vec<LeaderSeen>,
    /// Nodes that ended by themselves.
    pub deaths: Vec<Death>,
    /// Everything in order.
    pub events: Vec<Event>,
    /// What went wrong with the lab itself: then nothing can be judged.
    pub defects: Vec<String>,
    /// Whether the run was ended early, by the user.
    pub is_interrupted: bool,
}

impl RunRecord {
    /// When a fault has put this node out of the cluster for good, if one has.
    pub fn out_ns(&self, node: NodeIndex) -> Option<u64> {
        let is_out = |fault: &&FaultRecord| fault.retired.contains(&node) || fault.removed.contains(&node);
        let mut faults = self.faults.iter().filter(is_out);
        faults.find_map(|fault| fault.began_ns)
    }

    /// The first term after the one of the leader that a fault hit, with a leader that was seen after it began.
    pub fn election_after(&self, fault: &FaultRecord) -> Option<LeaderSeen> {
        let (began_ns, term) = (fault.began_ns?, fault.hit_leader_of_term?);
        self.leaders.iter().find(|seen| seen.at_ns >= began_ns && seen.term > term).copied()
    }
}

/// The notebook of a run, shared by all that goes on in it.
pub struct Conduct {
    clock: Arc<dyn Clock>,
    sink: Arc<dyn EventSink>,
    observations: Mutex<Observations>,
    notes: Mutex<Notes>,
}

/// The file of observations.
struct Observations {
    out: Box<dyn Write + Send>,
    /// Its first error; the run cannot be judged after it.
    failed: Option<io::Error>,
}

#[derive(Debug, Default)]
struct Notes {
    events: Vec<Event>,
    faults: Vec<FaultRecord>,
    links: Option<LinksRecord>,
    leaders: Vec<LeaderSeen>,
    deaths: Vec<Death>,
    defects: Vec<String>,
}

impl std::fmt::Debug for Conduct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conduct").field("notes", &self.notes).finish_non_exhaustive()
    }
}

impl Conduct {
    /// An empty notebook; what is seen of nodes is written to `observations`.
    pub fn new(clock: Arc<dyn Clock>, sink: Arc<dyn EventSink>, observations: Box<dyn Write + Send>) -> Self {
        let observations = Mutex::new(Observations { out: observations, failed: None });
        Self { clock, sink, observations, notes: Mutex::default() }
    }

    /// Nanoseconds since the clock began.
    pub fn now_ns(&self) -> u64 {
        nanos(self.clock.now())
    }

    /// Notes an event, and tells whoever listens.
    pub fn event(&self, kind: EventKind, subject: impl Into<String>, text: impl Into<String>) {
        let event = Event { at_ns: self.now_ns(), kind, subject: subject.into(), text: text.into() };
        self.sink.event(&event);
        self.notes().events.push(event);
    }

    /// Opens the record of a fault; the number is for [`Self::fault`].
    pub fn open_fault(&self, step: usize, repetition: usize, text: String) -> usize {
        let mut notes = self.notes();
        notes.faults.push(FaultRecord {
            step,
            repetition,
            text,
            began_ns: None,
            ended_ns: None,
            minority: Vec::new(),
            touched: Vec::new(),
            retired: Vec::new(),
            removed: Vec::new(),
            links: Vec::new(),
            hit_leader_of_term: None,
            proofs: Vec::new(),
            problem: Some("the run ended before the fault did".to_owned()),
        });
        notes.faults.len() - 1
    }

    /// Changes the record of a fault.
    pub fn fault(&self, number: usize, change: impl FnOnce(&mut FaultRecord)) {
        if let Some(fault) = self.notes().faults.get_mut(number) {
            change(fault);
        }
    }

    /// Writes down what was just seen of a node.
    pub fn observe(&self, node: NodeIndex, seen: Seen) {
        let mut file = self.observations();
        // Under the lock, so that times do not go back in the file.
        let observation = Observation { at_ns: self.now_ns(), node, seen };
        if let Err(error) = write_observation(&mut file.out, &observation) {
            file.failed.get_or_insert(error);
        }
    }

    /// Writes out what is buffered of the observations.
    ///
    /// # Errors
    /// The first error that their file has met.
    pub fn finish_observations(&self) -> io::Result<()> {
        let mut file = self.observations();
        let flushed = file.out.flush();
        file.failed.take().map_or(flushed, Err)
    }

    /// Notes what the links of the whole run did.
    pub fn links(&self, links: LinksRecord) {
        self.notes().links = Some(links);
    }

    /// Notes that a node leads a term, the first time it is seen.
    pub fn leader(&self, node: NodeIndex, name: &str, term: u64) {
        let at_ns = self.now_ns();
        let mut notes = self.notes();
        if notes.leaders.iter().any(|seen| (seen.node, seen.term) == (node, term)) {
            return;
        }
        notes.leaders.push(LeaderSeen { at_ns, node, term });
        drop(notes);
        self.event(EventKind::Leader, name, format!("leads term {term}"));
    }

    /// Notes that a node has ended by itself, once.
    pub fn death(&self, cluster: &dyn Cluster, node: NodeIndex, name: &str, exit: &str) {
        let (console_end, is_of_hypervisor) = (cluster.console_end(node), cluster.has_lost_hypervisor(node));
        let at_ns = self.now_ns();
        let mut notes = self.notes();
        if notes.deaths.iter().any(|death| death.node == node) {
            return;
        }
        notes.deaths.push(Death { at_ns, node, exit: exit.to_owned(), console_end, is_of_hypervisor });
        drop(notes);
        let what = if is_of_hypervisor { "its hypervisor has ended" } else { "ended by itself" };
        self.event(EventKind::Death, name, format!("{what}: {exit}"));
    }

    /// Whether a node has ended by itself.
    pub fn has_deaths(&self) -> bool {
        !self.notes().deaths.is_empty()
    }

    /// Whether this node has ended by itself.
    pub fn is_dead(&self, node: NodeIndex) -> bool {
        self.notes().deaths.iter().any(|death| death.node == node)
    }

    /// Whether a fault that was aimed at this node has no end.
    pub fn is_cut_short(&self, node: NodeIndex) -> bool {
        self.notes().faults.iter().any(|fault| fault.ended_ns.is_none() && fault.touched.contains(&node))
    }

    /// The nodes that faults have put out of the cluster for good.
    pub fn retired(&self) -> BTreeSet<NodeIndex> {
        self.notes().faults.iter().flat_map(|fault| fault.retired.iter().copied()).collect()
    }

    /// Notes that the lab itself does not work.
    pub fn defect(&self, text: String) {
        self.event(EventKind::Warning, "lab", text.clone());
        self.notes().defects.push(text);
    }

    /// Closes the notebook.
    pub(super) fn record(
        &self,
        origin: Duration,
        load_ended: Duration,
        counts: LoadCounts,
        settled: Option<Settled>,
        costs: Option<Costs>,
        is_interrupted: bool,
    ) -> RunRecord {
        let notes = std::mem::take(&mut *self.notes());
        RunRecord {
            origin_ns: nanos(origin),
            load_ended_ns: nanos(load_ended),
            counts,
            settled,
            costs,
            shortage: None,
            faults: notes.faults,
            links: notes.links,
            leaders: notes.leaders,
            deaths: notes.deaths,
            events: notes.events,
            defects: notes.defects,
            is_interrupted,
        }
    }

    fn observations(&self) -> MutexGuard<'_, Observations> {
        self.observations.lock().expect("nothing panics while it holds this lock")
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().expect("nothing panics while it holds this lock")
    }
}
