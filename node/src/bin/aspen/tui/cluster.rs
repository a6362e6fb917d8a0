//! The cluster as the terminal shows it: what the last look saw, and what has changed since the one before. No terminal and no
//! network.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{EVENTS_MAX, RATES_MAX};

/// A member, as one look saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) http: SocketAddr,
    pub(crate) is_voter: bool,
    /// What its leader says of it.
    pub(crate) health: Option<String>,
    /// Its region and zone, if it has said so.
    pub(crate) place: Option<String>,
    /// What it says of itself, if it answers.
    pub(crate) state: Option<State>,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) role: String,
    pub(crate) applied: u64,
    pub(crate) last: u64,
    /// The last entry of its newest snapshot.
    pub(crate) snapshot: Option<u64>,
}

/// What one look saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    /// Who was asked for the members.
    pub(crate) asked: SocketAddr,
    pub(crate) term: u64,
    pub(crate) leader: Option<u64>,
    /// By number.
    pub(crate) members: Vec<Member>,
}

impl Look {
    /// The furthest entry that anybody has.
    pub(crate) fn last(&self) -> u64 {
        self.states().map(|state| state.last).max().unwrap_or(0)
    }

    fn applied(&self) -> u64 {
        self.states().map(|state| state.applied).max().unwrap_or(0)
    }

    fn states(&self) -> impl Iterator<Item = &State> {
        self.members.iter().filter_map(|member| member.state.as_ref())
    }
}

/// The cluster over time.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// The last look that saw anything.
    pub(crate) look: Option<(Look, Instant)>,
    /// Why the very last one saw nothing.
    pub(crate) error: Option<String>,
    /// What has changed and when, the last first.
    pub(crate) events: VecDeque<(Instant, String)>,
    /// Entries applied a second, the last one last.
    pub(crate) rates: VecDeque<u64>,
    pub(crate) selected: usize,
}

impl Cluster {
    /// Takes in what a look saw.
    pub(crate) fn take(&mut self, seen: Result<Look, String>, now: Instant) {
        let look = match seen {
            Ok(look) => look,
            Err(error) => {
                if self.error.is_none() {
                    self.note(now, "no node can be reached".to_owned());
                }
                self.error = Some(error);
                return;
            }
        };
        if self.error.take().is_some() {
            self.note(now, format!("{} answers", look.asked));
        }
        if let Some((before, then)) = self.look.take() {
            for text in changes(&before, &look) {
                self.note(now, text);
            }
            self.rates.push_back(rate(&before, &look, now.duration_since(then)));
            while self.rates.len() > RATES_MAX {
                self.rates.pop_front();
            }
        }
        self.selected = self.selected.min(look.members.len().saturating_sub(1));
        self.look = Some((look, now));
    }

    /// Selects another member.
    pub(crate) fn select(&mut self, by: isize) {
        let count = self.look.as_ref().map_or(0, |(look, _)| look.members.len());
        self.selected = self.selected.saturating_add_signed(by).min(count.saturating_sub(1));
    }

    /// The member that is selected.
    pub(crate) fn member(&self) -> Option<&Member> {
        self.look.as_ref()?.0.members.get(self.selected)
    }

    pub(crate) fn note(&mut self, now: Instant, text: String) {
        self.events.push_front((now, text));
        self.events.truncate(EVENTS_MAX);
    }
}

fn rate(before: &Look, now: &Look, took: Duration) -> u64 {
    let applied = now.applied().saturating_sub(before.applied());
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    applied.saturating_mul(1000) / ms
}

