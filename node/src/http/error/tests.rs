//! Every error that a client can get: its status, its code, and its text, which says what to do.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::SocketAddr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::api::TimeoutOutcome;
use crate::types::{LeaseId, NodeId, Revision, VaultName};

/// An error, and what comes of it.
type Row<E> = (E, u16, &'static str, &'static str);

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// Of leaders, and of time.
fn of_leaders() -> Vec<Row<ApiError>> {
    let leader = |http: Option<&str>| Some(LeaderHint { id: TWO, http: http.map(str::to_owned) });
    let timeout = |outcome| ApiError::Timeout { within_ms: 5_000, outcome };
    vec![
        (ApiError::NotLeader { leader: None }, 503, "not_leader", "no leader is known: try again later"),
        (
            ApiError::NotLeader { leader: leader(None) },
            503,
            "not_leader",
            "node 2 was the leader when last heard of: ask it",
        ),
        (
            ApiError::NotLeader { leader: leader(Some("10.0.0.2:8080")) },
            503,
            "not_leader",
            "node 2 was the leader when last heard of: ask it at 10.0.0.2:8080",
        ),
        (
            ApiError::NoQuorum,
            503,
            "no_quorum",
            "no quorum of the members answers, so nothing can be read or written here",
        ),
        (
            timeout(TimeoutOutcome::NothingWritten),
            504,
            "timeout",
            "not finished within 5000 ms: nothing was written",
        ),
        (
            timeout(TimeoutOutcome::Unknown),
            504,
            "timeout",
            "not finished within 5000 ms: the outcome is unknown, the write may still take effect",
        ),
        (timeout(TimeoutOutcome::GoesOn), 504, "timeout", "not finished within 5000 ms: it goes on"),
        (
            timeout(TimeoutOutcome::SeeStatus),
            504,
            "timeout",
            "not finished within 5000 ms: the cluster's status says what has come of it",
        ),
        (
            timeout(TimeoutOutcome::WaitsForMajorities),
            504,
            "timeout",
            "not finished within 5000 ms: it is done as soon as a majority of those who voted before and of those who are to vote answer; \
             the cluster's status says who does not",
        ),
        (
            ApiError::LeaderLost,
            504,
            "leader_lost",
            "the leader was lost before it answered: the outcome is unknown, the write may still take effect",
        ),
        (
            ApiError::TooStale { staleness_ms: Some(5_210), max_staleness_ms: 1_000 },
            503,
            "too_stale",
            "what this node has may be 5210 ms old, at most 1000 ms are asked for, and no leader confirms anything newer: ask another \
             node, or allow more",
        ),
    ]
}

/// Of what there is too much of, and of a node that cannot.
fn of_nodes() -> Vec<Row<ApiError>> {
    vec![
        (BadRequest::KeyEmpty.into(), 400, "key_empty", "the key is empty, 1 to 1024 bytes are allowed"),
        (
            ApiError::TooManyOperations { limit: 1_000 },
            429,
            "too_many_operations",
            "1000 operations are under way on this node, try again later",
        ),
        (
            ApiError::DiskFull { node: TWO, left: 1, needed: 64 << 20 },
            507,
            "disk_full",
            "nothing was written, the disk of node 2 is full: 1 MiB are left, 64 are needed",
        ),
        (
            ApiError::SnapshotTooLarge { bytes: 9, bytes_max: 8 },
            507,
            "snapshot_too_large",
            "the state has 9 bytes, a snapshot may have 8: raise snapshot_mib_max",
        ),
        (
            ApiError::TooManyWatchers { limit: 2_000 },
            429,
            "too_many_watchers",
            "2000 follow changes on this node, ask another one",
        ),
        (
            ApiError::Stopping { reason: "it was told to".to_owned() },
            503,
            "stopping",
            "this node is stopping: it was told to",
        ),
        (
            ApiError::Storage { reason: "a flush has failed".to_owned() },
            500,
            "storage",
            "the node's storage failed: a flush has failed",
        ),
        (
            ApiError::TooManyBackups { limit: 4 },
            429,
            "too_many_backups",
            "4 backups are being taken from this node: try again when one is done, or ask another node",
        ),
        (
            ApiError::Unsupported,
            501,
            "unsupported",
            "a node that keeps everything in memory on one machine (control = \"deterministic\") has no Raft, no snapshots and no \
             backups, and nobody else can lead",
        ),
    ]
}

