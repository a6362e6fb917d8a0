//! Nodes of a lab that is up: orders to them, what they say meanwhile, and how they stop.

use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::future::join_all;

use super::{Lab, refused};
use crate::causes::causes;
use crate::cluster::ClusterError;
use crate::control::desk::{Order, objection};
use crate::control::protocol::{Answer, Failure, NodeDone, Phase, Power};
use crate::limits::{LOOK_INTERVAL, OBSERVE_INTERVAL, RESTART_WAIT_MAX};
use crate::plan::NodeIndex;
use crate::program::Exit;
use crate::runner::record::EventKind;
use crate::target::aspen;

impl Lab {
    /// Carries out an order to nodes, all at once, if it makes sense to each of them.
    pub(super) async fn order(&self, nodes: Vec<NodeIndex>, order: Order) -> Result<Answer, Failure> {
        let objections: Vec<String> = nodes
            .iter()
            .filter_map(|node| self.check(*node, order).err())
            .map(|failure| failure.text)
            .collect();
        if !objections.is_empty() {
            let nothing = (nodes.len() > 1).then(|| "nothing was done to the others".to_owned());
            let nothing = nothing.filter(|_| objections.len() < nodes.len());
            return Err(refused(&objections.into_iter().chain(nothing).collect::<Vec<_>>().join("\n")));
        }
        let done = join_all(nodes.into_iter().map(|node| self.obey(node, order))).await;
        let (done, failed): (Vec<_>, Vec<_>) = done.into_iter().partition(Result::is_ok);
        let failed: Vec<String> =
            failed.into_iter().filter_map(Result::err).map(|failure| failure.text).collect();
        if failed.is_empty() {
            return Ok(Answer::Nodes(done.into_iter().flatten().collect()));
        }
        let done = done.into_iter().flatten().map(|done| format!("{} {}", done.name, done.text));
        Err(refused(&failed.into_iter().chain(done).collect::<Vec<_>>().join("\n")))
    }

    fn check(&self, node: NodeIndex, order: Order) -> Result<(), Failure> {
        let power = self.desks[node.position()].power();
        objection(self.name(node), power, order).map_or(Ok(()), |text| Err(refused(&text)))
    }

    async fn obey(&self, node: NodeIndex, order: Order) -> Result<NodeDone, Failure> {
        let desk = &self.desks[node.position()];
        let failed = |error: ClusterError| refused(&causes(&error));
        let turn = desk.turn.lock().await;
        // Somebody else may have been faster.
        self.check(node, order)?;
        let text = match order {
            Order::Kill => {
                // First, so that nobody takes it for an end of its own; its connections are closed.
                let before = desk.power();
                desk.set_power(Power::Down);
                let exit = self.cluster.kill(node).await.map_err(|error| {
                    desk.set_power(before);
                    failed(error)
                })?;
                if exit == Exit::Signal(9) {
                    "was killed".to_owned()
                } else {
                    format!("was killed; it had ended by itself before: {exit}")
                }
            }
            Order::Pause => {
                self.cluster.pause(node).await.map_err(failed)?;
                desk.set_power(Power::Paused);
                "is paused".to_owned()
            }
            Order::Resume => {
                self.cluster.resume(node).await.map_err(failed)?;
                desk.set_power(Power::Running);
                // No clock of a machine has seen the time go by.
                if self.cluster.has_clocks()
                    && let Err(error) = self.cluster.mend_clock(node).await
                {
                    let text = format!("its clock stays behind: {}", causes(&error));
                    self.event(EventKind::Warning, self.name(node), &text);
                }
                "goes on".to_owned()
            }
            Order::Start => {
                self.cluster.start(node).await.map_err(failed)?;
                desk.set_power(Power::Running);
                "was started".to_owned()
            }
        };
        drop(turn);
        self.event(EventKind::Hand, self.name(node), &text);
        let text = if order == Order::Start { self.await_answer(node).await? } else { text };
        Ok(NodeDone { name: self.name(node).to_owned(), text })
    }

