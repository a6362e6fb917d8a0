//! The client that other programs are made with: every operation of it, asked of real nodes, over HTTP and over QUIC.

use std::collections::BTreeSet;
use std::time::Duration;

use aspen_node::api::{
    ClusterStatus, ConfirmedBy, Consistency, ReadRequest, ReadResult, ScanDetail, ScanRequest, WatchEvent,
    WatchRequest,
};
use aspen_node::client::Credentials;
use aspen_node::client::cluster::{ClusterClient, ClusterClientError};
use aspen_node::client::watch::WatchError;
use aspen_node::cluster::ticket::AspenClusterTicket;
use aspen_node::network::secret::new_secret;
use aspen_node::private::BearerToken;
use aspen_node::types::{
    ChangeKind, Command, Compare, Interest, Key, KeyRange, LeaseId, NodeId, NodeInfo, Operand, Operation,
    OperationResult, Outcome, Record, Relation, Revision, Transaction, Value, VaultName,
};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::credentials::Files;
use crate::members::leader;
use crate::nodes::{Nodes, three_nodes};

/// Elections are soon over.
const QUICK: [&str; 6] = ["--heartbeat-ms", "50", "--election-ms-min", "250", "--election-ms-max", "500"];
/// As long as nodes have to elect somebody and be ready again.
const COMES_MAX: Duration = Duration::from_secs(30);

fn key(text: &str) -> Key {
    Key::from(text)
}

fn set(at: &str, value: &str) -> Command {
    Command::Set { key: key(at), value: value.into() }
}

fn swap(at: &str, expected: Option<&str>, value: &str) -> Command {
    Command::CompareAndSwap { key: key(at), expected: expected.map(Value::from), value: value.into() }
}

fn in_vault(name: &str, command: Command) -> Command {
    Command::InVault { vault: VaultName(name.into()), command: Box::new(command) }
}

fn with_lease(lease: LeaseId, command: Command) -> Command {
    Command::WithLease { lease, command: Box::new(command) }
}

/// Does a command that nothing stands against.
async fn done(client: &mut ClusterClient, command: Command) -> (Revision, Outcome) {
    let result = client.write(command).await.unwrap();
    (result.revision, result.outcome)
}

async fn read_as(client: &mut ClusterClient, at: &str, consistency: Consistency) -> ReadResult {
    client.read(ReadRequest { vault: None, key: key(at), consistency }).await.unwrap()
}

async fn value(client: &mut ClusterClient, at: &str) -> Option<Value> {
    read_as(client, at, Consistency::Linearizable).await.record.map(|record| record.value)
}

fn scan(prefix: &str, limit: u32, detail: ScanDetail) -> ScanRequest {
    let range = KeyRange { prefix: key(prefix), ..KeyRange::default() };
    ScanRequest { vault: None, range, after: None, limit, detail, consistency: Consistency::Linearizable }
}

