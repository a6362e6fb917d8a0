//! Regions: reads near the client, and leaders where they are wanted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::http_client::{get, post, raw, request};
use crate::lab;
use crate::members::leader;
use crate::nodes::{Nodes, set};

/// Nodes that measure time where nobody stops the machine, whatever it looks like.
const OWN_CLOCK: [&str; 2] = ["--lease-clock", "own"];

/// After which leadership moves at the latest: a leader leads for a while, and one that has handed over waits for another.
const MOVES_MAX: Duration = Duration::from_mins(2);

/// Three voters and a learner, number 4, which are a cluster.
fn three_and_a_learner(flags: &[&'static str]) -> Nodes {
    let mut nodes = Nodes::new(4);
    nodes.set_up(None, flags);
    for id in 1..=4 {
        nodes.start(id, &[1, 2, 3, 4]);
    }
    for id in 1..=4 {
        nodes.answers(id);
    }
    request(nodes.http(1), "POST", "/cluster/init", r#"{"members":[1,2,3]}"#).unwrap();
    nodes.succeeds(1, "/kv/write", &set("k", "0"));
    let leads = leader(&nodes, &[1, 2, 3]);
    nodes.succeeds(leads, "/cluster/add-learner", &json!({ "id": 4 }));
    nodes.comes("learner", || (leader(&nodes, &[1, 2, 3, 4]) == leads).then_some(()));
    nodes
}

/// Three voters, and a node that is no member yet, in these regions.
fn in_regions(regions: [&str; 4], preferred: &str) -> Nodes {
    let mut nodes = Nodes::new(4);
    nodes.set_up(None, &OWN_CLOCK);
    for id in 1..=4 {
        start_in(&mut nodes, id, regions[usize::try_from(id).unwrap() - 1], preferred);
    }
    for id in 1..=4 {
        nodes.answers(id);
    }
    request(nodes.http(1), "POST", "/cluster/init", r#"{"members":[1,2,3]}"#).unwrap();
    nodes.succeeds(1, "/kv/write", &set("k", "0"));
    nodes
}

/// Starts a node in a region, and in a zone of that which has the node's number.
fn start_in(nodes: &mut Nodes, id: u64, region: &str, preferred: &str) {
    let environment = [
        ("ASPEN_REGION", region.to_owned()),
        ("ASPEN_ZONE", format!("{region}-{id}")),
        ("ASPEN_PREFERRED_REGIONS", preferred.to_owned()),
    ];
    nodes.start_with(id, &[1, 2, 3, 4], &environment);
}

/// Where the members are, as a node has it: region and zone, by number.
fn places(nodes: &Nodes, id: u64) -> Vec<(u64, Option<String>, Option<String>)> {
    let status = get(nodes.http(id), "/cluster/status").unwrap().1;
    let text = |member: &Value, name: &str| member[name].as_str().map(str::to_owned);
    let members = status["members"].as_array().unwrap();
    members
        .iter()
        .map(|member| (member["id"].as_u64().unwrap(), text(member, "region"), text(member, "zone")))
        .collect()
}

/// How often a node's log says that it has handed leadership over for a region.
fn handed_over(nodes: &Nodes, id: u64) -> usize {
    nodes.last_words(id).matches("leadership is handed to a region that is preferred").count()
}

fn bounded(to: SocketAddr, max_ms: u64) -> (u16, Value) {
    post(to, "/kv/read", &json!({ "key": "k", "max_staleness_ms": max_ms })).unwrap()
}

/// The age that an answer names.
fn age(answer: &Value) -> u64 {
    answer["staleness_ms"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

/// A node that only looked at what it has applied would not see what was written while it was stopped.
#[test]
fn what_is_older_than_the_bound_is_seen_on_a_follower_and_on_a_learner() {
    const BOUND_MS: u64 = 200;
    let nodes = three_and_a_learner(&OWN_CLOCK);
    let leads = leader(&nodes, &[1, 2, 3, 4]);
    let follower = leads % 3 + 1;
    for round in 0..6 * lab::rounds() {
        for reader in [follower, 4] {
            let value = format!("{reader}-{round}");
            // It knows enough not to ask.
            nodes.comes("fresh read", || (bounded(nodes.http(reader), BOUND_MS).0 == 200).then_some(()));
            nodes.signal(reader, Signal::SIGSTOP);
            nodes.succeeds(leads, "/kv/write", &set("k", &value));
            std::thread::sleep(Duration::from_millis(BOUND_MS));
            let to = nodes.http(reader);
            // It is there before the node goes on.
            let read = std::thread::spawn(move || bounded(to, BOUND_MS));
            std::thread::sleep(Duration::from_millis(20));
            nodes.signal(reader, Signal::SIGCONT);
            let (status, answer) = read.join().unwrap();
            assert_eq!((status, &answer["value"]), (200, &json!(value)), "node {reader}: {answer}");
            assert!(age(&answer) <= BOUND_MS && answer["stale"] == true, "node {reader}: {answer}");
        }
    }
}

#[test]
fn node_that_knows_enough_answers_alone_and_one_that_does_not_refuses() {
    let mut nodes = three_and_a_learner(&OWN_CLOCK);
    let leads = leader(&nodes, &[1, 2, 3, 4]);
    let (follower, other) = (leads % 3 + 1, (leads + 1) % 3 + 1);
    for reader in [follower, 4] {
        nodes.comes("read of now", || (bounded(nodes.http(reader), 0).0 == 200).then_some(()));
    }
    let asked = Instant::now();
    for gone in [leads, other] {
        nodes.end(gone, Signal::SIGKILL);
    }
    for reader in [follower, 4] {
        let http = nodes.http(reader);
        let began = Instant::now();
        let (status, answer) = bounded(http, 30_000);
        assert_eq!((status, &answer["value"]), (200, &json!("0")), "node {reader}: {answer}");
        assert!(began.elapsed() < Duration::from_secs(2), "it asks nobody, but took {:?}", began.elapsed());
        // It was older than a second by then, and nobody could tell of anything newer.
        std::thread::sleep(Duration::from_secs(1).saturating_sub(asked.elapsed()));
        let before_ms = u64::try_from(asked.elapsed().as_millis()).unwrap();
        let (status, answer) = bounded(http, 1_000);
        assert_eq!((status, &answer["error"]["code"]), (503, &json!("too_stale")), "node {reader}: {answer}");
        assert!(age(&answer["error"]) >= before_ms, "after {before_ms} ms, node {reader}: {answer}");
        let query = "/kv/key/k?consistency=stale&max_staleness_ms=";
        let (status, answer) = get(http, &format!("{query}1000")).unwrap();
        assert_eq!((status, &answer["error"]["code"]), (503, &json!("too_stale")), "node {reader}: {answer}");
        // More is allowed, and the age is told.
        let answer = raw(http, "GET", &format!("{query}60000"), &[], b"").unwrap();
        assert_eq!((answer.status, answer.header("aspen-confirmed-by")), (200, Some("quorum")), "{answer:?}");
        let told: u64 = answer.header("aspen-staleness-ms").unwrap().parse().unwrap();
        assert!(told >= before_ms, "after {before_ms} ms, node {reader}: {answer:?}");
        let page = post(http, "/kv/scan", &json!({ "prefix": "k", "max_staleness_ms": 60_000 })).unwrap();
        assert_eq!((page.0, &page.1["entries"][0]["value"]), (200, &json!("0")), "{}", page.1);
        assert!(age(&page.1) >= before_ms, "{}", page.1);
    }
    // With a quorum it is as before.
    nodes.start(other, &[1, 2, 3, 4]);
    nodes.comes("fresh read", || (bounded(nodes.http(4), 1_000).0 == 200).then_some(()));
}

/// Where no clock counts the time for which a machine is paused, what was confirmed earlier proves nothing.
#[test]
fn without_a_clock_each_read_has_the_leader_asked() {
    let mut nodes = three_and_a_learner(&["--lease-clock", "off"]);
    let leads = leader(&nodes, &[1, 2, 3, 4]);
    let follower = leads % 3 + 1;
    for reader in [leads, follower, 4] {
        let (status, answer) = bounded(nodes.http(reader), 60_000);
        assert_eq!((status, age(&answer)), (200, 0), "node {reader}: {answer}");
    }
    for gone in [leads, (leads + 1) % 3 + 1] {
        nodes.end(gone, Signal::SIGKILL);
    }
    for reader in [follower, 4] {
        let (status, answer) = bounded(nodes.http(reader), 60_000);
        assert_eq!((status, &answer["error"]["code"]), (503, &json!("too_stale")), "node {reader}: {answer}");
        assert_eq!(answer["error"]["staleness_ms"], Value::Null, "node {reader}: {answer}");
    }
}

#[test]
fn bound_that_says_nothing_is_refused() {
    let nodes = three_and_a_learner(&OWN_CLOCK);
    let check = |body: Value, code: &str, message: &str| {
        for path in ["/kv/read", "/kv/scan"] {
            let mut body = body.clone();
            if path == "/kv/read" {
                body["key"] = "k".into();
            }
            let (status, answer) = post(nodes.http(2), path, &body).unwrap();
            assert_eq!((status, &answer["error"]["code"]), (400, &json!(code)), "{path} {body}: {answer}");
            assert_eq!(answer["error"]["message"], json!(message), "{path} {body}");
        }
    };
    let both = "`max_staleness_ms` is of stale reads, and `consistency` is lease: leave one of them out";
    check(json!({ "consistency": "lease", "max_staleness_ms": 1 }), "malformed", both);
    let long = "max_staleness_ms is 86400001, 0 to 86400000 are allowed";
    check(json!({ "max_staleness_ms": 86_400_001 }), "max_staleness", long);
    let (status, answer) =
        get(nodes.http(3), "/kv/key/k?consistency=linearizable&max_staleness_ms=1").unwrap();
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("malformed")), "{answer}");
}

/// Nobody writes down where a node is: each has it in its settings, and the others ask, also for those that learn.
#[test]
fn every_member_shows_where_all_members_are() {
    let mut nodes = in_regions(["eu", "us", "us", "asia"], "");
    let leads = leader(&nodes, &[1, 2, 3]);
    nodes.succeeds(leads, "/cluster/add-learner", &json!({ "id": 4 }));
    let place = |id: u64, region: &str| (id, Some(region.to_owned()), Some(format!("{region}-{id}")));
    let want = vec![place(1, "eu"), place(2, "us"), place(3, "us"), place(4, "asia")];
    for id in 1..=4 {
        nodes.comes("every place", || (places(&nodes, id) == want).then_some(()));
    }
    // Who is gone is where it was, until it is somewhere else.
    nodes.end(4, Signal::SIGKILL);
    assert_eq!(places(&nodes, 1), want);
    start_in(&mut nodes, 4, "eu", "");
    nodes.comes("new place", || (places(&nodes, 1)[3] == place(4, "eu")).then_some(()));
    // Nobody wants the leader to be anywhere.
    assert!((1..=4).all(|id| handed_over(&nodes, id) == 0));
}

#[test]
fn leadership_goes_to_the_region_that_is_preferred_and_returns_once_it_is_back() {
    let mut nodes = in_regions(["us", "us", "eu", "eu"], "eu,asia");
    // Number 4 is in the right region, and does not vote.
    let first = leader(&nodes, &[1, 2, 3]);
    nodes.succeeds(first, "/cluster/add-learner", &json!({ "id": 4 }));
    nodes.comes_within(MOVES_MAX, "leader in the region", || (leader(&nodes, &[1, 2, 3]) == 3).then_some(()));
    let wanted = usize::from(first != 3);
    nodes.comes("word about it", || (handed_over(&nodes, first) == wanted).then_some(()));
    let before = [1, 2].map(|id| handed_over(&nodes, id));
    // The region fails: whoever is there leads.
    nodes.end(3, Signal::SIGKILL);
    let second = nodes.comes("other leader", || {
        let seen = [1, 2].map(|id| leader(&nodes, &[id]));
        (seen[0] == seen[1] && seen[0] != 3).then_some(seen[0])
    });
    let written = nodes.succeeds(second, "/kv/write", &set("k", "1"));
    assert!(written["revision"].is_u64());
    start_in(&mut nodes, 3, "eu", "eu,asia");
    let back = Instant::now();
    nodes.comes_within(MOVES_MAX, "leader that is back", || (leader(&nodes, &[1, 2, 3]) == 3).then_some(()));
    // Not at once: it has to be well for a while.
    assert!(back.elapsed() >= Duration::from_secs(5), "after {:?}", back.elapsed());
    let mut want = before;
    want[usize::try_from(second).unwrap() - 1] += 1;
    nodes.comes("word about it", || ([1, 2].map(|id| handed_over(&nodes, id)) == want).then_some(()));
    // And there it stays.
    assert_eq!(handed_over(&nodes, 3), 0);
}

/// Two nodes that each want the other to lead would hand leadership to and fro for ever.
#[test]
fn members_that_prefer_different_regions_leave_the_leader_where_it_is() {
    let mut nodes = Nodes::new(4);
    nodes.set_up(None, &OWN_CLOCK);
    for (id, preferred) in [(1, "b"), (2, "a"), (3, "a")] {
        let region = if id == 1 { "a" } else { "b" };
        start_in(&mut nodes, id, region, preferred);
    }
    for id in 1..=3 {
        nodes.answers(id);
    }
    request(nodes.http(1), "POST", "/cluster/init", r#"{"members":[1,2,3]}"#).unwrap();
    nodes.succeeds(1, "/kv/write", &set("k", "0"));
    let first = leader(&nodes, &[1, 2, 3]);
    let said = "a member has other preferred_regions than this one";
    nodes.comes("word about it", || nodes.last_words(first).contains(said).then_some(()));
    // Nothing happens, for longer than a leader has to lead, and a voter to be well.
    std::thread::sleep(Duration::from_secs(13));
    assert_eq!(leader(&nodes, &[1, 2, 3]), first);
    assert!((1..=3).all(|id| handed_over(&nodes, id) == 0));
}
