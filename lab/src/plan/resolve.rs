//! Selectors to nodes, when a fault is due: from the roles of that moment and the draw that the plan holds.

use std::collections::BTreeSet;

use crate::plan::draw;
use crate::scenario::{NodeIndex, Selector};

/// Who is who at the moment a fault is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// How many nodes the cluster has, alive or not.
    pub nodes_count: u16,
    /// The node that leads, if one is known.
    pub leader: Option<NodeIndex>,
    /// The nodes that run.
    pub alive: BTreeSet<NodeIndex>,
}

/// Why selectors cannot be nodes at this moment. Waiting may help: leaders change, and the dead come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// `leader` or `follower` is asked for, and nobody is known to lead.
    #[error("no node is known to lead")]
    NoLeader,
    /// `leader` is asked for, and the same node stands in the fault by its name.
    #[error("node {} leads, and the fault names it already", .0.raft_id())]
    LeaderTaken(NodeIndex),
    /// More followers or random nodes are asked for than are alive and not taken.
    #[error("no live node is left for {0}")]
    NobodyLeft(Selector),
    /// The other selectors took every node.
    #[error("no node is left for rest")]
    RestEmpty,
    /// A node that is to be hit alone has been already.
    #[error("node {} is hit by another fault, or does not run", .0.raft_id())]
    NotAlive(NodeIndex),
    /// The one node of a zone plays the role of the other end.
    #[error("node {} is at both ends of the link", .0.raft_id())]
    NoLink(NodeIndex),
}

/// Chooses the nodes of a partition's groups, those with the least freedom first: names, the leader,
/// followers, random ones, the rest. No node is chosen twice. The groups and the order within them are kept,
/// with the rest in the order of the nodes. The result depends on the arguments alone.
///
/// # Errors
/// A role has no node at this moment.
pub fn resolve(
    groups: &[Vec<Selector>],
    roles: &Roles,
    draw: u32,
) -> Result<Vec<Vec<NodeIndex>>, ResolveError> {
    let mut chooser = Chooser { roles, draw, drawn_count: 0, taken: BTreeSet::new() };
    let mut chosen: Vec<Vec<Vec<NodeIndex>>> =
        groups.iter().map(|group| vec![Vec::new(); group.len()]).collect();
    for pass in [Pass::Named, Pass::Leader, Pass::Follower, Pass::Random, Pass::Rest] {
        for (group, slots) in groups.iter().zip(&mut chosen) {
            for (selector, slot) in group.iter().zip(slots) {
                if Pass::of(*selector) == pass {
                    *slot = chooser.choose(*selector)?;
                }
            }
        }
    }
    Ok(chosen.into_iter().map(|slots| slots.concat()).collect())
}

/// Chooses the two ends of a fault's links. Two single selectors never choose the same node; but where one end is a zone of
/// several nodes, the other may be a role that one of them plays, and `rest` is what the zone leaves.
///
/// # Errors
/// A role has no node at this moment, or there is no link between the ends.
pub fn resolve_ends(
    from: &[Selector],
    to: &[Selector],
    roles: &Roles,
    draw: u32,
) -> Result<[Vec<NodeIndex>; 2], ResolveError> {
    let is_zone = |end: &[Selector]| end.len() > 1;
    let is_rest = |end: &[Selector]| matches!(end, [Selector::Rest]);
    let (mut from, mut to) = if (is_zone(from) || is_zone(to)) && !is_rest(from) && !is_rest(to) {
        let alone = |end: &[Selector]| resolve(&[end.to_vec()], roles, draw).map(|groups| groups.concat());
        (alone(from)?, alone(to)?)
    } else {
        let mut ends = resolve(&[from.to_vec(), to.to_vec()], roles, draw)?;
        let to = ends.pop().unwrap_or_default();
        (ends.concat(), to)
    };
    // A node has no link to itself.
    if let [one] = *from {
        to.retain(|node| *node != one);
    } else if let [one] = *to {
        from.retain(|node| *node != one);
    }
    match from.first() {
        Some(node) if to.is_empty() => Err(ResolveError::NoLink(*node)),
        _ => Ok([from, to]),
    }
}

