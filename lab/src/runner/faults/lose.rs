//! Voters that are lost for good, in whose place the cluster puts another by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Strike, Tools, Victim};
use crate::limits::LOOK_INTERVAL;
use crate::plan::{NodeIndex, ResolveError, Roles, Selector};
use crate::runner::RunError;
use crate::runner::record::{EventKind, Proof};

/// What was seen of the members since one was lost.
#[derive(Debug, Default)]
struct Seen {
    /// How often a leader has said who they are.
    looks: u32,
    /// Of how many voters how many ran, when that was the smallest part of them.
    fewest: Option<(usize, usize)>,
    /// Who votes instead, and how long after the loss that was seen first.
    replaced: Option<(BTreeSet<u64>, Duration)>,
}

impl Seen {
    /// Takes a leader's word for who is a member, and who of the voters runs.
    fn look(
        &mut self,
        lost: u64,
        before: &BTreeSet<u64>,
        voters: &BTreeSet<u64>,
        is_member: bool,
        running: usize,
        after: Duration,
    ) {
        self.looks += 1;
        let is_fewer = |(fewest, of): &(usize, usize)| running * of < fewest * voters.len();
        if self.fewest.as_ref().is_none_or(is_fewer) {
            self.fewest = Some((running, voters.len()));
        }
        if !is_member && !voters.contains(&lost) && voters.len() == before.len() {
            self.replaced = Some((voters - before, after));
        }
    }
}

impl Tools {
    /// Kills a voter for good, and waits until another votes in its place.
    pub(super) async fn lose(&self, strike: &Strike<'_>, who: Selector) -> Result<(), RunError> {
        // Changes of the members come one after the other.
        let _turn = self.changing.lock().await;
        let Some(before) = self.voters(strike).await else { return Ok(()) };
        let may_be_hit = |node: NodeIndex| before.contains(&node.raft_id());
        let Some(Victim { node, role, before: incarnation, leads_term }) =
            self.choose_victim_among(strike, who, may_be_hit).await
        else {
            return Ok(());
        };
        let name = self.name(node);
        self.watch.retire(node);
        let exit = self.cluster.kill(node).await?;
        if self.was_dead(node, exit) {
            return Ok(());
        }
        let (began_ns, began) = (self.conduct.now_ns(), self.clock.now());
        let text = format!("lose {role}{name}");
        self.note_victim(strike, &text, node, began_ns, leads_term);
        self.conduct.fault(strike.number, |fault| fault.retired = vec![node]);
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: ended by {exit}, for good"));
        let mut seen = Seen::default();
        while seen.replaced.is_none() && self.clock.now() < began + strike.lasts() {
            self.clock.sleep(LOOK_INTERVAL).await;
            self.watch.refresh(self.cluster.as_ref(), self.clock.as_ref()).await;
            let Some((_, members)) = self.settled_members().await else { continue };
            let voters: BTreeSet<u64> =
                members.iter().filter(|(_, votes)| **votes).map(|(id, _)| *id).collect();
            let (roles, _) = self.watch.roles(self.clock.now());
            let running = roles.alive.iter().filter(|node| voters.contains(&node.raft_id())).count();
            let is_member = members.contains_key(&node.raft_id());
            let after = self.clock.now().saturating_sub(began);
            seen.look(node.raft_id(), &before, &voters, is_member, running, after);
        }
        let ended_ns = self.conduct.now_ns();
        let is_gone = !self.cluster.runs(node).await;
        let mut proofs = vec![Proof {
            what: "before it, the node answered; then the process ended by signal 9 and stayed gone"
                .to_owned(),
            is_seen: is_gone && incarnation.is_some(),
            detail: if is_gone { exit.to_string() } else { format!("{exit}, and the host still saw it") },
        }];
        proofs.extend(instead(&seen, &before));
        self.close(strike, ended_ns, proofs, "another votes in its place");
        Ok(())
    }

    /// Who votes, by a leader's word. Without one there will be no receipt.
    async fn voters(&self, strike: &Strike<'_>) -> Option<BTreeSet<u64>> {
        let leads = |roles: &Roles| roles.leader.ok_or(ResolveError::NoLeader);
        self.await_roles(strike, leads).await?;
        let Some((_, members)) = self.settled_members().await else {
            self.give_up(strike, &strike.step.action.to_string(), "no leader says who is a member");
            return None;
        };
        Some(members.into_iter().filter(|(_, votes)| *votes).map(|(id, _)| id).collect())
    }
}

/// That another votes in the place of the one that was lost, and that there was a majority all along.
fn instead(seen: &Seen, before: &BTreeSet<u64>) -> [Proof; 2] {
    let names = |ids: &BTreeSet<u64>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    [
        Proof {
            what: "it is no member any more, and as many vote as before".to_owned(),
            is_seen: seen.replaced.as_ref().is_some_and(|(others, _)| others.len() == 1),
            detail: match &seen.replaced {
                Some((others, after)) => {
                    format!("node {} instead, seen after {:.3} s", names(others), after.as_secs_f64())
                }
                None => format!("nobody instead in time; before it, nodes {} voted", names(before)),
            },
        },
        Proof {
            what: "at every look more than half of the voters ran".to_owned(),
            is_seen: seen.fewest.is_some_and(|(running, of)| running > of / 2),
            detail: match seen.fewest {
                Some((running, of)) => format!("{running} of {of} at least, in {} looks", seen.looks),
                None => "no leader said who votes".to_owned(),
            },
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at the voters, with whether the lost node is a member and how many of them run; node 5 of five is lost.
    #[track_caller]
    fn check(looks: &[(&[u64], bool, usize)], want: [bool; 2]) {
        let before = (1..=5).collect();
        let mut seen = Seen::default();
        for (voters, is_member, running) in looks {
            let voters = voters.iter().copied().collect();
            seen.look(5, &before, &voters, *is_member, *running, Duration::from_secs(1));
        }
        assert_eq!(instead(&seen, &before).map(|proof| proof.is_seen), want, "{seen:?}");
    }

    #[test]
    fn loss_that_nobody_makes_good_or_that_costs_the_majority_is_seen() {
        check(&[(&[1, 2, 3, 4, 5], true, 4), (&[1, 2, 3, 4, 6], false, 5)], [true, true]);
        check(&[(&[1, 2, 3, 4, 5], true, 4)], [false, true]);
        // One voter less is no replacement, nor is one that stays a member.
        check(&[(&[1, 2, 3, 4], false, 4)], [false, true]);
        check(&[(&[1, 2, 3, 4, 6], true, 5)], [false, true]);
        check(&[(&[1, 2, 3, 4, 5, 6], true, 2), (&[1, 2, 3, 4, 6], false, 5)], [true, false]);
        check(&[], [false, false]);
    }
}
