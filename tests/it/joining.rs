//! Nodes that find their cluster by a ticket and the secret, are let in, promoted, replaced and found again; and those that are not.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aspen_lab::cli::NODE_PART;
use aspen_node::api::{ApiError, BadRequest};
use aspen_node::cluster::identity::Identity;
use aspen_node::cluster::ticket::AspenClusterTicket;
use aspen_node::network::AddressBook;
use aspen_node::network::incarnation::Incarnations;
use aspen_node::network::iroh::{Admission, JoinError, RaftEndpoint};
use aspen_node::network::join::Wish;
use aspen_node::network::lookups::Reach;
use aspen_node::network::secret::{ClusterSecrets, new_secret};
use aspen_node::types::{NodeId, NodeInfo};
use futures::{StreamExt, stream};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::http_client::{get, post};
use crate::lab::rounds;
use crate::members::members;
use crate::nodes::{Nodes, set};

/// Nodes that share a secret, which is in a file.
pub(crate) struct Closed {
    pub(crate) nodes: Nodes,
    secret: String,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

/// The text of a path, as a word of a command line.
fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// At once: a node may be reading it.
fn write_secret(path: &Path, secret: &str) {
    let new = path.with_extension("new");
    fs::write(&new, secret).unwrap();
    fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

impl Closed {
    /// None of these nodes runs yet.
    pub(crate) fn new(count: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (secret, file) = (new_secret(), folder.path().join("secret"));
        write_secret(&file, &secret);
        Self { nodes: Nodes::new(count), secret, file, _folder: folder }
    }

    /// The first of these nodes has founded a cluster; the others do not run yet.
    fn founded(count: u64, words: &[&str]) -> Self {
        let mut closed = Self::new(count);
        closed.found(words);
        closed
    }

    /// Has the first node found a cluster.
    pub(crate) fn found(&mut self, words: &[&str]) {
        self.start(1, &[&["--bootstrap"], words].concat());
        self.nodes.succeeds(1, "/kv/write", &set("first", "of all"));
    }

    /// Two of these nodes have joined the first, and all three vote.
    fn three_voters(count: u64) -> Self {
        let mut closed = Self::founded(count, &["--target-voters", "3"]);
        for id in [2, 3] {
            closed.join(id);
        }
        closed.counts(1, (3, 3));
        closed
    }

    /// Where the secret is.
    pub(crate) fn secret_file(&self) -> PathBuf {
        self.file.clone()
    }

    pub(crate) fn start(&mut self, id: u64, words: &[&str]) {
        let file = self.secret_file();
        self.nodes.start_alone(id, &[&["--secret-file", word(&file)], words].concat());
    }

    pub(crate) fn ticket(&self, id: u64) -> String {
        let ticket = || get(self.nodes.http(id), "/cluster/ticket").ok().filter(|(status, _)| *status == 200);
        self.nodes.comes("ticket", ticket).1["ticket"].as_str().unwrap().to_owned()
    }

    pub(crate) fn join(&mut self, id: u64) {
        let ticket = self.ticket(1);
        self.start(id, &["--ticket", &ticket]);
    }

    pub(crate) fn status(&self, id: u64) -> Value {
        let status = || get(self.nodes.http(id), "/cluster/status").ok().filter(|(status, _)| *status == 200);
        self.nodes.comes("status", status).1
    }

    /// Waits for so many members and voters among them, as a node has it; the voters' numbers.
    #[track_caller]
    pub(crate) fn counts(&self, asked: u64, want: (usize, usize)) -> Vec<u64> {
        let what = format!("{} members, {} of them voters", want.0, want.1);
        self.nodes.comes(&what, || {
            let (all, voters) = members(&self.status(asked));
            ((all.len(), voters.len()) == want).then_some(voters)
        })
    }

    /// The number that a node has been given.
    fn number(&self, id: u64) -> u64 {
        self.status(id)["id"].as_u64().unwrap()
    }
}

/// No other command is given than to start each of them.
#[test]
fn nine_nodes_with_a_ticket_are_five_voters_and_a_lost_one_is_replaced() {
    let policy = ["--target-voters", "5", "--replace-after-s", "10"];
    let mut closed = Closed::founded(10, &policy);
    for id in 2..=9 {
        let ticket = closed.ticket(1);
        closed.start(id, &["--ticket", &ticket, "--replace-after-s", "10"]);
    }
    let voters = closed.counts(1, (9, 5));
    // Whoever joins was given the next number.
    let mut numbers: Vec<u64> = (1..=9).map(|id| closed.number(id)).collect();
    let lost = (1..=9).find(|id| closed.number(*id) == voters[4]).unwrap();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=9).collect::<Vec<_>>());