/// Asks again and again until it is answered, or the error is another than such as pass.
async fn passes<T>(mut ask: impl AsyncFnMut() -> Result<T, ClusterClientError>) -> T {
    let until = Instant::now() + COMES_MAX;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn keys_are_written_and_read(client: &mut ClusterClient) {
    let (first, outcome) = done(client, set("k", "v")).await;
    assert_eq!(outcome, Outcome::Written);
    let record =
        Record { value: "v".into(), create_revision: first, mod_revision: first, version: 1, lease: None };
    let read = read_as(client, "k", Consistency::Linearizable).await;
    assert_eq!((read.record.as_ref(), read.confirmed_by), (Some(&record), ConfirmedBy::Quorum));
    assert!(read.revision >= first && read.staleness_ms.is_none(), "{read:?}");
    let leased = read_as(client, "k", Consistency::Lease).await;
    assert!(leased.record.is_some() && leased.confirmed_by != ConfirmedBy::Nobody, "{leased:?}");
    let stale = read_as(client, "k", Consistency::Stale).await;
    assert_eq!((stale.record.as_ref(), stale.confirmed_by), (Some(&record), ConfirmedBy::Nobody));
    let bounded = read_as(client, "k", Consistency::Bounded(Duration::from_mins(1))).await;
    assert!(bounded.record.is_some() && bounded.staleness_ms.is_some_and(|ms| ms <= 60_000), "{bounded:?}");
    let absent = read_as(client, "nobody", Consistency::Linearizable).await;
    assert!(absent.record.is_none() && absent.revision >= first, "{absent:?}");

    assert_eq!(done(client, swap("k", Some("v"), "w")).await.1, Outcome::Swapped);
    let not = |actual: Option<&str>| Outcome::NotSwapped { actual: actual.map(Value::from) };
    assert_eq!(done(client, swap("k", Some("v"), "x")).await.1, not(Some("w")));
    assert_eq!(done(client, swap("k", None, "x")).await.1, not(Some("w")));
    assert_eq!(done(client, swap("nobody", Some("v"), "x")).await.1, not(None));
    assert_eq!(value(client, "k").await, Some("w".into()));

    let error = client.write(set("", "v")).await.unwrap_err();
    assert_eq!(error.to_string(), "the key is empty, 1 to 1024 bytes are allowed");
    assert!(!error.is_unknown());
    assert_eq!(client.delete(key("k")).await.unwrap().outcome, Outcome::Deleted { existed: true });
    assert_eq!(client.delete(key("k")).await.unwrap().outcome, Outcome::Deleted { existed: false });
}

/// Text and bytes that are no text, page by page.
async fn pages_have_every_key_once(client: &mut ClusterClient) {
    let bytes = |key: &[u8]| Key([b"p/", key].concat());
    let raw = (bytes(b"\xff\0"), Value(b"\0\xff".to_vec()));
    let pairs = vec![(bytes(b"a"), "1".into()), raw.clone(), (bytes(b"b"), Value::default())];
    let (revision, _) = done(client, Command::SetMulti { pairs: pairs.clone() }).await;
    let mut want: Vec<_> = pairs.iter().map(|(key, _)| key.clone()).collect();
    want.sort();

    let request = scan("p/", 2, ScanDetail::Records);
    let page = client.scan(request.clone()).await.unwrap();
    assert!(page.is_truncated && page.revision >= revision && page.confirmed_by == ConfirmedBy::Quorum);
    let after = page.entries.last().map(|(key, _)| key.clone());
    let rest = client.scan(ScanRequest { after, ..request.clone() }).await.unwrap();
    assert!(!rest.is_truncated, "{rest:?}");
    let found: Vec<_> = page.entries.into_iter().chain(rest.entries).collect();
    assert_eq!(found.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), want);
    assert_eq!(found.last().map(|(key, record)| (key.clone(), record.value.clone())), Some(raw.clone()));
    assert!(found.iter().all(|(_, record)| record.mod_revision == revision), "{found:?}");

    for detail in [ScanDetail::Records, ScanDetail::Keys] {
        let (mut pages, mut keys) = (client.pages(scan("p/", 2, detail)), Vec::new());
        while let Some(page) = pages.next().await.unwrap() {
            keys.push(page.entries.into_iter().map(|(key, _)| key).collect::<Vec<_>>());
        }
        assert_eq!((keys.concat(), keys.len()), (want.clone(), 2), "{detail:?}");
    }
    let counted = client.scan(scan("p/", 2, ScanDetail::Count)).await.unwrap();
    assert_eq!((counted.count, counted.entries.len()), (Some(3), 0));
    let read = ReadRequest { vault: None, key: raw.0, consistency: Consistency::default() };
    assert_eq!(client.read(read).await.unwrap().record.map(|record| record.value), Some(raw.1));
    let deleted = done(client, Command::DeleteMulti { keys: [want, vec![key("nobody")]].concat() }).await;
    assert_eq!(deleted.1, Outcome::DeletedMulti { existed_count: 3 });
}