/// Of what is not there, or not any more.
fn of_absence() -> Vec<Row<ApiError>> {
    let vault: VaultName = serde_json::from_value(json!("v")).unwrap();
    vec![
        (
            ApiError::VaultNotFound { vault },
            404,
            "vault_not_found",
            "there is no vault v: something has to be written into it first",
        ),
        (
            ApiError::Compacted { oldest: Revision(7) },
            410,
            "compacted",
            "changes are held from revision 7 on: read the keys anew, and follow them from the revision of that answer and one",
        ),
        (
            ApiError::PreviousNotNoted { since: Revision(7) },
            410,
            "previous_not_noted",
            "what keys held before is noted from revision 7 on, since nobody has asked for it earlier: follow from there, or without",
        ),
        (
            ApiError::LeaseNotFound { lease: LeaseId(7) },
            404,
            "lease_not_found",
            "there is no lease 7: it was never granted, or was not kept alive, or was revoked; take another, and write its keys again",
        ),
        (
            ApiError::DigestNotKept { at: 7 },
            404,
            "digest_not_kept",
            "no state digest is kept for index 7: ask for a multiple of 64 that is applied and recent, or leave `at` out",
        ),
    ]
}

/// Of changes of the members.
fn of_members() -> Vec<Row<ApiError>> {
    vec![
        (ApiError::AlreadyInitialized, 409, "already_initialized", "this node is already part of a cluster"),
        (
            ApiError::MemberExists { id: TWO },
            409,
            "member_exists",
            "node 2 is a member with another key or address: remove it first, or take another number",
        ),
        (
            ApiError::ChangeInProgress,
            409,
            "change_in_progress",
            "another change of the members is under way, or was made just now: try again when it is done. It takes a majority of those who voted before and of \
             those who are to vote; the cluster's status says who does not answer",
        ),
        (
            ApiError::NoSecret,
            409,
            "no_secret",
            "this node has no secret, so no other can join it with a ticket: give every member the same --secret-file",
        ),
        (
            ApiError::Removed,
            503,
            "removed",
            "this node was removed from its cluster: ask another one. To have it back, stop it, and start it as a new member with an empty \
             data directory",
        ),
        (
            ApiError::MemberSilent { id: TWO },
            409,
            "member_silent",
            "node 2 does not answer its leader: start it, and ask again",
        ),
        (
            ApiError::MemberBehind { id: TWO, lag: 101, lag_max: 100 },
            409,
            "member_behind",
            "node 2 lacks 101 entries, at most 100 are allowed: ask again when it has caught up",
        ),
        (
            ApiError::VotersSilent { answer: 1, of: 3 },
            409,
            "voters_silent",
            "of the 3 members that would vote 1 answer, and a majority is needed: start the others first",
        ),
    ]
}

fn refused() -> Vec<Row<ApiError>> {
    [of_leaders(), of_nodes(), of_absence(), of_members()].concat()
}

/// A request of the kind that is answered by 400.
type Bad = (BadRequest, &'static str, &'static str);

/// Of keys, values and commands.
fn bad_commands() -> Vec<Bad> {
    vec![
        (BadRequest::KeyEmpty, "key_empty", "the key is empty, 1 to 1024 bytes are allowed"),
        (BadRequest::KeyTooLarge(1_025), "key_too_large", "the key has 1025 bytes, 1 to 1024 are allowed"),
        (
            BadRequest::ValueTooLarge(1_048_577),
            "value_too_large",
            "the value has 1048577 bytes, 0 to 1048576 are allowed",
        ),
        (
            BadRequest::VaultName("a b".to_owned()),
            "vault_name",
            "the vault's name `a b` is refused: 1 to 64 of A-Z, a-z, 0-9, _ and - are allowed",
        ),
        (BadRequest::NestedVault, "vault_name", "inside a vault there are no vaults"),
        (BadRequest::LeaseTtl(999), "lease", "the lease's ttl_ms is 999, 1000 to 2592000000 are allowed"),
        (
            BadRequest::NestedLease,
            "lease",
            "only commands on keys are done with a lease, and with one of them",
        ),
        (BadRequest::KeyCount(101), "batch_too_large", "101 keys at once, 1 to 100 are allowed"),
        (
            BadRequest::TransactionLength { what: "comparisons".to_owned(), count: 129 },
            "batch_too_large",
            "the transaction has 129 comparisons, 0 to 128 are allowed",
        ),
        (
            BadRequest::CommandTooLarge(4_194_305),
            "command_too_large",
            "the command has 4194305 bytes, at most 4194304 are allowed: send it in parts",
        ),
    ]
}

