use super::*;
use crate::observations::{Incarnation, NodeVote};
use crate::scenario::Scenario;

fn plan() -> Plan {
    let text = "name: t\nabout: t.\nnodes: { count: 3 }\nchecks: [raft]\n";
    Plan::new(&Scenario::parse("t.yaml", text).unwrap(), 1)
}

const VOTE: NodeVote = NodeVote { term: 2, voted_for: 1, is_committed: true };

/// A follower of n1 in term 2, with ten entries.
fn follower() -> NodeState {
    let position = Some(LogPosition { term: 2, index: 10 });
    NodeState {
        incarnation: Incarnation(1),
        role: Role::Follower,
        term: 2,
        vote: Some(VOTE),
        leader: Some(1),
        last_log_index: Some(10),
        committed: position,
        applied: position,
        snapshot: None,
        purged: None,
    }
}

fn leader() -> NodeState {
    NodeState { role: Role::Leader, ..follower() }
}

fn reached(index: u64) -> NodeState {
    let position = Some(LogPosition { term: 2, index });
    NodeState { committed: position, applied: position, ..follower() }
}

fn state_digest(byte: u8) -> Seen {
    Seen::StateDigest { index: 64, digest: Bytes32([byte; 32]) }
}

fn log_digest(byte: u8) -> Seen {
    Seen::LogDigest { from: 0, to: 9, chain: Bytes32([byte; 32]) }
}

/// Digests of two nodes that agree, then these, one nanosecond after the other, and a follower's state of every node that
/// is not among them.
fn judged(seen: &[(u16, Seen)]) -> Verdict {
    let agreed = [(0, state_digest(1)), (1, state_digest(1)), (0, log_digest(1)), (1, log_digest(1))];
    let is_unseen =
        |node: &u16| !seen.iter().any(|(other, seen)| other == node && matches!(seen, Seen::State(_)));
    let unseen: Vec<(u16, Seen)> =
        (0..3).filter(is_unseen).map(|node| (node, Seen::State(follower()))).collect();
    let all = agreed.iter().chain(seen).chain(&unseen);
    let observation = |(at_ns, (node, seen)): (u64, &(u16, Seen))| Observation {
        at_ns,
        node: NodeIndex(*node),
        seen: *seen,
    };
    let observations: Vec<Observation> = (0..).zip(all).map(observation).collect();
    check(&plan(), &observations, 0)
}

#[track_caller]
fn check_states(states: &[(u16, NodeState)], want: Result<(), &str>) {
    let seen: Vec<(u16, Seen)> = states.iter().map(|(node, state)| (*node, Seen::State(*state))).collect();
    check_seen(&seen, want);
}

#[track_caller]
fn check_seen(seen: &[(u16, Seen)], want: Result<(), &str>) {
    let verdict = judged(seen);
    match want {
        Ok(()) => assert_eq!(verdict.status, Status::Pass, "{}", verdict.summary),
        Err(text) => {
            assert_eq!(verdict.status, Status::Fail, "{}", verdict.summary);
            assert_eq!(verdict.summary, text);
        }
    }
}

#[test]
fn nodes_that_hold_different_keys_at_the_same_entry_are_found() {
    let contents = |byte| Seen::Contents { index: 70, digest: Bytes32([byte; 32]) };
    let want = "state machine safety at 0.000 s: n1 and n2 hold different keys or values after entry 70";
    check_seen(&[(0, contents(1)), (1, contents(2))], Err(want));
}

#[test]
fn healthy_cluster_passes() {
    check_states(&[(0, leader()), (1, follower()), (2, follower())], Ok(()));
    // A new term has a new leader.
    let vote = Some(NodeVote { term: 3, voted_for: 2, is_committed: true });
    check_states(&[(0, leader()), (1, NodeState { term: 3, vote, ..leader() })], Ok(()));
}

#[test]
fn two_leaders_of_a_term_are_found() {
    let want = "election safety at 0.000 s: n1 leads term 2 by the word of n1, and n2 by that of n2";
    let mut second = leader();
    second.vote = Some(NodeVote { voted_for: 2, ..VOTE });
    check_states(&[(0, leader()), (1, second)], Err(&format!("{want}, and 1 more")));
    // By a vote alone, of somebody else.
    let mut witness = follower();
    witness.vote = Some(NodeVote { voted_for: 2, ..VOTE });
    let want = "election safety at 0.000 s: n1 leads term 2 by the word of n1, and n2 by that of n3";
    check_states(&[(0, leader()), (2, witness)], Err(want));
    // A vote that no quorum has granted elects nobody.
    witness.vote = Some(NodeVote { voted_for: 2, is_committed: false, ..VOTE });
    check_states(&[(0, leader()), (2, witness)], Ok(()));
}