async fn transactions_do_one_thing_or_another(client: &mut ClusterClient) {
    done(client, set("t/a", "1")).await;
    let compare = |operand| Compare { key: key("t/lock"), relation: Relation::Equal, operand };
    let range = KeyRange { prefix: key("t/"), ..KeyRange::default() };
    let transaction = Command::Transaction(Transaction {
        compare: vec![compare(Operand::Exists(false)), compare(Operand::Version(0))],
        success: vec![
            Operation::Put { key: key("t/lock"), value: "me".into() },
            Operation::Get { key: key("t/lock") },
            Operation::Get { key: key("t/none") },
            Operation::Delete { key: key("t/none") },
            Operation::Range { range, limit: 1 },
        ],
        failure: vec![Operation::Delete { key: key("t/lock") }],
    });
    let (revision, outcome) = done(client, transaction.clone()).await;
    let Outcome::Transaction { succeeded: true, results } = outcome else { panic!("{outcome}") };
    let locked = Record {
        value: "me".into(),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: None,
    };
    assert_eq!(
        results[..4],
        [
            OperationResult::Written,
            OperationResult::Got(Some(locked)),
            OperationResult::Got(None),
            OperationResult::Deleted { existed: false },
        ]
    );
    let OperationResult::Found { entries, is_truncated: true } = &results[4] else { panic!("{results:?}") };
    assert_eq!(entries.iter().map(|(key, _)| key).collect::<Vec<_>>(), [&key("t/a")]);
    let (_, outcome) = done(client, transaction).await;
    let results = vec![OperationResult::Deleted { existed: true }];
    assert_eq!(outcome, Outcome::Transaction { succeeded: false, results });
}

async fn vaults_are_apart(client: &mut ClusterClient) {
    let vault = || VaultName("v".into());
    let read = || ReadRequest { vault: Some(vault()), key: key("a"), consistency: Consistency::Linearizable };
    let error = client.read(read()).await.unwrap_err();
    assert_eq!((error.code(), error.is_unknown()), (Some("vault_not_found"), false));
    let create = || Command::CreateVault { vault: vault() };
    let (created, outcome) = done(client, create()).await;
    assert_eq!(outcome, Outcome::VaultReady { is_new: true });
    assert_eq!(done(client, create()).await.1, Outcome::VaultReady { is_new: false });
    assert_eq!(done(client, in_vault("v", set("a", "1"))).await.1, Outcome::Written);
    assert_eq!(client.read(read()).await.unwrap().record.map(|record| record.value), Some("1".into()));
    assert_eq!(value(client, "a").await, None);
    assert_eq!(client.vaults().await.unwrap().vaults, [(vault(), created)]);
    let all = ScanRequest { vault: Some(vault()), ..scan("", 10, ScanDetail::Count) };
    assert_eq!(client.scan(all).await.unwrap().count, Some(1));
    let remove = || Command::DeleteVault { vault: vault() };
    assert_eq!(done(client, remove()).await.1, Outcome::Deleted { existed: true });
    assert_eq!(done(client, remove()).await.1, Outcome::Deleted { existed: false });
    let error = client.write(in_vault("v", in_vault("w", set("a", "1")))).await.unwrap_err();
    assert_eq!(error.to_string(), "inside a vault there are no vaults");
}

async fn keys_end_with_their_lease(client: &mut ClusterClient) {
    let (granted, outcome) = done(client, Command::GrantLease { ttl_ms: 600_000 }).await;
    let lease = LeaseId(granted.0);
    assert_eq!(outcome, Outcome::LeaseGranted);
    assert_eq!(done(client, with_lease(lease, set("l/a", "1"))).await.1, Outcome::Written);
    let in_vault = with_lease(lease, in_vault("leased", swap("b", None, "2")));
    assert_eq!(done(client, in_vault).await.1, Outcome::Swapped);
    let read = read_as(client, "l/a", Consistency::Linearizable).await;
    assert_eq!(read.record.and_then(|record| record.lease), Some(lease));
    assert_eq!(client.keep_lease(lease).await.unwrap(), 600_000);
    let leases = client.leases().await.unwrap().leases;
    assert_eq!(leases.len(), 1);
    assert_eq!((leases[0].lease, leases[0].ttl_ms, leases[0].key_count), (lease, 600_000, 2));
    let revoke = || Command::RevokeLease { lease };
    assert_eq!(done(client, revoke()).await.1, Outcome::LeaseEnded { existed: true, key_count: 2 });
    assert_eq!(value(client, "l/a").await, None);
    assert_eq!(done(client, revoke()).await.1, Outcome::LeaseEnded { existed: false, key_count: 0 });
    assert_eq!(done(client, with_lease(lease, set("l/a", "1"))).await.1, Outcome::LeaseNotFound);
    let error = client.keep_lease(lease).await.unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!((refusal.status, refusal.code.as_deref()), (404, Some("lease_not_found")));
    let error = client.write(Command::GrantLease { ttl_ms: 1 }).await.unwrap_err();
    assert!(matches!(error, ClusterClientError::BadRequest(_)), "{error}");
}

