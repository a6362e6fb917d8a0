//! Members that come, vote and leave while the cluster serves.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::{Strike, Tools};
use crate::cluster::Request;
use crate::history::{Op, Outcome};
use crate::limits::{CLIENT_TIMEOUT, LOOK_INTERVAL, MEMBERS_CHANGE_MAX, RESTART_WAIT_MAX};
use crate::plan::{MemberChange, NodeIndex, Roles, Selector, resolve_one};
use crate::runner::RunError;
use crate::runner::record::{EventKind, Proof};
use crate::target::{Dialect, cluster_status};
use crate::workload::register;

/// What a node is to the cluster, by its leader's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Outside,
    Learner,
    Voter,
}

impl Standing {
    fn text(self) -> &'static str {
        match self {
            Self::Outside => "no member",
            Self::Learner => "a learner",
            Self::Voter => "a voter",
        }
    }
}

impl Tools {
    /// Asks the leader for a change until it is made, and looks at what came of it.
    pub(super) async fn change_members(
        &self,
        strike: &Strike<'_>,
        change: MemberChange,
        who: Selector,
    ) -> Result<(), RunError> {
        let choose = |roles: &Roles| match who {
            // Whoever waits outside plays no part.
            Selector::Node(node) => Ok((node, roles.leader == Some(node))),
            role => resolve_one(role, roles, strike.draw).map(|node| (node, roles.leader == Some(node))),
        };
        let Some(((node, is_leader), term)) = self.await_roles(strike, choose).await else { return Ok(()) };
        let role = if is_leader { "the leader " } else { "" };
        let text = format!("{} {role}{}", change.key(), self.name(node));
        // One after the other: the next is about what this one has made.
        let _turn = self.changing.lock().await;
        let Some((before, goal)) = self.await_standing(node, |_| true).await else {
            self.give_up(strike, &text, "no leader says who is a member");
            return Ok(());
        };
        let began_ns = self.conduct.now_ns();
        self.conduct.fault(strike.number, |fault| {
            fault.text.clone_from(&text);
            fault.began_ns = Some(began_ns);
            fault.hit_leader_of_term = term.filter(|_| is_leader && change == MemberChange::Remove);
            match change {
                MemberChange::Remove => fault.removed = vec![node],
                MemberChange::Add | MemberChange::Promote => fault.touched = vec![node],
            }
        });
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: asked for"));
        if change == MemberChange::Remove {
            // From now on nobody counts on it.
            self.watch.set_outside(node, true);
        }
        let (path, wanted) = match change {
            MemberChange::Add => ("/cluster/add-learner", Standing::Learner),
            MemberChange::Promote => ("/cluster/promote-learner", Standing::Voter),
            MemberChange::Remove => ("/cluster/remove-member", Standing::Outside),
        };
        if let Err(answer) = self.ask_leader(path, &json!({ "id": node.raft_id() })).await {
            self.give_up(strike, &text, &format!("the change is not made: {answer}"));
            return Ok(());
        }
        if change == MemberChange::Add {
            self.watch.set_outside(node, false);
        }
        let after =
            self.await_standing(node, |standing| standing == wanted).await.map(|(standing, _)| standing);
        let ended_ns = self.conduct.now_ns();
        let mut proofs = vec![changed(change, before, after, wanted)];
        proofs.push(match change {
            MemberChange::Add | MemberChange::Promote => self.has_caught_up(node, goal).await,
            MemberChange::Remove => self.is_refused(node).await,
        });
        self.close(strike, ended_ns, proofs, "done");
        Ok(())
    }

    /// What a node is to the cluster by its leader's word, and the leader's last entry.
    async fn standing(&self, node: NodeIndex) -> Option<(Standing, u64)> {
        let (leader, members) = self.settled_members().await?;
        let state = self.plan.target.state(self.cluster.channel(leader).as_mut()).await?;
        let standing = match members.get(&node.raft_id()) {
            None => Standing::Outside,
            Some(true) => Standing::Voter,
            Some(false) => Standing::Learner,
        };
        Some((standing, state.last_log_index.unwrap_or(0)))
    }

    /// Who leads, and whether each member votes by its word, by their numbers; nothing while they are being changed.
    pub(super) async fn settled_members(&self) -> Option<(NodeIndex, BTreeMap<u64, bool>)> {
        let (roles, _) = self.watch.roles(self.clock.now());
        let leader = roles.leader?;
        let status = cluster_status(self.cluster.channel(leader).as_mut()).await?;
        let members = status.members.into_iter().map(|member| (member.id.0, member.is_voter));
        (status.role == "leader" && !status.is_changing).then(|| (leader, members.collect()))
    }