    closed.nodes.end(lost, Signal::SIGKILL);
    let lost_at = Instant::now();
    let asked = if lost == 1 { 2 } else { 1 };
    let now = closed.nodes.comes("another voter", || {
        let (all, now) = members(&closed.status(asked));
        (!now.contains(&voters[4])).then_some((all, now))
    });
    assert!(lost_at.elapsed() > Duration::from_secs(9), "replaced after {:?}", lost_at.elapsed());
    assert_eq!((now.0.len(), now.1.len()), (8, 5), "{now:?}");
    closed.nodes.succeeds(asked, "/kv/write", &set("k", "without it"));

    closed.join(10);
    closed.counts(asked, (9, 5));
    let read = closed.nodes.succeeds(10, "/kv/read", &json!({ "key": "k" }));
    assert_eq!(read["value"], "without it");
    assert_eq!(closed.number(10), 10);
}

#[test]
fn two_nodes_with_a_ticket_vote_where_two_are_wanted() {
    let mut closed = Closed::founded(2, &["--target-voters", "2"]);
    closed.join(2);
    assert_eq!(closed.counts(2, (2, 2)), [1, 2]);
    let read = closed.nodes.succeeds(2, "/kv/read", &json!({ "key": "first" }));
    assert_eq!(read["value"], "of all");
    // It is a member now: the same command starts it again, and asks nobody.
    assert_eq!(closed.nodes.end(2, Signal::SIGTERM).code(), Some(0));
    let ticket = AspenClusterTicket::new(
        closed.ticket(1).parse::<AspenClusterTicket>().unwrap().cluster_id,
        [NodeInfo { endpoint_id: Identity::from_secret([3; 32]).endpoint_id(), ..anywhere() }],
    );
    closed.start(2, &["--ticket", &ticket.to_string()]);
    closed.nodes.succeeds(2, "/kv/write", &set("k", "again"));
    // Nor does the founder have to be told once more.
    assert_eq!(closed.nodes.end(1, Signal::SIGTERM).code(), Some(0));
    closed.start(1, &[]);
    closed.nodes.succeeds(1, "/kv/write", &set("k", "and again"));
    assert_eq!(closed.number(1), 1);
}

#[test]
fn founder_without_a_secret_lets_nobody_in_and_stays_who_it_is() {
    let mut nodes = Nodes::new(1);
    nodes.start_alone(1, &[]);
    assert_eq!(nodes.ended(1).code(), Some(64));
    assert!(nodes.last_words(1).contains("id is not set: give --id"), "{}", nodes.last_words(1));
    nodes.start_alone(1, &["--bootstrap"]);
    nodes.succeeds(1, "/kv/write", &set("k", "v"));
    let (status, answer) = get(nodes.http(1), "/cluster/ticket").unwrap();
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("no_secret")), "{answer}");
    nodes.end(1, Signal::SIGKILL);
    nodes.start_alone(1, &[]);
    let read = nodes.succeeds(1, "/kv/read", &json!({ "key": "k" }));
    assert_eq!(read["value"], "v");
}

/// Where nobody is.
fn anywhere() -> NodeInfo {
    let address = ([127, 0, 0, 1], 9).into();
    NodeInfo { endpoint_id: Identity::from_secret([1; 32]).endpoint_id(), raft: address, http: address }
}