async fn changes_are_followed(client: &mut ClusterClient) {
    let interest =
        Interest { vault: None, range: KeyRange { prefix: Key(b"w\xff".to_vec()), ..KeyRange::default() } };
    let at = |end: &[u8]| Key([b"w\xff", end].concat());
    let follow = WatchRequest { interest: interest.clone(), with_previous: true, ..WatchRequest::default() };
    let mut watch = client.watch(follow).unwrap();
    let begun = watch.next().await.unwrap();
    let Some(WatchEvent::Begun { revision: begun }) = begun else { panic!("{begun:?}") };
    let pairs = vec![(at(b"a"), "1".into()), (at(b"b"), "2".into())];
    let (written, _) = done(client, Command::SetMulti { pairs }).await;
    done(client, set("elsewhere", "1")).await;
    let (deleted, _) = done(client, Command::Delete { key: at(b"a") }).await;
    let mut told = Vec::new();
    while told.len() < 2 {
        match watch.next().await.unwrap().unwrap() {
            WatchEvent::Changed(revised) => told.push(revised),
            other => panic!("{other:?}"),
        }
    }
    assert!(begun < written && told[0].revision == written && told[1].revision == deleted, "{told:?}");
    assert_eq!(
        told[0].changes.iter().filter_map(|change| change.key()).collect::<Vec<_>>(),
        [&at(b"a"), &at(b"b")]
    );
    let ChangeKind::Deleted { key, previous } = &told[1].changes[0].kind else { panic!("{told:?}") };
    let previous = previous.record().map(|record| record.value.clone());
    assert_eq!((key, previous), (&at(b"a"), Some("1".into())));
    assert_eq!(watch.last_told(), deleted);

    // From before, until there is no more.
    let again = WatchRequest { interest, from: Some(written), ends: true, ..WatchRequest::default() };
    let (mut watch, mut events) = (client.watch(again.clone()).unwrap(), Vec::new());
    while let Some(event) = watch.next().await.unwrap() {
        events.push(event);
    }
    assert_eq!(events.len(), 4, "{events:?}");
    assert_eq!(events[0], WatchEvent::Begun { revision: Revision(written.0 - 1) });
    assert!(matches!(events[3], WatchEvent::Progress { revision } if revision >= deleted), "{events:?}");
    let bounded = WatchRequest { consistency: Consistency::Bounded(Duration::from_secs(1)), ..again.clone() };
    assert!(matches!(client.watch(bounded), Err(ClusterClientError::BadRequest(_))));
    let noted = WatchRequest { from: Some(Revision(1)), with_previous: true, ..again };
    // Each node has held changes, and noted what was before, since another time.
    match client.watch(noted).unwrap().next().await {
        Err(ClusterClientError::Watch(WatchError::Refused(answer))) => assert_eq!(answer.status, 410),
        other => panic!("{other:?}"),
    }
}

async fn nodes_say_how_they_are(client: &mut ClusterClient) {
    let status = client.status().await.unwrap();
    assert_eq!(status.members.len(), 3);
    let state = client.raft_state().await.unwrap();
    assert_eq!((state.id, state.term, &state.role), (status.id, status.term, &status.role));
    let health = client.health().await.unwrap();
    assert!(health.is_live && health.is_ready && health.reason.is_none(), "{health:?}");
    assert!(client.metrics().await.unwrap().contains("aspen_raft_has_leader 1"));
    let snapshot = client.trigger_snapshot().await.unwrap();
    assert!(snapshot.last.is_some_and(|last| last.index > 0) && snapshot.bytes > 0, "{snapshot:?}");
    let (mut backup, mut saved) = (client.backup(Consistency::Linearizable).await.unwrap(), Vec::new());
    while let Some(part) = backup.next().await.unwrap() {
        saved.extend(part);
    }
    assert!(saved.starts_with(b"{\"aspen_backup\":1,"), "{}", saved.len());
    let answer = client.request("GET", "/state/digest", "").await.unwrap();
    assert_eq!(answer.status, 200);
    let error = client.request("GET", "/nothing", "").await.unwrap_err();
    assert_eq!((error.code(), error.is_unknown()), (Some("no_such_route"), false));
}

