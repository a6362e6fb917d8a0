//! Breaks what the plan says, when it says so, and collects the receipts: what all kinds of fault have in common. Each kind
//! has a file of its own.

mod clock;
mod cut;
mod kill;
mod link;
mod lose;
mod members;
mod pause;
mod restart;
mod rollback;
mod suspend;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::task::JoinSet;

use super::links::{Links, Rules};
use super::observe::Watch;
use super::record::{Conduct, EventKind, Proof};
use super::{RunError, Stage};
use crate::cluster::{Clock, Cluster};
use crate::history::{Op, Outcome};
use crate::limits::{CLIENT_TIMEOUT, LOOK_INTERVAL, NAMES_MAX, RESTART_WAIT_MAX, ROLE_WAIT_MAX};
use crate::link::LinkRule;
use crate::observations::Incarnation;
use crate::plan::{
    FaultAction, NodeIndex, Plan, ResolveError, Roles, Selector, Step, cut_pairs, isolates, link_pairs,
    minority, resolve, resolve_ends, resolve_one,
};
use crate::target::Dialect;
use crate::workload::register;

/// Carries out the steps of a plan, each in a task of its own, since they may overlap.
pub(super) struct Breaker {
    tools: Arc<Tools>,
}

/// What every step needs.
struct Tools {
    plan: Arc<Plan>,
    cluster: Arc<dyn Cluster>,
    clock: Arc<dyn Clock>,
    conduct: Arc<Conduct>,
    watch: Watch,
    /// Where the scenario's time begins.
    origin: Duration,
    links: Arc<Links>,
    /// Held while the members are changed.
    changing: tokio::sync::Mutex<()>,
    /// The nodes that play their parts though a fault has hit them alone: their clocks are wrong.
    busy: Mutex<BTreeSet<NodeIndex>>,
}

/// One repetition that is under way.
struct Strike<'a> {
    step: &'a Step,
    draw: u32,
    /// Its number in the notebook.
    number: usize,
}

/// The node that a fault is aimed at.
struct Victim {
    node: NodeIndex,
    /// What stands before its name: that it leads, if it does.
    role: &'static str,
    /// The incarnation that it last named.
    before: Option<Incarnation>,
    /// The term that it leads, if it does.
    leads_term: Option<u64>,
}

/// Why a node that was started, or that may go on, does not count as back.
#[derive(Debug, thiserror::Error)]
enum NotBack {
    #[error("incarnation {0} answers")]
    Incarnation(Incarnation),
    #[error("it does not serve within {} s", RESTART_WAIT_MAX.as_secs())]
    Silent,
}

impl Strike<'_> {
    /// Its name in events.
    fn label(&self) -> String {
        format!("fault {}", self.number + 1)
    }

    fn lasts(&self) -> Duration {
        Duration::from_millis(self.step.lasts_ms)
    }
}

impl Breaker {
    pub(super) fn new(
        stage: &Stage,
        conduct: Arc<Conduct>,
        watch: Watch,
        origin: Duration,
        links: Arc<Links>,
    ) -> Self {
        let tools = Tools {
            plan: stage.plan.clone(),
            cluster: stage.cluster.clone(),
            clock: stage.clock.clone(),
            conduct,
            watch,
            origin,
            links,
            changing: tokio::sync::Mutex::default(),
            busy: Mutex::default(),
        };
        Self { tools: Arc::new(tools) }
    }