#[test]
fn learner_is_promoted_by_hand_where_no_number_of_voters_is_wanted() {
    let mut closed = Closed::founded(2, &[]);
    closed.join(2);
    closed.counts(2, (2, 1));
    let learner = closed.number(2);
    let (status, answer) =
        post(closed.nodes.http(1), "/cluster/promote-learner", &json!({ "id": learner })).unwrap();
    assert_eq!(status, 200, "{answer}");
    assert_eq!(closed.counts(2, (2, 2)), [1, 2]);
}

#[test]
fn newcomer_that_nobody_lets_in_says_so_and_stops_in_good_order() {
    let mut closed = Closed::founded(2, &[]);
    let ticket = closed.ticket(1);
    closed.nodes.end(1, Signal::SIGKILL);
    closed.start(2, &["--ticket", &ticket]);
    let newcomer = closed.nodes.http(2);
    let health = closed.nodes.comes("health of a newcomer", || get(newcomer, "/health").ok());
    let want =
        json!({ "live": true, "ready": false, "reason": "this node waits to be let into its cluster" });
    assert_eq!(health, (503, want));
    let (status, answer) = post(newcomer, "/kv/read", &json!({ "key": "k" })).unwrap();
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("joining")), "{answer}");
    closed.nodes.comes("word of who does not let it in", || {
        closed.nodes.last_words(2).contains("not let in yet").then_some(())
    });
    assert_eq!(closed.nodes.end(2, Signal::SIGTERM).code(), Some(0));
    let words = closed.nodes.last_words(2);
    assert!(words.contains(": stopped") && !words.contains("ERROR"), "{words}");
}

#[test]
fn secret_of_another_cluster_lets_nobody_in() {
    let mut closed = Closed::founded(3, &[]);
    let ticket: AspenClusterTicket = closed.ticket(1).parse().unwrap();
    let other = closed.file.with_file_name("other");
    write_secret(&other, &new_secret());
    closed.nodes.start_alone(2, &["--secret-file", word(&other), "--ticket", &ticket.to_string()]);
    assert_eq!(closed.nodes.ended(2).code(), Some(1));
    let words = closed.nodes.last_words(2);
    assert!(words.contains("take both from the same cluster"), "{words}");

    // Whoever has made up the rest of the ticket.
    let count = 400 * rounds();
    let secret = ClusterSecrets::parse(new_secret(), "a test").unwrap();
    let rss = |nodes: &Nodes| {
        let status = fs::read_to_string(format!("/proc/{}/status", nodes.process(1))).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    };
    let before = rss(&closed.nodes);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let own = Identity::from_secret([7; 32]);
        let info = NodeInfo { endpoint_id: own.endpoint_id(), ..anywhere() };
        let admission = Arc::new(Admission::new([], Incarnations::default()));
        let any = ([127, 0, 0, 1], 0).into();
        let bound =
            RaftEndpoint::bind(own.secret(), any, AddressBook::default(), admission, Reach::default());
        let endpoint = bound.await.unwrap();
        let member = &ticket.peers[0];
        // Several at once, and fewer than are heard at once.
        let asked = stream::iter(0..count).for_each_concurrent(8, async |number| {
            let wish = if number % 2 == 0 { Wish::Join(None) } else { Wish::Members };
            let error = endpoint.ask(&secret, member, &info, wish).await.unwrap_err();
            assert!(matches!(error, JoinError::WrongSecret), "{error}");
        });
        asked.await;
        // The right secret does not help with another's key, and gives no number that nobody can hold.
        let right = ClusterSecrets::read(&closed.file).unwrap();
        let error = endpoint.ask(&right, member, &anywhere(), Wish::Join(None)).await.unwrap_err();
        assert!(matches!(error, JoinError::WrongSecret), "{error}");
        let wish = Wish::Join(Some(NodeId(u64::MAX)));
        let error = endpoint.ask(&right, member, &info, wish).await.unwrap_err();
        assert!(
            matches!(error, JoinError::Refused(ApiError::BadRequest(BadRequest::JoinId(_)))),
            "{error:?}"
        );
    });
    let status = closed.status(1);
    assert_eq!(status["refused_connections"], json!(count + 1), "{status}");
    assert_eq!(members(&status).0, [1]);
    let grown = rss(&closed.nodes).saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "{grown} bytes after {count} handshakes");
}