#[test]
fn vote_that_goes_back_is_found_over_a_restart_too() {
    let earlier = Some(NodeVote { term: 1, ..VOTE });
    let restarted = NodeState { incarnation: Incarnation(2), term: 1, vote: earlier, ..follower() };
    let want =
        "durable vote at 0.000 s: the vote of n2 went over a restart from n1 in term 2 to n1 in term 1";
    check_states(&[(1, follower()), (1, restarted)], Err(want));
    let mut voted_twice = NodeState { role: Role::Candidate, ..follower() };
    voted_twice.vote = Some(NodeVote { term: 2, voted_for: 3, is_committed: false });
    let before = NodeState { vote: Some(NodeVote { is_committed: false, ..VOTE }), ..follower() };
    let want = "durable vote at 0.000 s: the vote of n2 went from n1 in term 2 to n3 in term 2";
    check_states(&[(1, before), (1, voted_twice)], Err(want));
}

#[test]
fn loser_of_an_election_may_follow_the_winner() {
    let candidate = Some(NodeVote { term: 2, voted_for: 2, is_committed: false });
    let lost = NodeState { role: Role::Candidate, vote: candidate, ..follower() };
    check_states(&[(1, lost), (1, follower())], Ok(()));
    // The winner of a term does not change.
    let other = NodeState { vote: Some(NodeVote { voted_for: 3, ..VOTE }), ..follower() };
    assert_eq!(judged(&[(1, Seen::State(follower())), (1, Seen::State(other))]).status, Status::Fail);
}

#[test]
fn positions_go_back_over_a_restart_only() {
    let behind = reached(8);
    let restarted = NodeState { incarnation: Incarnation(2), ..behind };
    check_states(&[(1, follower()), (1, restarted)], Ok(()));
    let want = "no way back at 0.000 s: the committed index of n2 went from 10 to 8, and 1 more";
    check_states(&[(1, follower()), (1, behind)], Err(want));
    let term = NodeState { term: 1, vote: Some(NodeVote { term: 1, ..VOTE }), ..follower() };
    assert_eq!(judged(&[(1, Seen::State(follower())), (1, Seen::State(term))]).status, Status::Fail);
}

#[test]
fn positions_are_in_order() {
    let want = "order of positions at 0.000 s: n2: applied is 10, committed 9";
    check_states(&[(1, NodeState { committed: reached(9).committed, ..follower() })], Err(want));
    let want = "order of positions at 0.000 s: n2: committed is 10, the end of its log none";
    check_states(&[(1, NodeState { last_log_index: None, ..follower() })], Err(want));
}

#[test]
fn different_digests_are_found() {
    let want = "state machine safety at 0.000 s: n1 and n3 have different states after entry 64";
    check_seen(&[(2, state_digest(2))], Err(want));
    let want = "log matching at 0.000 s: n1 and n3 hold different entries between 0 and 9";
    check_seen(&[(2, log_digest(2))], Err(want));
}

#[test]
fn nothing_to_compare_is_no_pass() {
    let states =
        [0, 1, 2].map(|node| Observation { at_ns: 0, node: NodeIndex(node), seen: Seen::State(follower()) });
    assert_eq!(check(&plan(), &states, 0).status, Status::Invalid);
    // One node's own digests are no comparison.
    let digest = |seen| Observation { at_ns: 0, node: NodeIndex(0), seen };
    let own = [state_digest(1), state_digest(1), log_digest(1), log_digest(1)].map(digest);
    assert_eq!(check(&plan(), &[&states[..], &own].concat(), 0).status, Status::Invalid);
    // Nor is a cluster of which one node was never seen.
    let agreed =
        [0, 1].map(|node| own.map(|observation| Observation { node: NodeIndex(node), ..observation }));
    let two = [&states[..2], &agreed[0], &agreed[1]].concat();
    assert_eq!(check(&plan(), &two, 0).summary, "n3 never answered");
    assert_eq!(check(&plan(), &[&states[2..], &two].concat(), 0).status, Status::Pass);
}

#[test]
fn entry_that_was_compared_twice_counts_once() {
    assert_eq!(covered(vec![]), 0);
    assert_eq!(covered(vec![(1_000, 1_999), (0, 999), (0, 2_346)]), 2_347);
    assert_eq!(covered(vec![(0, 9), (5, 6), (20, 20)]), 11);
}