    /// Waits until a leader says that a node is what is wanted; what one has said last, and its last entry.
    async fn await_standing(
        &self,
        node: NodeIndex,
        is_wanted: impl Fn(Standing) -> bool,
    ) -> Option<(Standing, u64)> {
        let deadline = self.clock.now() + MEMBERS_CHANGE_MAX;
        let mut last = None;
        loop {
            self.watch.refresh(self.cluster.as_ref(), self.clock.as_ref()).await;
            last = self.standing(node).await.or(last);
            if last.is_some_and(|(standing, _)| is_wanted(standing)) || self.clock.now() >= deadline {
                return last;
            }
            self.clock.sleep(LOOK_INTERVAL).await;
        }
    }

    /// Asks whoever leads, again and again, until it is done; the last refusal otherwise. Asked again, a change that is made is
    /// none.
    async fn ask_leader(&self, path: &str, body: &Json) -> Result<(), String> {
        let deadline = self.clock.now() + MEMBERS_CHANGE_MAX;
        let mut refusal = "nobody leads".to_owned();
        loop {
            self.watch.refresh(self.cluster.as_ref(), self.clock.as_ref()).await;
            let (roles, _) = self.watch.roles(self.clock.now());
            // A leader that is to leave leads until it has.
            for node in roles.leader.into_iter().chain(self.watch.outside()) {
                let answer =
                    self.cluster.channel(node).request(Request::post(path, body), CLIENT_TIMEOUT).await;
                match answer {
                    Ok(response) if response.status == 200 => return Ok(()),
                    Ok(response) => refusal = format!("{} {}", response.status, response.body),
                    Err(error) => refusal = error.to_string(),
                }
            }
            if self.clock.now() >= deadline {
                return Err(refusal);
            }
            self.clock.sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until a node has applied an entry.
    async fn has_caught_up(&self, node: NodeIndex, goal: u64) -> Proof {
        let deadline = self.clock.now() + RESTART_WAIT_MAX;
        let mut channel = self.cluster.channel(node);
        let applied = loop {
            let state = self.plan.target.state(channel.as_mut()).await;
            let applied = state.and_then(|state| state.applied).map(|position| position.index);
            if applied.is_some_and(|applied| applied >= goal) || self.clock.now() >= deadline {
                break applied;
            }
            self.clock.sleep(LOOK_INTERVAL).await;
        };
        Proof {
            what: "it has everything that there was when it was asked for".to_owned(),
            is_seen: applied.is_some_and(|applied| applied >= goal),
            detail: match applied {
                Some(applied) => format!("entry {applied}, and there were {goal}"),
                None => format!("nothing, and there were {goal}"),
            },
        }
    }

    /// Asks a node that has left for a linearizable read until it refuses one, and once more: it answers none any more.
    async fn is_refused(&self, node: NodeIndex) -> Proof {
        let dialect = Dialect::of_lab(&self.plan);
        let mut channel = self.cluster.channel(node);
        let deadline = self.clock.now() + MEMBERS_CHANGE_MAX;
        let mut refused = 0;
        while refused < 2 && self.clock.now() < deadline {
            let read = dialect.request(&register::key(0), &Op::Read);
            let answer = channel.request(read, CLIENT_TIMEOUT).await;
            let is_answered = matches!(dialect.outcome(&Op::Read, answer), Outcome::Read { .. });
            refused = if is_answered { 0 } else { refused + 1 };
            self.clock.sleep(LOOK_INTERVAL).await;
        }
        Proof {
            what: "afterwards it answered no linearizable read".to_owned(),
            is_seen: refused == 2,
            detail: format!("{refused} in a row were refused"),
        }
    }
}

/// That a change has changed something.
fn changed(change: MemberChange, before: Standing, after: Option<Standing>, wanted: Standing) -> Proof {
    let began = match change {
        MemberChange::Add => before == Standing::Outside,
        MemberChange::Promote => before == Standing::Learner,
        MemberChange::Remove => before != Standing::Outside,
    };
    Proof {
        what: format!("by its leader's word it was another, and then {}", wanted.text()),
        is_seen: began && after == Some(wanted),
        detail: format!("{}, then {}", before.text(), after.map_or("nobody said", Standing::text)),
    }
}

#[cfg(test)]
mod tests {
    use super::MemberChange::{Add, Promote, Remove};
    use super::Standing::{Learner, Outside, Voter};
    use super::*;

    #[test]
    fn change_that_changed_nothing_is_seen() {
        let check = |change, before, after, wanted, is_seen| {
            assert_eq!(
                changed(change, before, after, wanted).is_seen,
                is_seen,
                "{change:?} {before:?} {after:?}"
            );
        };
        check(Add, Outside, Some(Learner), Learner, true);
        check(Add, Learner, Some(Learner), Learner, false);
        check(Add, Outside, None, Learner, false);
        check(Promote, Learner, Some(Voter), Voter, true);
        check(Promote, Learner, Some(Learner), Voter, false);
        check(Remove, Voter, Some(Outside), Outside, true);
        check(Remove, Learner, Some(Outside), Outside, true);
        check(Remove, Outside, Some(Outside), Outside, false);
    }
}