/// The secret is replaced step by step while the nodes run, and in between either one counts.
#[test]
fn secret_is_replaced_while_the_nodes_run() {
    let mut closed = Closed::founded(6, &[]);
    closed.join(2);
    closed.counts(1, (2, 1));
    let [old, new] = [closed.secret.clone(), new_secret()];
    let old_ticket = closed.ticket(1);
    let give = |closed: &Closed, secrets: &[&str], step: usize| {
        write_secret(&closed.file, &secrets.join("\n"));
        closed.nodes.comes("word of other secrets", || {
            let counts = |id| {
                closed
                    .nodes
                    .last_words(id)
                    .matches("the secrets of the cluster were read again, and count as they are now")
                    .count()
            };
            [1, 2].into_iter().all(|id| counts(id) >= step).then_some(())
        });
    };
    let of_newcomers = closed.file.with_file_name("of-newcomers");
    let ask = |closed: &mut Closed, id: u64, secret: &str, ticket: &str| {
        write_secret(&of_newcomers, secret);
        closed.nodes.start_alone(id, &["--secret-file", word(&of_newcomers), "--ticket", ticket]);
    };
    give(&closed, &[&old, &new], 1);
    assert_eq!(closed.ticket(1), old_ticket);
    give(&closed, &[&new, &old], 2);
    let new_ticket = closed.ticket(1);
    assert_ne!(new_ticket, old_ticket);
    ask(&mut closed, 3, &new, &new_ticket);
    closed.counts(1, (3, 1));
    ask(&mut closed, 4, &old, &old_ticket);
    closed.counts(1, (4, 1));
    // Damage is no reason to stop.
    write_secret(&closed.file, &format!("{new}\n{new}\n{old}"));
    closed.nodes.comes("word of it", || {
        closed.nodes.last_words(1).contains("holds more than 2 secrets").then_some(())
    });
    give(&closed, &[&new], 3);
    ask(&mut closed, 5, &old, &old_ticket);
    closed
        .nodes
        .comes("refusal", || closed.nodes.last_words(5).contains("it has another secret").then_some(()));
    closed.nodes.end(5, Signal::SIGKILL);
    ask(&mut closed, 6, &new, &new_ticket);
    closed.counts(1, (5, 1));

    // They gossip under their new name: one that moves is found.
    assert!(closed.nodes.end(2, Signal::SIGTERM).success());
    closed.nodes.give_addresses(&[2]);
    closed.start(2, &[]);
    let moved = json!(closed.nodes.member(2).raft.to_string());
    closed.nodes.comes("new address", || {
        let status = closed.status(1);
        let members = status["members"].as_array().unwrap();
        members.iter().any(|member| member["raft"] == moved).then_some(())
    });
}

#[test]
fn secret_is_in_nothing_that_others_see() {
    let mut closed = Closed::founded(2, &["--log", "debug"]);
    closed.join(2);
    closed.counts(2, (2, 1));
    let ticket: AspenClusterTicket = closed.ticket(1).parse().unwrap();
    let seen = |id: u64| {
        let command_line = fs::read_to_string(format!("/proc/{}/cmdline", closed.nodes.process(id))).unwrap();
        format!(
            "{command_line}{}{ticket:?}{}{}",
            closed.nodes.last_words(id),
            closed.ticket(1),
            closed.status(id)
        )
    };
    for id in [1, 2] {
        let seen = seen(id);
        assert!(seen.contains("let in") || id == 1, "{seen}");
        assert!(!seen.to_lowercase().contains(&closed.secret), "node {id} says the secret");
        for file in fs::read_dir(closed.nodes.data(id)).unwrap().map(|entry| entry.unwrap().path()) {
            let bytes = fs::read(&file).unwrap_or_default();
            let is_in = bytes.windows(64).any(|part| part == closed.secret.as_bytes());
            assert!(!is_in, "the secret is in {}", file.display());
        }
    }
}

