//! Breaks what the plan says, when it says so, and collects the receipts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;

use super::observe::{Watch, raft_state};
use super::record::{Conduct, EventKind, Proof};
use super::{RunError, Stage};
use crate::cluster::{Clock, Cluster, ClusterError, FrameCounts, NodePair, Probe, Request};
use crate::limits::{CLIENT_TIMEOUT, LOOK_INTERVAL, PROBE_TRIES_MAX, RESTART_WAIT_MAX, ROLE_WAIT_MAX};
use crate::observations::Incarnation;
use crate::plan::{FaultAction, NodeIndex, Plan, Roles, Step, cut_pairs, minority, resolve, resolve_one};
use crate::program::Exit;

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
    /// The links that each fault keeps cut: a link is healed when no fault cuts it any more.
    cuts: Mutex<BTreeMap<usize, BTreeSet<NodePair>>>,
    /// Held from the probes before a cut until it is in force, so that two cuts do not spoil each other's proof.
    striking: tokio::sync::Mutex<()>,
}

/// One repetition that is under way.
struct Strike<'a> {
    step: &'a Step,
    draw: u32,
    /// Its number in the notebook.
    number: usize,
}

impl Strike<'_> {
    /// Its name in events.
    fn label(&self) -> String {
        format!("fault {}", self.number + 1)
    }
}