/// Whether a node that loses these directed links has no majority left, itself counted, with which it can exchange
/// messages both ways. One way is not enough: a leader's next heartbeat waits for the answer to the one before.
pub fn isolates(
    node: NodeIndex,
    cut: impl Iterator<Item = (NodeIndex, NodeIndex)>,
    nodes_count: u16,
) -> bool {
    let lost: BTreeSet<NodeIndex> = cut
        .filter_map(|(from, to)| if from == node { Some(to) } else { (to == node).then_some(from) })
        .collect();
    usize::from(nodes_count) - lost.len() < usize::from(nodes_count) / 2 + 1
}

/// Chooses one live node: the victim of a fault that hits nodes.
///
/// # Errors
/// A role has no node at this moment, or the node is not running.
pub fn resolve_one(who: Selector, roles: &Roles, draw: u32) -> Result<NodeIndex, ResolveError> {
    let groups = resolve(&[vec![who]], roles, draw)?;
    let node = groups.concat().first().copied().ok_or(ResolveError::NobodyLeft(who))?;
    if roles.alive.contains(&node) { Ok(node) } else { Err(ResolveError::NotAlive(node)) }
}

/// The directed pairs that a partition cuts: each node of a group with each node of every other group, both
/// ways.
pub fn cut_pairs(groups: &[Vec<NodeIndex>]) -> BTreeSet<(NodeIndex, NodeIndex)> {
    let mut pairs = BTreeSet::new();
    for (position, group) in groups.iter().enumerate() {
        for other in &groups[position + 1..] {
            for (from, to) in group.iter().flat_map(|from| other.iter().map(move |to| (*from, *to))) {
                pairs.insert((from, to));
                pairs.insert((to, from));
            }
        }
    }
    pairs
}

/// The nodes that a partition leaves without a majority: those of groups that have none even together with
/// every node outside of all groups.
pub fn minority(groups: &[Vec<NodeIndex>], nodes_count: u16) -> BTreeSet<NodeIndex> {
    let nodes_count = usize::from(nodes_count);
    let outside = nodes_count - groups.iter().map(Vec::len).sum::<usize>();
    let is_minority = |group: &&Vec<NodeIndex>| group.len() + outside < nodes_count / 2 + 1;
    groups.iter().filter(is_minority).flatten().copied().collect()
}

/// The order in which selectors choose: those with the least freedom first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Named,
    Leader,
    Follower,
    Random,
    Rest,
}

impl Pass {
    fn of(selector: Selector) -> Self {
        match selector {
            Selector::Node(_) => Self::Named,
            Selector::Leader => Self::Leader,
            Selector::Follower => Self::Follower,
            Selector::Random => Self::Random,
            Selector::Rest => Self::Rest,
        }
    }
}

/// The choices made so far.
struct Chooser<'roles> {
    roles: &'roles Roles,
    draw: u32,
    drawn_count: u32,
    taken: BTreeSet<NodeIndex>,
}

impl Chooser<'_> {
    fn choose(&mut self, selector: Selector) -> Result<Vec<NodeIndex>, ResolveError> {
        let leader = self.roles.leader;
        let nodes = match selector {
            Selector::Node(node) => vec![node],
            Selector::Leader => vec![self.leader()?],
            Selector::Follower => {
                let leader = leader.ok_or(ResolveError::NoLeader)?;
                vec![self.drawn(selector, |node| node != leader)?]
            }
            Selector::Random => vec![self.drawn(selector, |_| true)?],
            Selector::Rest => {
                let nodes = (0..self.roles.nodes_count).map(NodeIndex);
                nodes.filter(|node| !self.taken.contains(node)).collect()
            }
        };
        if nodes.is_empty() {
            return Err(ResolveError::RestEmpty);
        }
        self.taken.extend(&nodes);
        Ok(nodes)
    }

    fn leader(&self) -> Result<NodeIndex, ResolveError> {
        let leader = self.roles.leader.ok_or(ResolveError::NoLeader)?;
        if self.taken.contains(&leader) { Err(ResolveError::LeaderTaken(leader)) } else { Ok(leader) }
    }

    fn drawn(
        &mut self,
        selector: Selector,
        is_candidate: impl Fn(NodeIndex) -> bool,
    ) -> Result<NodeIndex, ResolveError> {
        let free = self.roles.alive.difference(&self.taken).copied();
        let candidates: Vec<NodeIndex> = free.filter(|node| is_candidate(*node)).collect();
        let count = u32::try_from(candidates.len()).expect("at most NODES_MAX");
        if count == 0 {
            return Err(ResolveError::NobodyLeft(selector));
        }
        let word = scramble(self.draw.wrapping_add(self.drawn_count));
        self.drawn_count += 1;
        Ok(candidates[draw::below(word, count) as usize])
    }
}