    /// Returns when every fault is over.
    pub(super) async fn run(self) -> Result<(), RunError> {
        let mut steps = JoinSet::new();
        for number in 0..self.tools.plan.steps.len() {
            let tools = self.tools.clone();
            steps.spawn(async move { tools.step(number).await });
        }
        while let Some(ended) = steps.join_next().await {
            match ended {
                Ok(result) => result?,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        Ok(())
    }
}

impl Tools {
    /// All repetitions of one step, one after the other.
    async fn step(&self, number: usize) -> Result<(), RunError> {
        let step = &self.plan.steps[number];
        self.clock.sleep_until(self.origin + Duration::from_millis(step.at_ms)).await;
        for (repetition, draw) in step.draws.iter().enumerate() {
            if repetition > 0 {
                self.clock.sleep(Duration::from_millis(step.every_ms)).await;
            }
            let record = self.conduct.open_fault(number, repetition, step.action.to_string());
            let strike = Strike { step, draw: *draw, number: record };
            match &step.action {
                FaultAction::Kill { who } => self.kill(&strike, *who).await?,
                FaultAction::PowerCut { who } => self.cut_power(&strike, *who).await?,
                FaultAction::Lose { who } => self.lose(&strike, *who).await?,
                FaultAction::Restart { who } => self.restart(&strike, *who).await?,
                FaultAction::Members { change, who } => self.change_members(&strike, *change, *who).await?,
                FaultAction::Pause { who } => self.pause(&strike, *who).await?,
                FaultAction::Suspend { who } => self.suspend(&strike, *who).await?,
                FaultAction::Rollback { who } => self.rollback(&strike, *who).await?,
                FaultAction::Clock { who, error } => self.clock(&strike, *who, *error).await?,
                FaultAction::Partition { .. } => self.cut(&strike).await?,
                FaultAction::Link { effect, .. } if effect.is_cut() => self.cut(&strike).await?,
                FaultAction::Link { .. } => self.link(&strike).await?,
            }
        }
        Ok(())
    }

    /// What a fault of links is aimed at, if its roles are played by somebody.
    async fn aim(&self, strike: &Strike<'_>) -> Option<Aim> {
        let choose = |roles: &Roles| aim(&self.plan, &strike.step.action, roles, strike.draw);
        let (mut aim, term) = self.await_roles(strike, choose).await?;
        aim.hit_leader_of_term = term.filter(|_| aim.is_leader_lost && self.outlasts_patience(strike));
        Some(aim)
    }

    /// Whether a fault lasts so long that the others elect a new leader if they miss the old one.
    fn outlasts_patience(&self, strike: &Strike<'_>) -> bool {
        strike.step.lasts_ms > self.plan.raft.election_ms_max
    }

    /// Notes that a fault of links is in force.
    fn note_links(&self, strike: &Strike<'_>, aim: &Aim) {
        let began_ns = self.conduct.now_ns();
        self.conduct.fault(strike.number, |fault| {
            fault.text.clone_from(&aim.text);
            fault.began_ns = Some(began_ns);
            fault.minority = aim.minority.iter().copied().collect();
            fault.touched = aim.touched.iter().copied().collect();
            fault.links = aim.rules.keys().copied().collect();
            fault.hit_leader_of_term = aim.hit_leader_of_term;
        });
        self.conduct.event(EventKind::Fault, strike.label(), format!("{}: in force", aim.text));
    }

    /// The node that a fault of one node is aimed at, and the term that it leads, if it does. Whoever has such a fault already is
    /// not hit by another.
    async fn choose_victim(&self, strike: &Strike<'_>, who: Selector) -> Option<Victim> {
        self.choose_victim_among(strike, who, |_| true).await
    }

    /// The same, among those who may be hit.
    async fn choose_victim_among(
        &self,
        strike: &Strike<'_>,
        who: Selector,
        may_be_hit: impl Fn(NodeIndex) -> bool,
    ) -> Option<Victim> {
        let choose = |roles: &Roles| {
            let (mut free, busy) = (roles.clone(), self.busy());
            free.alive.retain(|node| !busy.contains(node) && may_be_hit(*node));
            resolve_one(who, &free, strike.draw).map(|node| (node, roles.leader == Some(node)))
        };
        let ((node, is_leader), term) = self.await_roles(strike, choose).await?;
        let role = if is_leader { "the leader " } else { "" };
        let before = self.watch.incarnation(node);
        Some(Victim { node, role, before, leads_term: term.filter(|_| is_leader) })
    }

    /// The same. From now on it plays no part, and what it said before does not count.
    async fn claim(&self, strike: &Strike<'_>, who: Selector) -> Option<Victim> {
        let victim = self.choose_victim(strike, who).await?;
        self.watch.set_down(victim.node, true);
        Some(victim)
    }

    /// Notes that a node was hit.
    fn note_victim(
        &self,
        strike: &Strike<'_>,
        text: &str,
        node: NodeIndex,
        began_ns: u64,
        hit_leader_of_term: Option<u64>,
    ) {
        self.conduct.fault(strike.number, |fault| {
            text.clone_into(&mut fault.text);
            fault.began_ns = Some(began_ns);
            fault.touched = vec![node];
            fault.hit_leader_of_term = hit_leader_of_term;
        });
    }

    /// Notes that a fault cannot be carried out: there will be no receipt.
    fn give_up(&self, strike: &Strike<'_>, text: &str, problem: &str) {
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: {problem}"));
        self.conduct.fault(strike.number, |fault| {
            text.clone_into(&mut fault.text);
            fault.problem = Some(problem.to_owned());
        });
    }

    fn close(&self, strike: &Strike<'_>, ended_ns: u64, proofs: Vec<Proof>, word: &str) {
        let mut text = String::new();
        self.conduct.fault(strike.number, |fault| {
            fault.ended_ns = Some(ended_ns);
            fault.proofs = proofs;
            fault.problem = None;
            text = match fault.proofs.iter().find(|proof| !proof.is_seen) {
                None => format!("{}: {word}, receipt complete", fault.text),
                Some(missing) => {
                    format!(
                        "{}: {word}, but NO RECEIPT: not seen that {} ({})",
                        fault.text, missing.what, missing.detail
                    )
                }
            };
        });
        self.conduct.event(EventKind::Fault, strike.label(), text);
    }

    /// Resolves the roles of a fault, waiting a while for a leader. Without one there will be no receipt.
    async fn await_roles<T, E: std::fmt::Display>(
        &self,
        strike: &Strike<'_>,
        choose: impl Fn(&Roles) -> Result<T, E>,
    ) -> Option<(T, Option<u64>)> {
        let deadline = self.clock.now() + ROLE_WAIT_MAX;
        loop {
            self.watch.refresh(self.cluster.as_ref(), self.clock.as_ref()).await;
            let (roles, term) = self.watch.roles(self.clock.now());
            let refused = match choose(&roles) {
                Ok(chosen) => return Some((chosen, term)),
                Err(refused) => refused,
            };
            if self.clock.now() >= deadline {
                let problem = format!("nothing to break after {} s: {refused}", ROLE_WAIT_MAX.as_secs());
                self.give_up(strike, &strike.step.action.to_string(), &problem);
                return None;
            }
            self.clock.sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until a node that was started or may go on names an incarnation that is wanted, and answers a linearizable
    /// read; the incarnation.
    async fn await_service(
        &self,
        node: NodeIndex,
        is_wanted: impl Fn(Incarnation) -> bool,
    ) -> Result<Incarnation, NotBack> {
        let deadline = self.clock.now() + RESTART_WAIT_MAX;
        let mut channel = self.cluster.channel(node);
        loop {
            if let Some(state) = self.plan.target.state(channel.as_mut()).await {
                // Whoever answers now is who it will be.
                if !is_wanted(state.incarnation) {
                    return Err(NotBack::Incarnation(state.incarnation));
                }
                let dialect = Dialect::of_lab(&self.plan);
                let read = dialect.request(&register::key(0), &Op::Read);
                let answer = channel.request(read, CLIENT_TIMEOUT).await;
                if matches!(dialect.outcome(&Op::Read, answer), Outcome::Read { .. }) {
                    return Ok(state.incarnation);
                }
            }
            if self.clock.now() >= deadline {
                return Err(NotBack::Silent);
            }
            self.clock.sleep(LOOK_INTERVAL).await;
        }
    }

    fn busy(&self) -> MutexGuard<'_, BTreeSet<NodeIndex>> {
        self.busy.lock().expect("nothing panics while it holds this lock")
    }

    fn name(&self, node: NodeIndex) -> &str {
        &self.plan.nodes[node.position()].name
    }
}

/// `82 MiB`.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// What a fault of links is aimed at.
struct Aim {
    /// With the nodes' names.
    text: String,
    /// What is done to each link.
    rules: Rules,
    minority: BTreeSet<NodeIndex>,
    touched: BTreeSet<NodeIndex>,
    /// Whether the leader has no majority any more that hears it and answers.
    is_leader_lost: bool,
    hit_leader_of_term: Option<u64>,
}

fn aim(plan: &Plan, action: &FaultAction, roles: &Roles, draw: u32) -> Result<Aim, ResolveError> {
    let names = |nodes: &[NodeIndex]| {
        let names: Vec<&str> = nodes.iter().map(|node| plan.nodes[node.position()].name.as_str()).collect();
        match names.len().checked_sub(NAMES_MAX) {
            None | Some(0) => names.join(" "),
            Some(more) => format!("{} and {more} more", names[..NAMES_MAX].join(" ")),
        }
    };
    match action {
        FaultAction::Partition { groups } => {
            let groups = resolve(groups, roles, draw)?;
            let minority = minority(&groups, roles.nodes_count);
            let texts: Vec<String> = groups.iter().map(|group| names(group)).collect();
            Ok(Aim {
                text: format!("partition {}", texts.join(" | ")),
                rules: cut_pairs(&groups).into_iter().map(|pair| (pair, LinkRule::CUT)).collect(),
                is_leader_lost: roles.leader.is_some_and(|leader| minority.contains(&leader)),
                minority,
                touched: groups.iter().flatten().copied().collect(),
                hit_leader_of_term: None,
            })
        }
        FaultAction::Link { from, to, is_both_ways, effect } => {
            let [from, to] = resolve_ends(from, to, roles, draw)?;
            let pairs = link_pairs(&from, &to, *is_both_ways);
            let is_leader_lost = effect.is_cut()
                && roles
                    .leader
                    .is_some_and(|leader| isolates(leader, pairs.iter().copied(), roles.nodes_count));
            Ok(Aim {
                text: effect.text(&names(&from), &names(&to), *is_both_ways),
                is_leader_lost,
                minority: BTreeSet::new(),
                touched: pairs.iter().flat_map(|(from, to)| [*from, *to]).collect(),
                rules: pairs.into_iter().map(|pair| (pair, effect.rule())).collect(),
                hit_leader_of_term: None,
            })
        }
        FaultAction::Kill { .. }
        | FaultAction::PowerCut { .. }
        | FaultAction::Lose { .. }
        | FaultAction::Restart { .. }
        | FaultAction::Members { .. }
        | FaultAction::Pause { .. }
        | FaultAction::Suspend { .. }
        | FaultAction::Rollback { .. }
        | FaultAction::Clock { .. } => unreachable!("these are aimed at nodes"),
    }
}