/// Of what else is asked.
fn bad_questions() -> Vec<Bad> {
    vec![
        (BadRequest::ScanLimit(0), "scan_limit", "the limit is 0, 1 to 10000 are allowed"),
        (
            BadRequest::ContinuationToken,
            "continuation_token",
            "the continuation token is damaged: use the one of the page before, unchanged",
        ),
        (
            BadRequest::LogRange { from: 2, to: 1 },
            "log_range",
            "from=2 to=1: from <= to is needed, and at most 10000 entries",
        ),
        (
            BadRequest::BeyondLog { from: 0, to: 9, first: 5, last: Some(7) },
            "beyond_log",
            "the log holds entries 5 to 7, 0 to 9 were asked for",
        ),
        (
            BadRequest::BeyondLog { from: 0, to: 9, first: 0, last: None },
            "beyond_log",
            "the log holds no entry, 0 to 9 were asked for",
        ),
        (BadRequest::BodyTooLarge, "body_too_large", "the body has more than 8388608 bytes"),
        (BadRequest::Malformed("no JSON".to_owned()), "malformed", "no JSON"),
        (
            BadRequest::MaxStaleness(86_400_001),
            "max_staleness",
            "max_staleness_ms is 86400001, 0 to 86400000 are allowed",
        ),
    ]
}

/// Of members.
fn bad_members() -> Vec<Bad> {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 1));
    vec![
        (
            BadRequest::UnknownMember(NodeId(3), "1, 2".to_owned()),
            "members",
            "node 3 is not among the configured peers (1, 2): name it as one with --peer, or give the new node's endpoint_id, raft and http",
        ),
        (
            BadRequest::NotAMember(ONE),
            "members",
            "node 1 is asked to found a cluster that it is no member of",
        ),
        (
            BadRequest::MemberCount(101),
            "members",
            "101 members, 1 to 100 are allowed: list them as peers in node.toml",
        ),
        (
            BadRequest::ClusterFull,
            "members",
            "the cluster has 100 members, which are all that it may have: remove those that are gone, with `aspen cluster remove`",
        ),
        (
            BadRequest::EndpointTaken { id: TWO, other: ONE },
            "members",
            "node 1 has the endpoint_id that is given for node 2: each node has a data directory of its own",
        ),
        (BadRequest::VoterCount(101), "members", "101 voters, 1 to 100 are allowed"),
        (BadRequest::NotALearner(TWO), "members", "node 2 is no member: add it as a learner first"),
        (BadRequest::NotAVoter(TWO), "members", "node 2 does not vote, so it cannot lead: promote it first"),
        (
            BadRequest::Membership("it is empty".to_owned()),
            "members",
            "the change of the members is refused: it is empty",
        ),
        (
            BadRequest::LostItsLog(TWO),
            "members",
            "node 2 is a member under this key and has acknowledged entries, but asks as if it had none: what it had is lost, and others \
             may count on it. Remove node 2 from the cluster, and start it with an empty data directory and another key",
        ),
        (
            BadRequest::JoinId(NodeId(0)),
            "members",
            "the number of a node that joins is 0, 1 to 4294967295 are allowed",
        ),
        (
            BadRequest::NoAddress(nowhere),
            "members",
            "a node that joins says that it is at 0.0.0.0:1, where nobody can reach it",
        ),
    ]
}

fn bad() -> Vec<Row<BadRequest>> {
    let rows = [bad_commands(), bad_questions(), bad_members()].concat();
    rows.into_iter().map(|(error, code, text)| (error, 400, code, text)).collect()
}

/// Makes sure that the rows leave out no kind of error: serde names all of them to whoever asks for one that is none.
#[track_caller]
fn check_complete<E: Serialize + DeserializeOwned + Debug>(errors: impl Iterator<Item = E>) {
    let listed: BTreeSet<String> = errors
        .map(|error| match serde_json::to_value(&error).unwrap() {
            Json_::String(name) => name,
            Json_::Object(fields) => fields.keys().next().unwrap().clone(),
            other => panic!("{other}"),
        })
        .collect();
    let unknown = serde_json::from_str::<E>("\"none\"").unwrap_err().to_string();
    let there: BTreeSet<String> = unknown.split('`').skip(3).step_by(2).map(str::to_owned).collect();
    assert!(there.len() > 20, "{unknown}");
    assert_eq!(listed, there);
}

#[tokio::test]
async fn every_error_has_its_status_its_code_and_its_text() {
    check_complete(refused().into_iter().map(|(error, ..)| error));
    check_complete(bad().into_iter().map(|(error, ..)| error));
    let bad =
        bad().into_iter().map(|(error, status, code, text)| (ApiError::from(error), status, code, text));
    for (error, status, code, text) in refused().into_iter().chain(bad) {
        let response = Refusal::from(error).into_response();
        assert_eq!(response.status().as_u16(), status, "{text}");
        let retry = response.headers().get(header::RETRY_AFTER).cloned();
        assert_eq!(retry.is_some(), status == 429, "{text}");
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body: Json_ = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["error"]["code"], &body["error"]["message"]), (&json!(code), &json!(text)));
    }
}

#[test]
fn missing_key_is_told_with_the_revision_at_which_it_was_missing() {
    let missing = super::super::kv::key_not_found(7);
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    let want =
        json!({ "error": { "code": "key_not_found", "message": "the key does not exist", "revision": 7 } });
    assert_eq!(missing.json(), want);
}