/// What no cluster does, and what it does already.
async fn members_are_checked(client: &mut ClusterClient) {
    let refused = async |error: Result<ClusterStatus, ClusterClientError>, code: &str| {
        let error = error.unwrap_err();
        assert_eq!((error.code(), error.is_unknown()), (Some(code), false), "{error}");
    };
    refused(client.promote_learner(NodeId(9), false).await, "members").await;
    refused(client.transfer_leader(NodeId(9)).await, "members").await;
    let status = client.status().await.unwrap();
    let voters: BTreeSet<NodeId> = status.members.iter().map(|member| member.id).collect();
    let strangers = voters.iter().copied().chain([NodeId(9)]).collect();
    refused(client.change_membership(&strangers, false, false).await, "members").await;
    refused(client.init(&[]).await, "already_initialized").await;
    let same = passes(async || client.change_membership(&voters, true, false).await).await;
    assert!(same.members.iter().all(|member| member.is_voter), "{same:?}");
    let taken = status.members[0].info.clone();
    let info = NodeInfo { http: ([127, 0, 0, 1], 1).into(), ..taken };
    refused(client.add_learner(status.members[0].id, Some(info)).await, "member_exists").await;
}

async fn every_operation(client: &mut ClusterClient) {
    keys_are_written_and_read(client).await;
    pages_have_every_key_once(client).await;
    transactions_do_one_thing_or_another(client).await;
    vaults_are_apart(client).await;
    keys_end_with_their_lease(client).await;
    changes_are_followed(client).await;
    nodes_say_how_they_are(client).await;
    members_are_checked(client).await;
}

/// Counts by swaps while the leader is killed: what is said of each is so. One whose outcome is unknown may be done later, and then the one
/// that is tried after it finds that.
async fn counts_while_the_leader_dies(client: &mut ClusterClient, kill: impl FnOnce()) {
    const COUNT_MAX: u32 = 12;
    let text = |count: u32| count.to_string();
    done(client, set("count", "0")).await;
    let (mut count, mut failures, mut kill) = (0, Vec::new(), Some(kill));
    // The swap of this count may have been done.
    let mut open = None;
    let until = Instant::now() + COMES_MAX;
    while count < COUNT_MAX {
        assert!(Instant::now() < until, "{count} swaps: {failures:?}");
        if count >= COUNT_MAX / 2
            && let Some(kill) = kill.take()
        {
            kill();
        }
        let next = count + 1;
        match client.write(swap("count", Some(&text(count)), &text(next))).await {
            Ok(result) => {
                let is_there = Outcome::NotSwapped { actual: Some(text(next).as_str().into()) };
                let was_done = open == Some(count) && result.outcome == is_there;
                assert!(was_done || result.outcome == Outcome::Swapped, "{} after {count}", result.outcome);
                count = next;
            }
            Err(error) => {
                open = if error.is_unknown() { Some(count) } else { open };
                let read = passes(async || {
                    let consistency = Consistency::Linearizable;
                    client.read(ReadRequest { vault: None, key: key("count"), consistency }).await
                });
                let read = read.await.record.unwrap().value;
                let read: u32 = str::from_utf8(&read.0).unwrap().parse().unwrap();
                assert!(read == count || (open == Some(count) && read == next), "{read}, {count}: {error}");
                failures.push(error.to_string());
                count = read;
            }
        }
    }
    assert_eq!(value(client, "count").await, Some(text(count).as_str().into()));
}

/// The node that a status names the leader, by its place among these.
fn leading(nodes: &Nodes, status: &ClusterStatus) -> u64 {
    let leader = status.leader.as_ref().unwrap().http.clone().unwrap();
    [1, 2, 3].into_iter().find(|id| nodes.http(*id).to_string() == leader).unwrap()
}