impl Breaker {
    pub(super) fn new(stage: &Stage, conduct: Arc<Conduct>, watch: Watch, origin: Duration) -> Self {
        let tools = Tools {
            plan: stage.plan.clone(),
            cluster: stage.cluster.clone(),
            clock: stage.clock.clone(),
            conduct,
            watch,
            origin,
            cuts: Mutex::default(),
            striking: tokio::sync::Mutex::default(),
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
                FaultAction::Kill { .. } => self.kill(&strike).await?,
                FaultAction::Partition { .. } | FaultAction::CutOneWay { .. } => self.cut(&strike).await?,
            }
        }
        Ok(())
    }

    /// Cuts links, proves it, waits, and heals.
    async fn cut(&self, strike: &Strike<'_>) -> Result<(), RunError> {
        let chosen =
            self.await_roles(strike, |roles| choose_cut(&strike.step.action, roles, strike.draw)).await;
        let Some((cut, term)) = chosen else { return Ok(()) };
        let text = cut.text(&self.plan);
        let striking = self.striking.lock().await;
        let cut_already = self.all_cuts();
        if cut.pairs.is_subset(&cut_already) {
            let problem = "every one of its links was cut already".to_owned();
            self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: {problem}"));
            self.conduct.fault(strike.number, |fault| fault.problem = Some(problem));
            return Ok(());
        }
        // A probe needs the way back, too.
        let is_whole = |(from, to): &&NodePair| {
            !cut_already.contains(&(*from, *to)) && !cut_already.contains(&(*to, *from))
        };
        let whole: Vec<NodePair> = cut.pairs.iter().filter(is_whole).copied().collect();
        let before = self.probe_until_answered(&whole).await?;
        let began = self.set_cut(strike.number, Some(cut.pairs.clone()))?;
        drop(striking);
        let began_ns = self.conduct.now_ns();
        self.conduct.fault(strike.number, |fault| {
            fault.text.clone_from(&text);
            fault.began_ns = Some(began_ns);
            fault.minority = cut.minority.iter().copied().collect();
            fault.touched = cut.touched.iter().copied().collect();
            fault.links = cut.pairs.iter().copied().collect();
            fault.hit_leader_of_term = term.filter(|_| cut.isolates_leader);
        });
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: in force"));
        let healed_at = self.clock.now() + Duration::from_millis(strike.step.lasts_ms);
        let pairs: Vec<NodePair> = cut.pairs.iter().copied().collect();
        let during = self.probe_all(&pairs).await?;
        self.clock.sleep_until(healed_at).await;
        // Before the heal: what came through after it proves nothing.
        let ended = self.cluster.frame_counts()?;
        let ended_ns = self.conduct.now_ns();
        self.set_cut(strike.number, None)?;
        let proofs = vec![
            probes_proof("before it, a probe over every link was answered", &before, true),
            probes_proof("during it, no probe over any link was answered", &during, false),
            frames_proof(&self.plan, &pairs, &began, &ended),
        ];
        self.close(strike, ended_ns, proofs, "healed");
        Ok(())
    }

    /// Kills a node, starts it again, and waits until it serves.
    async fn kill(&self, strike: &Strike<'_>) -> Result<(), RunError> {
        let FaultAction::Kill { who } = &strike.step.action else { return Ok(()) };
        let chosen = self.await_roles(strike, |roles| {
            resolve_one(*who, roles, strike.draw).map(|node| (node, roles.leader == Some(node)))
        });
        let Some(((node, is_leader), term)) = chosen.await else { return Ok(()) };
        let name = self.plan.nodes[node.position()].name.clone();
        let incarnation = self.watch.incarnation(node);
        self.watch.set_down(node, true);
        let exit = self.cluster.kill(node).await?;
        if exit != Exit::Signal(9) {
            // It was dead before it was killed.
            self.conduct.death(node, &name, &exit.to_string(), self.cluster.console_end(node));
            return Ok(());
        }
        let began_ns = self.conduct.now_ns();
        let role = if is_leader { "the leader " } else { "" };
        let text = format!("kill {role}{name}");
        self.conduct.fault(strike.number, |fault| {
            fault.text.clone_from(&text);
            fault.began_ns = Some(began_ns);
            fault.touched = vec![node];
            fault.hit_leader_of_term = term.filter(|_| is_leader);
        });
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: ended by {exit}"));
        self.clock.sleep(Duration::from_millis(strike.step.lasts_ms)).await;
        self.cluster.start(node).await?;
        let ended_ns = self.conduct.now_ns();
        let served = self.await_service(node, incarnation).await;
        self.watch.set_down(node, false);
        let killed = Proof {
            what: "the process ended by signal 9".to_owned(),
            is_seen: exit == Exit::Signal(9),
            detail: exit.to_string(),
        };
        let restarted = Proof {
            what: "a new incarnation serves".to_owned(),
            is_seen: served.is_ok(),
            detail: served.unwrap_or_else(|reason| reason),
        };
        self.close(strike, ended_ns, vec![killed, restarted], "serves again");
        Ok(())
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
                self.conduct.event(EventKind::Fault, strike.label(), problem.clone());
                self.conduct.fault(strike.number, |fault| fault.problem = Some(problem));
                return None;
            }
            self.clock.sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until a restarted node names a new incarnation and answers a linearizable read.
    async fn await_service(&self, node: NodeIndex, before: Option<Incarnation>) -> Result<String, String> {
        let deadline = self.clock.now() + RESTART_WAIT_MAX;
        let mut channel = self.cluster.channel(node);
        loop {
            let state = raft_state(channel.as_mut()).await;
            if let Some(state) = state.filter(|state| Some(state.incarnation) != before) {
                let read = Request::post("/kv/read", &json!({ "key": "k0" }));
                let answer = channel.request(read, CLIENT_TIMEOUT).await;
                if answer.is_ok_and(|answer| matches!(answer.status, 200 | 404)) {
                    let before = before.map_or_else(|| "none seen".to_owned(), |before| before.to_string());
                    return Ok(format!("incarnation {} after {before}", state.incarnation));
                }
            }
            if self.clock.now() >= deadline {
                return Err(format!("it does not serve {} s after its start", RESTART_WAIT_MAX.as_secs()));
            }
            self.clock.sleep(LOOK_INTERVAL).await;
        }
    }

    /// Sets or lifts the cut of one fault; the frames so far, read when it is in force.
    fn set_cut(
        &self,
        number: usize,
        pairs: Option<BTreeSet<NodePair>>,
    ) -> Result<BTreeMap<NodePair, FrameCounts>, ClusterError> {
        let mut cuts = self.cuts.lock().expect("nothing panics while it holds this lock");
        match pairs {
            Some(pairs) => drop(cuts.insert(number, pairs)),
            None => drop(cuts.remove(&number)),
        }
        let all: BTreeSet<NodePair> = cuts.values().flatten().copied().collect();
        self.cluster.set_cuts(&all)
    }

    fn all_cuts(&self) -> BTreeSet<NodePair> {
        let cuts = self.cuts.lock().expect("nothing panics while it holds this lock");
        cuts.values().flatten().copied().collect()
    }

    /// Probes that have to be answered: a late answer is no proof of anything, so it is asked for again.
    async fn probe_until_answered(&self, pairs: &[NodePair]) -> Result<Vec<(String, Probe)>, ClusterError> {
        let mut probes = self.probe_all(pairs).await?;
        for _ in 1..PROBE_TRIES_MAX {
            if probes.iter().all(|(_, probe)| matches!(probe, Probe::Answered(_))) {
                break;
            }
            probes = self.probe_all(pairs).await?;
        }
        Ok(probes)
    }

    async fn probe_all(&self, pairs: &[NodePair]) -> Result<Vec<(String, Probe)>, ClusterError> {
        let probes = pairs.iter().map(|(from, to)| async move {
            Ok((link_name(&self.plan, (*from, *to)), self.cluster.probe(*from, *to).await?))
        });
        join_all(probes).await.into_iter().collect()
    }
}