    /// Waits until a node that was started answers; how long that took.
    async fn await_answer(&self, node: NodeIndex) -> Result<String, Failure> {
        let (began, name) = (Instant::now(), self.name(node));
        let deadline = self.clock.now() + RESTART_WAIT_MAX;
        let mut channel = self.cluster.channel(node);
        loop {
            if let Some(state) = aspen::state(channel.as_mut()).await {
                self.desks[node.position()].see(self.clock.now(), state);
                return Ok(format!("was started, and answers after {:.1} s", began.elapsed().as_secs_f64()));
            }
            if self.desks[node.position()].power() != Power::Running {
                return Err(refused(&format!(
                    "{name} was started and runs no more: `lab console {name}` shows why"
                )));
            }
            if self.clock.now() > deadline {
                let within = RESTART_WAIT_MAX.as_secs();
                let text =
                    format!("{name} runs, but does not answer within {within} s: see `lab console {name}`");
                return Err(refused(&text));
            }
            self.clock.sleep(LOOK_INTERVAL).await;
        }
    }

    /// Asks a node how it is, again and again, as long as it is polled.
    pub(in crate::control) async fn watch(&self, node: NodeIndex) {
        let desk = &self.desks[node.position()];
        let mut power = desk.watch();
        let mut channel = self.cluster.channel(node);
        loop {
            if desk.power() == Power::Running
                && let Some(state) = aspen::state(channel.as_mut()).await
            {
                desk.see(self.clock.now(), state);
                if let Some(term) = desk.leads(self.clock.now()) {
                    self.note_leader(node, term);
                }
            }
            tokio::select! {
                () = self.clock.sleep(OBSERVE_INTERVAL) => {}
                // One that runs again is asked at once. The sender lives as long as the lab.
                _ = power.changed() => {}
            }
        }
    }

    fn note_leader(&self, node: NodeIndex, term: u64) {
        if self.term.fetch_max(term, Ordering::Relaxed) < term {
            self.event(EventKind::Leader, self.name(node), &format!("leads term {term}"));
        }
    }

    /// Notes nodes that end by themselves, as long as it is polled.
    pub(in crate::control) async fn watch_deaths(&self) {
        loop {
            for (node, _) in self.cluster.deaths() {
                let (desk, name) = (&self.desks[node.position()], self.name(node));
                // Whoever gives it orders sees for himself, and may just have started it again.
                let Ok(_turn) = desk.turn.try_lock() else { continue };
                let ended = self.cluster.deaths().into_iter().find(|(other, _)| *other == node);
                let Some((_, exit)) = ended else { continue };
                // A machine is on, and starts its node again.
                let is_on = self.cluster.runs(node).await;
                let is_news = if is_on { desk.note_end() } else { desk.set_power(Power::Down) };
                if is_news {
                    let again = if is_on { ", and is started again" } else { "" };
                    let text =
                        format!("ended by itself{again}: {exit}; `lab console {name}` shows its last words");
                    self.event(EventKind::Death, name, &text);
                }
            }
            self.clock.sleep(LOOK_INTERVAL).await;
        }
    }

    /// Lets everything be: the nodes never served, so that nothing of them is worth waiting for, and they end with the lab.
    pub(in crate::control) fn let_go(&self) {
        self.phase.send_replace(Phase::Stopping);
        self.event(EventKind::Phase, "down", "the nodes end with the lab, which has not come up");
        for desk in &self.desks {
            desk.set_power(Power::Down);
        }
        self.farewell.send_replace(Some(Vec::new()));
    }

    /// Stops every node that runs; what did not go as it should.
    pub(in crate::control) async fn stop_nodes(&self) -> Vec<String> {
        self.phase.send_replace(Phase::Stopping);
        self.event(EventKind::Phase, "down", "the nodes are asked to stop");
        let stops = self.plan.node_indexes().map(|node| async move {
            let desk = &self.desks[node.position()];
            // An order that is under way comes to its end first.
            let _turn = desk.turn.lock().await;
            let (name, power) = (self.name(node), desk.power());
            desk.set_power(Power::Down);
            match power {
                Power::Down => return None,
                Power::Running => {}
                // A machine that stands still cannot be asked.
                Power::Paused => {
                    if let Err(error) = self.cluster.resume(node).await {
                        return Some(format!("{name} does not go on: {}", causes(&error)));
                    }
                }
            }
            match self.cluster.stop(node).await {
                Ok(Exit::Code(0)) => None,
                Ok(exit) => Some(format!("{name} did not stop cleanly: {exit}")),
                Err(error) => Some(format!("{name} did not stop cleanly: {}", causes(&error))),
            }
        });
        let problems: Vec<String> = join_all(stops).await.into_iter().flatten().collect();
        for problem in &problems {
            self.event(EventKind::Warning, "down", problem);
        }
        self.farewell.send_replace(Some(problems.clone()));
        problems
    }
}