/// One draw serves several choices: the finalizer of `MurmurHash3` makes neighbours unlike each other.
fn scramble(mut word: u32) -> u32 {
    word ^= word >> 16;
    word = word.wrapping_mul(0x85eb_ca6b);
    word ^= word >> 13;
    word = word.wrapping_mul(0xc2b2_ae35);
    word ^ (word >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: Selector = Selector::Leader;
    const FOLLOWER: Selector = Selector::Follower;
    const RANDOM: Selector = Selector::Random;
    const REST: Selector = Selector::Rest;

    fn node(index: u16) -> Selector {
        Selector::Node(NodeIndex(index))
    }

    fn roles(nodes_count: u16, leader: Option<u16>, dead: &[u16]) -> Roles {
        let alive = (0..nodes_count).filter(|index| !dead.contains(index)).map(NodeIndex).collect();
        Roles { nodes_count, leader: leader.map(NodeIndex), alive }
    }

    #[track_caller]
    fn check(groups: &[&[Selector]], roles: &Roles, want: Result<&[&[u16]], ResolveError>) {
        let groups: Vec<Vec<Selector>> = groups.iter().map(|group| group.to_vec()).collect();
        let want = want.map(|groups| {
            groups.iter().map(|g| g.iter().copied().map(NodeIndex).collect::<Vec<_>>()).collect()
        });
        assert_eq!(resolve(&groups, roles, 7), want);
    }

    #[test]
    fn roles_become_nodes() {
        let five = roles(5, Some(3), &[]);
        check(&[&[LEADER], &[REST]], &five, Ok(&[&[3], &[0, 1, 2, 4]]));
        check(&[&[REST], &[LEADER]], &five, Ok(&[&[0, 1, 2, 4], &[3]]));
        check(&[&[node(4), LEADER], &[REST, node(0)]], &five, Ok(&[&[4, 3], &[1, 2, 0]]));
        // Two nodes, one leads: no freedom is left for the follower.
        check(&[&[FOLLOWER], &[LEADER]], &roles(2, Some(1), &[]), Ok(&[&[0], &[1]]));
        // The dead are never drawn, but they belong to the rest: they may come back during the cut.
        check(&[&[FOLLOWER], &[REST]], &roles(3, Some(0), &[1]), Ok(&[&[2], &[0, 1]]));
        // A name goes first, although it is written last.
        check(&[&[RANDOM], &[node(0)]], &roles(2, None, &[]), Ok(&[&[1], &[0]]));
    }

    #[test]
    fn roles_that_nobody_has_are_errors() {
        check(&[&[LEADER], &[REST]], &roles(3, None, &[]), Err(ResolveError::NoLeader));
        check(&[&[FOLLOWER], &[REST]], &roles(3, None, &[]), Err(ResolveError::NoLeader));
        let led_by_0 = roles(3, Some(0), &[]);
        check(&[&[LEADER], &[node(0)]], &led_by_0, Err(ResolveError::LeaderTaken(NodeIndex(0))));
        let all = [LEADER, FOLLOWER, FOLLOWER];
        check(&[&all, &[FOLLOWER]], &led_by_0, Err(ResolveError::NobodyLeft(FOLLOWER)));
        check(&[&all, &[REST]], &led_by_0, Err(ResolveError::RestEmpty));
        let dead = roles(3, Some(0), &[1]);
        assert_eq!(resolve_one(node(1), &dead, 0), Err(ResolveError::NotAlive(NodeIndex(1))));
        assert_eq!(resolve_one(node(2), &dead, 0), Ok(NodeIndex(2)));
    }

    #[test]
    fn every_draw_reaches_every_candidate_and_takes_none_twice() {
        let five = roles(5, Some(0), &[]);
        let mut firsts = BTreeSet::new();
        for draw in 0..100 {
            let groups = resolve(&[vec![FOLLOWER, FOLLOWER], vec![RANDOM], vec![REST]], &five, draw).unwrap();
            let all: BTreeSet<NodeIndex> = groups.iter().flatten().copied().collect();
            assert_eq!(all.len(), 5, "{groups:?}");
            assert!(!groups[0].contains(&NodeIndex(0)), "the leader is no follower: {groups:?}");
            firsts.insert(groups[0][0]);
        }
        assert_eq!(firsts.len(), 4);
    }

    #[test]
    fn cuts_go_both_ways_and_only_between_groups() {
        let [a, b, c] = [NodeIndex(0), NodeIndex(1), NodeIndex(2)];
        let pairs = cut_pairs(&[vec![a], vec![b, c]]);
        assert_eq!(pairs, BTreeSet::from([(a, b), (b, a), (a, c), (c, a)]));
    }

    #[test]
    fn links_go_from_one_end_to_the_other() {
        #[track_caller]
        fn check(from: &[Selector], to: &[Selector], want: Result<[&[u16]; 2], ResolveError>) {
            let want = want.map(|ends| ends.map(|end| end.iter().copied().map(NodeIndex).collect()));
            assert_eq!(resolve_ends(from, to, &roles(3, Some(0), &[]), 7), want);
        }
        let zone = [node(0), node(1)];
        check(&[LEADER], &[REST], Ok([&[0], &[1, 2]]));
        check(&[REST], &[LEADER], Ok([&[1, 2], &[0]]));
        check(&[node(1)], &[node(2)], Ok([&[1], &[2]]));
        check(&[LEADER], &[node(0)], Err(ResolveError::LeaderTaken(NodeIndex(0))));
        // A zone leaves the rest, has links within, and may hold the leader.
        check(&zone, &[REST], Ok([&[0, 1], &[2]]));
        check(&zone, &zone, Ok([&[0, 1], &[0, 1]]));
        check(&[LEADER], &zone, Ok([&[0], &[1]]));
        check(&zone, &[node(0)], Ok([&[1], &[0]]));
    }

    #[test]
    fn isolated_is_who_has_no_majority_both_ways() {
        #[track_caller]
        fn check(node: u16, cut: &[(u16, u16)], nodes_count: u16, want: bool) {
            let cut = cut.iter().map(|(from, to)| (NodeIndex(*from), NodeIndex(*to)));
            assert_eq!(isolates(NodeIndex(node), cut, nodes_count), want);
        }
        check(0, &[(0, 1), (0, 2)], 3, true);
        check(0, &[(1, 0), (2, 0)], 3, true);
        check(0, &[(0, 1), (2, 0)], 3, true);
        check(0, &[(0, 1), (1, 0)], 3, false);
        check(1, &[(0, 1), (0, 2)], 3, false);
        check(0, &[(0, 1), (0, 2)], 4, true);
    }

    #[test]
    fn a_minority_cannot_reach_a_majority() {
        let [a, b, c, d] = [NodeIndex(0), NodeIndex(1), NodeIndex(2), NodeIndex(3)];
        assert_eq!(minority(&[vec![a], vec![b, c]], 3), BTreeSet::from([a]));
        // Both still reach the third node.
        assert_eq!(minority(&[vec![a], vec![b]], 3), BTreeSet::new());
        // Two of four are no majority, on either side.
        assert_eq!(minority(&[vec![a, b], vec![c, d]], 4), BTreeSet::from([a, b, c, d]));
    }
}