/// What a cut will do.
struct Cut {
    groups: Vec<Vec<NodeIndex>>,
    pairs: BTreeSet<NodePair>,
    minority: BTreeSet<NodeIndex>,
    touched: BTreeSet<NodeIndex>,
    /// Whether the leader is left without a majority.
    isolates_leader: bool,
    is_one_way: bool,
}

impl Cut {
    fn text(&self, plan: &Plan) -> String {
        let names = |group: &Vec<NodeIndex>| {
            group.iter().map(|node| plan.nodes[node.position()].name.as_str()).collect::<Vec<_>>().join(" ")
        };
        let groups: Vec<String> = self.groups.iter().map(names).collect();
        if self.is_one_way {
            format!("cut {}", groups.join(" -> "))
        } else {
            format!("partition {}", groups.join(" | "))
        }
    }
}

fn choose_cut(action: &FaultAction, roles: &Roles, draw: u32) -> Result<Cut, crate::plan::ResolveError> {
    match action {
        FaultAction::CutOneWay { from, to } => {
            let groups = resolve(&[vec![*from], vec![*to]], roles, draw)?;
            let pairs: BTreeSet<NodePair> =
                groups[0].iter().flat_map(|from| groups[1].iter().map(|to| (*from, *to))).collect();
            let touched = groups.iter().flatten().copied().collect();
            let minority = BTreeSet::new();
            Ok(Cut { groups, pairs, minority, touched, isolates_leader: false, is_one_way: true })
        }
        FaultAction::Partition { groups } => {
            let groups = resolve(groups, roles, draw)?;
            let minority = minority(&groups, roles.nodes_count);
            let touched = groups.iter().flatten().copied().collect();
            let isolates_leader = roles.leader.is_some_and(|leader| minority.contains(&leader));
            Ok(Cut {
                pairs: cut_pairs(&groups),
                groups,
                minority,
                touched,
                isolates_leader,
                is_one_way: false,
            })
        }
        FaultAction::Kill { .. } => unreachable!("a kill cuts nothing"),
    }
}

fn link_name(plan: &Plan, (from, to): NodePair) -> String {
    format!("{} -> {}", plan.nodes[from.position()].name, plan.nodes[to.position()].name)
}

/// Whether every probe was answered, or none.
fn probes_proof(what: &str, probes: &[(String, Probe)], want_answers: bool) -> Proof {
    let is_wanted = |probe: &Probe| matches!(probe, Probe::Answered(_)) == want_answers;
    let unwanted: Vec<&str> =
        probes.iter().filter(|(_, probe)| !is_wanted(probe)).map(|(link, _)| link.as_str()).collect();
    let detail = match (unwanted.is_empty(), want_answers) {
        (true, _) => format!("{} probes", probes.len()),
        (false, true) => format!("no answer over {}", unwanted.join(", ")),
        (false, false) => format!("answered over {}", unwanted.join(", ")),
    };
    Proof { what: what.to_owned(), is_seen: unwanted.is_empty(), detail }
}

/// Whether every cut link swallowed at least one frame and let none through.
fn frames_proof(
    plan: &Plan,
    pairs: &[NodePair],
    began: &BTreeMap<NodePair, FrameCounts>,
    ended: &BTreeMap<NodePair, FrameCounts>,
) -> Proof {
    let what = "every cut link swallowed at least one frame and let none through".to_owned();
    let mut dropped_total = 0;
    let mut missing = Vec::new();
    for pair in pairs {
        let count = |counts: &BTreeMap<NodePair, FrameCounts>| counts.get(pair).copied().unwrap_or_default();
        let (began, ended) = (count(began), count(ended));
        let dropped = ended.dropped_cut - began.dropped_cut;
        let delivered = ended.delivered - began.delivered;
        dropped_total += dropped;
        if dropped == 0 || delivered > 0 {
            missing.push(format!("{}: {dropped} dropped, {delivered} delivered", link_name(plan, *pair)));
        }
    }
    let detail = if missing.is_empty() {
        format!("{dropped_total} frames dropped on {} links, 0 delivered", pairs.len())
    } else {
        missing.join("; ")
    };
    Proof { what, is_seen: missing.is_empty(), detail }
}