/// What is no longer as it was.
fn changes(before: &Look, now: &Look) -> Vec<String> {
    let mut changes = Vec::new();
    if now.leader != before.leader || now.term != before.term {
        changes.push(match now.leader {
            Some(id) => format!("node {id} leads term {}", now.term),
            None => format!("nobody leads in term {}", now.term),
        });
    }
    let by_id = |look: &Look| look.members.iter().map(|member| (member.id, member.clone())).collect();
    let (old, new): (BTreeMap<u64, Member>, BTreeMap<u64, Member>) = (by_id(before), by_id(now));
    changes.extend(old.keys().filter(|id| !new.contains_key(id)).map(|id| format!("node {id} has left")));
    for (id, member) in &new {
        let Some(was) = old.get(id) else {
            changes.push(format!(
                "node {id} has joined as a {}",
                if member.is_voter { "voter" } else { "learner" }
            ));
            continue;
        };
        match (was.is_voter, member.is_voter) {
            (false, true) => changes.push(format!("node {id} votes now")),
            (true, false) => changes.push(format!("node {id} does not vote any more")),
            _ => {}
        }
        match (&was.state, &member.state) {
            (Some(_), None) => changes.push(format!("node {id} does not answer")),
            (None, Some(_)) => changes.push(format!("node {id} answers")),
            _ => {}
        }
        if was.http != member.http {
            changes.push(format!("node {id} has moved to {}", member.http));
        }
        if let (Some(was), Some(is)) = (&was.health, &member.health)
            && was != is
        {
            changes.push(format!("node {id} looks {is} to its leader"));
        }
    }
    changes
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Members by their marks: `+` votes, `-` learns, `!` votes and does not answer. The first leads.
    pub(crate) fn look(term: u64, marks: &str, applied: u64) -> Look {
        let member = |(place, mark): (usize, char)| Member {
            id: place as u64 + 1,
            http: ([127, 0, 0, 1], 8001 + u16::try_from(place).unwrap()).into(),
            is_voter: mark != '-',
            health: (place > 0).then(|| if mark == '!' { "crashed" } else { "healthy" }.to_owned()),
            place: None,
            state: (mark != '!').then(|| State {
                role: if place == 0 {
                    "leader"
                } else if mark == '+' {
                    "follower"
                } else {
                    "learner"
                }
                .to_owned(),
                applied,
                last: applied,
                snapshot: None,
            }),
        };
        let members = marks.chars().enumerate().map(member).collect();
        Look { asked: ([127, 0, 0, 1], 8001).into(), term, leader: Some(1), members }
    }

    #[test]
    fn what_has_changed_between_two_looks_is_noted() {
        let (mut cluster, began) = (Cluster::default(), Instant::now());
        cluster.take(Ok(look(1, "++-", 10)), began);
        cluster.take(Ok(look(2, "+!+-", 30)), began + Duration::from_secs(2));
        let texts: Vec<&str> = cluster.events.iter().map(|(_, text)| text.as_str()).collect();
        let want = [
            "node 4 has joined as a learner",
            "node 3 votes now",
            "node 2 looks crashed to its leader",
            "node 2 does not answer",
            "node 1 leads term 2",
        ];
        assert_eq!(texts, want);
        assert_eq!(cluster.rates, [10]);
    }

    #[test]
    fn cluster_that_cannot_be_reached_is_noted_once() {
        let (mut cluster, now) = (Cluster::default(), Instant::now());
        cluster.take(Ok(look(1, "+++", 10)), now);
        for _ in 0..3 {
            cluster.take(Err("nobody".to_owned()), now);
        }
        assert_eq!(cluster.events.len(), 1);
        // What was seen last stays to be seen.
        assert!(cluster.look.is_some() && cluster.error.is_some());
        cluster.take(Ok(look(1, "+++", 10)), now);
        assert_eq!((cluster.events.len(), &cluster.error), (2, &None));
    }

    #[test]
    fn selection_stays_within_the_members() {
        let mut cluster = Cluster::default();
        cluster.select(1);
        assert_eq!(cluster.member(), None);
        cluster.take(Ok(look(1, "+++", 1)), Instant::now());
        cluster.select(9);
        assert_eq!(cluster.member().unwrap().id, 3);
        cluster.take(Ok(look(1, "++", 1)), Instant::now());
        assert_eq!(cluster.member().unwrap().id, 2);
        cluster.select(-9);
        assert_eq!(cluster.member().unwrap().id, 1);
    }
}