#[test]
fn client_by_a_followers_address_does_every_operation_and_outlives_the_leader() {
    let (ids, mut nodes) = three_nodes(&QUICK);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = |id: u64| ClusterClient::new(vec![nodes.http(id)], Credentials::default());
    runtime.block_on(async {
        let health = client(1).health().await.unwrap();
        assert!(health.is_live && !health.is_ready && health.reason.is_some(), "{health:?}");
        let founded = client(1).init(&ids.map(NodeId)).await.unwrap();
        assert!(founded.is_initialized && founded.members.len() == 3, "{founded:?}");
    });
    let first = leader(&nodes, &ids);
    let (follower, third) = (first % 3 + 1, (first + 1) % 3 + 1);
    let mut client = client(follower);
    runtime.block_on(async {
        passes(async || client.write(set("first", "of all")).await).await;
        every_operation(&mut client).await;
        let error = client.ticket().await.unwrap_err();
        assert_eq!(error.code(), Some("no_secret"));

        // A member goes and comes back, and another one leads.
        let status = passes(async || client.transfer_leader(NodeId(third)).await).await;
        assert_eq!(status.leader.map(|leader| leader.id), Some(NodeId(third)));
        let left = passes(async || client.remove_member(NodeId(first)).await).await;
        assert_eq!(left.members.len(), 2);
        let back = passes(async || client.add_learner(NodeId(first), None).await).await;
        assert!(back.members.iter().any(|member| member.id == NodeId(first) && !member.is_voter), "{back:?}");
        let voting = passes(async || client.promote_learner(NodeId(first), false).await).await;
        assert!(voting.members.iter().all(|member| member.is_voter), "{voting:?}");
        // It went on with the leader, and goes back to whom it knows.
        assert_eq!(client.node(), Some(nodes.http(third)));
        counts_while_the_leader_dies(&mut client, || {
            nodes.end(third, Signal::SIGKILL);
        })
        .await;
        assert_ne!(client.node(), Some(nodes.http(third)));
    });
}

#[test]
fn client_by_a_ticket_does_every_operation_over_quic_and_outlives_the_leader() {
    let files = Files::new();
    let text = "t".repeat(40);
    let (token, secret) = (files.put("token", &text), files.put("secret", &new_secret()));
    let mut nodes = Nodes::new(3);
    nodes.flags = QUICK.to_vec();
    let shared = ["--http-token-file", &token, "--secret-file", &secret];
    nodes.start_alone(1, &[&["--bootstrap", "--target-voters", "3"], &shared[..]].concat());
    let token = BearerToken::parse(&text, "the test").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let credentials = Credentials { token: Some(token.clone()), ..Credentials::default() };
    let mut by_address = ClusterClient::new(vec![nodes.http(1)], credentials);
    let ticket = runtime.block_on(passes(async || by_address.ticket().await));
    for id in [2, 3] {
        nodes.start_alone(id, &[&["--ticket", &ticket.to_string()], &shared[..]].concat());
    }
    runtime.block_on(async {
        let until = Instant::now() + COMES_MAX;
        while by_address.status().await.unwrap().members.iter().filter(|member| member.is_voter).count() < 3 {
            assert!(Instant::now() < until, "{:?}", by_address.status().await);
            sleep(Duration::from_millis(50)).await;
        }
        // The leader comes first in a ticket, and is asked last here.
        let mut ticket: AspenClusterTicket = by_address.ticket().await.unwrap();
        assert_eq!(ticket.peers.len(), 3);
        ticket.peers.rotate_left(1);
        let mut nobody = ClusterClient::by_ticket(ticket.clone(), None);
        let error = nobody.status().await.unwrap_err();
        let refusal = error.refusal().unwrap();
        assert_eq!((refusal.status, refusal.code.as_deref()), (401, Some("unauthorized")));
        nobody.close().await;

        let mut client = ClusterClient::by_ticket(ticket.clone(), Some(token));
        every_operation(&mut client).await;
        assert_eq!(client.ticket().await.unwrap().cluster_id, ticket.cluster_id);
        let status = client.status().await.unwrap();
        let other = status
            .members
            .iter()
            .find(|member| Some(member.id) != status.leader.as_ref().map(|leader| leader.id));
        let other = other.unwrap().id;
        let status = passes(async || client.transfer_leader(other).await).await;
        assert_eq!(status.leader.as_ref().map(|leader| leader.id), Some(other));
        let leading = leading(&nodes, &status);
        counts_while_the_leader_dies(&mut client, || {
            nodes.end(leading, Signal::SIGKILL);
        })
        .await;
        client.close().await;
    });
}