/// All that a process has in memory, but for what is of the kernel or of files that anybody may read.
fn memory(process: u32) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let mut all = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).unwrap().starts_with("rw")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut part = vec![0; (to - from).try_into().unwrap()];
        // It may have gone meanwhile.
        if memory.read_exact_at(&mut part, from).is_ok() {
            all.append(&mut part);
        }
    }
    all
}

/// A node keeps no more of the secret than keys that come from it; and none of it gets into a file when it dies, unless that is wanted.
#[test]
#[allow(clippy::disallowed_methods, reason = "the limits of a process are those of the shell that starts it")]
fn secret_is_in_no_memory_of_a_node_and_no_dump_of_one() {
    let mut closed = Closed::new(1);
    let folder = closed.file.parent().unwrap().to_owned();
    let most = std::process::Command::new("sh").args(["-c", "ulimit -H -c"]).output().unwrap().stdout;
    let (script, lab) = (folder.join("node"), env!("CARGO_BIN_EXE_lab"));
    let text = format!(
        "#!/bin/sh\nulimit -c $(ulimit -H -c)\ncd {}\nexec {lab} {NODE_PART} \"$@\"\n",
        folder.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o700)).unwrap();
    closed.nodes.set_up(Some(script), &[]);

    closed.found(&["--core-dumps"]);
    let memory = memory(closed.nodes.process(1));
    let has = |bytes: &[u8]| memchr::memmem::find(&memory, bytes).is_some();
    assert!(has(closed.nodes.data(1).to_str().unwrap().as_bytes()), "this is not the memory of the node");
    let raw = data_encoding::HEXLOWER.decode(closed.secret.as_bytes()).unwrap();
    assert!(!has(closed.secret.as_bytes()) && !has(&raw), "the secret is in the node's memory");
    let ended = closed.nodes.end(1, Signal::SIGABRT);
    assert_eq!(ended.core_dumped(), most.trim_ascii() != b"0", "{ended}");

    let dumps = || fs::read_dir(&folder).unwrap().count();
    let before = dumps();
    closed.start(1, &[]);
    closed.nodes.answers(1);
    let ended = closed.nodes.end(1, Signal::SIGABRT);
    assert!(ended.signal() == Some(Signal::SIGABRT as i32) && !ended.core_dumped(), "{ended}");
    assert_eq!(dumps(), before);
}

#[test]
fn member_that_has_moved_is_found_by_its_own_word() {
    let mut closed = Closed::three_voters(3);
    let moved = closed.number(3);
    assert_eq!(closed.nodes.end(3, Signal::SIGTERM).code(), Some(0));
    closed.nodes.give_addresses(&[3]);
    closed.start(3, &[]);
    let http = closed.nodes.http(3).to_string();
    let address = |status: &Value| {
        let member = status["members"].as_array().unwrap().iter().find(|member| member["id"] == moved);
        member.unwrap()["http"].clone()
    };
    for id in [1, 2, 3] {
        closed.nodes.comes("its new address", || (address(&closed.status(id)) == *http).then_some(()));
    }
    closed.nodes.succeeds(3, "/kv/write", &set("k", "from there"));
}

/// Nobody is where anybody remembers it, so the settings have to say where they are; the membership learns it from the nodes.
#[test]
fn cluster_whose_addresses_all_change_while_it_is_down_comes_back() {
    let ids = [1, 2, 3];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    write_secret(&file, &new_secret());
    let mut nodes = Nodes::new(3);
    nodes.environment = vec![("ASPEN_SECRET_FILE", word(&file).to_owned())];
    for id in ids {
        nodes.start(id, &ids);
    }
    nodes.succeeds(1, "/cluster/init", &json!({}));
    nodes.succeeds(2, "/kv/write", &set("k", "before"));
    for id in ids {
        assert_eq!(nodes.end(id, Signal::SIGTERM).code(), Some(0));
    }
    nodes.give_addresses(&ids);
    for id in ids {
        nodes.start(id, &ids);
    }
    let read = nodes.succeeds(3, "/kv/read", &json!({ "key": "k" }));
    assert_eq!(read["value"], "before");
    for id in ids {
        nodes.comes("membership with the new addresses", || {
            let status = get(nodes.http(id), "/cluster/status").ok()?.1;
            let members = status["members"].as_array().unwrap().iter();
            let addresses: Vec<String> =
                members.map(|member| member["http"].as_str().unwrap().to_owned()).collect();
            (addresses == ids.map(|id| nodes.http(id).to_string())).then_some(())
        });
    }
}

#[test]
fn removed_member_is_refused_at_once() {
    let mut closed = Closed::three_voters(3);
    let removed = closed.number(3);
    let body = json!({ "id": removed });
    closed.nodes.comes("removal", || {
        post(closed.nodes.http(1), "/cluster/remove-member", &body).ok().filter(|(status, _)| *status == 200)
    });
    let refused = |id: u64| closed.status(id)["refused_connections"].as_u64().unwrap();
    let before = [1, 2].map(refused);
    closed.nodes.comes("refusal", || ([1, 2].map(refused) > before).then_some(()));
    closed.nodes.comes("word that it was removed", || {
        closed.nodes.last_words(3).contains("this node was removed from its cluster").then_some(())
    });
    let removed = closed.nodes.http(3);
    for (path, body) in [
        ("/kv/read", json!({ "key": "first" })),
        ("/kv/read", json!({ "key": "first", "consistency": "stale" })),
        ("/kv/write", set("k", "v")),
    ] {
        let (status, answer) = post(removed, path, &body).unwrap();
        assert_eq!((status, &answer["error"]["code"]), (503, &json!("removed")), "{path}: {answer}");
    }
    let (status, answer) = get(removed, "/cluster/ticket").unwrap();
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("removed")), "{answer}");
    let (status, health) = get(removed, "/health").unwrap();
    assert_eq!((status, &health["ready"]), (503, &json!(false)), "{health}");
    let own = closed.status(3);
    assert_eq!((&own["is_removed"], &own["leader"]), (&json!(true), &json!(null)), "{own}");
    closed.nodes.succeeds(2, "/kv/write", &set("k", "without it"));
    // What there is to say of a cluster a follower says as well, also without a majority.
    let cluster_of =
        |closed: &Closed, id| closed.ticket(id).parse::<AspenClusterTicket>().unwrap().cluster_id;
    let cluster = cluster_of(&closed, 1);
    assert_eq!(cluster_of(&closed, 2), cluster);
    closed.nodes.end(1, Signal::SIGKILL);
    assert_eq!(cluster_of(&closed, 2), cluster);
}

/// Whoever was away when it came knows less than it does itself.
#[test]
fn member_is_not_removed_by_the_word_of_one_that_does_not_know_it_yet() {
    let mut closed = Closed::three_voters(4);
    assert_eq!(closed.nodes.end(3, Signal::SIGTERM).code(), Some(0));
    closed.join(4);
    closed.counts(4, (4, 3));
    for id in [1, 2, 4] {
        closed.nodes.end(id, Signal::SIGKILL);
    }
    closed.start(3, &[]);
    closed.start(4, &["--log", "aspen_node=debug"]);
    // Two are not there: with the third word of that it has asked everybody once.
    closed.nodes.comes_within(Duration::from_mins(1), "second round of questions", || {
        (closed.nodes.last_words(4).matches("asked in vain").count() > 2).then_some(())
    });
    let words = closed.nodes.last_words(4);
    assert!(!words.contains("this node was removed"), "{words}");
    assert_eq!(closed.status(4)["is_removed"], json!(null));
}

/// Its key was a member's, which has acknowledged what nobody else may have.
#[test]
fn member_that_has_lost_its_log_is_not_let_in_as_itself() {
    let mut closed = Closed::three_voters(3);
    closed.nodes.end(3, Signal::SIGKILL);
    let data = closed.nodes.data(3);
    fs::remove_file(data.join("log.redb")).unwrap();
    closed.start(3, &[]);
    assert_eq!(closed.nodes.ended(3).code(), Some(1));
    let words = closed.nodes.last_words(3);
    assert!(words.contains("is gone, and with it what it has promised"), "{words}");
    // As on another disk that was given the same key.
    fs::remove_file(data.join("cluster.redb")).unwrap();
    closed.join(3);
    assert_eq!(closed.nodes.ended(3).code(), Some(1));
    let words = closed.nodes.last_words(3);
    assert!(words.contains("what it had is lost, and others may count on it"), "{words}");
    closed.counts(1, (3, 3));
}

/// It knew nobody of those who lead now.
#[test]
fn member_that_was_away_while_the_others_were_replaced_comes_back() {
    let mut closed = Closed::three_voters(4);
    let away = closed.number(3);
    assert_eq!(closed.nodes.end(3, Signal::SIGTERM).code(), Some(0));
    closed.join(4);
    closed.nodes.answers(4);
    let newcomer = closed.number(4);
    let change = |id: u64, path: &str, body: Value| {
        closed.nodes.comes(path, || {
            post(closed.nodes.http(id), path, &body).ok().filter(|(status, _)| *status == 200)
        });
    };
    change(1, "/cluster/change-membership", json!({ "voters": [1, away, newcomer], "retain": true }));
    change(1, "/cluster/transfer-leader", json!({ "id": newcomer }));
    closed.start(3, &[]);
    closed.nodes.comes("the new leader", || (closed.status(3)["leader"]["id"] == newcomer).then_some(()));
    let written = closed.nodes.succeeds(3, "/kv/write", &set("k", "with it"));
    assert!(written["revision"].as_u64().is_some(), "{written}");
}

/// Where a node looks as its leader has it.
fn health(status: &Value, id: u64) -> Option<String> {
    let member = status["members"].as_array()?.iter().find(|member| member["id"] == id)?;
    member["health"].as_str().map(str::to_owned)
}

#[test]
fn crashed_member_and_one_that_hangs_are_told_apart_and_said_once() {
    let mut closed = Closed::three_voters(3);
    let [second, third] = [2, 3].map(|id| closed.number(id));
    let looks = |closed: &Closed, id: u64, want: &str| {
        closed.nodes.comes(want, || (health(&closed.status(1), id)? == want).then_some(()));
    };
    looks(&closed, second, "healthy");
    closed.nodes.signal(2, Signal::SIGSTOP);
    looks(&closed, second, "unresponsive");
    closed.nodes.signal(2, Signal::SIGCONT);
    looks(&closed, second, "healthy");
    closed.nodes.end(3, Signal::SIGKILL);
    looks(&closed, third, "crashed");
    closed.start(3, &[]);
    looks(&closed, third, "healthy");
    let words = closed.nodes.last_words(1);
    let said = |id: u64, what: &str| {
        words.lines().filter(|line| line.contains(what) && line.contains(&format!("id={id}"))).count()
    };
    for (id, looks) in [(second, "unresponsive"), (third, "crashed")] {
        assert_eq!(said(id, &format!("looks=\"{looks}\"")), 1, "{words}");
        assert_eq!(said(id, "a member does not answer"), 1, "{words}");
        assert_eq!(said(id, &format!("was=\"{looks}\"")), 1, "{words}");
    }
}
