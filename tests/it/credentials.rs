//! What nodes and clients show each other on HTTP: tokens and certificates.
#![allow(clippy::disallowed_methods, reason = "a test starts what it tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aspen_node::client::ticket::TicketWay;
use aspen_node::client::{Credentials, HttpConnection, Way};
use aspen_node::cluster::ticket::AspenClusterTicket;
use aspen_node::limits::{CLIENT_CONNECTIONS_MAX, CLIENT_STRANGERS_MAX};
use aspen_node::network::secret::new_secret;
use aspen_node::private::BearerToken;
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::http_client::get;
use crate::nodes::Nodes;
use crate::programs::client;

/// Files that nobody else may read.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn put(&self, name: &str, text: &str) -> String {
        // At once: a node may be reading it.
        let (path, new) = (self.0.path().join(name), self.0.path().join("new"));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, &path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

/// One who signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Puts its own certificate into a file.
    pub(crate) fn put(&self, files: &Files, name: &str) -> String {
        files.put(name, &self.0.pem())
    }

    /// Signs a certificate for a name or an address, and puts it and its key into files.
    pub(crate) fn sign(&self, files: &Files, file: &str, name: &str) -> [String; 2] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let file_of = |ending| format!("{file}.{ending}");
        [files.put(&file_of("pem"), &certificate.pem()), files.put(&file_of("key"), &key.serialize_pem())]
    }
}

/// Types a command of the client; its exit code and what it says.
pub(crate) fn typed(node: &str, words: &[&str]) -> (i32, String) {
    let output = Command::new(client()).args(["--node", node]).args(words).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[track_caller]
fn check(node: &str, words: &[&str], want: (i32, &str)) {
    let (code, text) = typed(node, words);
    assert!(code == want.0 && text.contains(want.1), "{words:?}: {code}, {text}");
}

#[test]
fn node_with_tokens_answers_only_who_shows_one() {
    let files = Files::new();
    let (full, read) = (files.put("full", &"f".repeat(40)), files.put("read", &"r".repeat(40)));
    let mut nodes = Nodes::new(1);
    nodes.start_alone(1, &["--bootstrap", "--http-token-file", &full, "--http-read-token-file", &read]);
    // Whether it is alive everybody may know.
    nodes.comes("leader", || get(nodes.http(1), "/health").ok().filter(|(status, _)| *status == 200));
    let (status, answer) = get(nodes.http(1), "/cluster/status").unwrap();
    assert_eq!((status, &answer["error"]["code"]), (401, &"unauthorized".into()), "{answer}");

    let node = nodes.http(1).to_string();
    check(&node, &["--token-file", &full, "kv", "put", "k", "v"], (0, ""));
    check(&node, &["--token-file", &read, "kv", "get", "k"], (0, "v"));
    check(&node, &["--token-file", &read, "kv", "put", "k", "w"], (3, "for reading only"));
    check(&node, &["kv", "get", "k"], (3, "a token is needed"));
    check(&node, &["--token-file", &full, "cluster", "status"], (0, "leader"));
    let other = files.put("other", &"o".repeat(40));
    check(&node, &["--token-file", &other, "kv", "get", "k"], (3, "the token that was shown is none"));
    fs::set_permissions(&other, Permissions::from_mode(0o644)).unwrap();
    check(&node, &["--token-file", &other, "kv", "get", "k"], (3, "run `chmod 600"));

    let (secure, trusted) = (format!("https://{node}"), Authority::new().put(&files, "trusted"));
    check(&secure, &["--ca", &trusted, "kv", "get", "k"], (3, "it seems to speak plain HTTP"));

    // A token is replaced while the node runs, unless it is none.
    let old = files.put("old", &"f".repeat(40));
    files.put("full", "short");
    nodes.comes("word of it", || nodes.last_words(1).contains("does not hold a token").then_some(()));
    check(&node, &["--token-file", &old, "kv", "get", "k"], (0, "v"));
    files.put("full", &"g".repeat(40));
    nodes.comes("new token", || {
        (typed(&node, &["--token-file", &full, "kv", "get", "k"]) == (0, "v".to_owned())).then_some(())
    });
    check(&node, &["--token-file", &old, "kv", "get", "k"], (3, "the token that was shown is none"));
}

#[test]
fn nodes_with_certificates_speak_https_and_nothing_else() {
    let files = Files::new();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (trusted, strange) = (authority.put(&files, "trusted"), stranger.put(&files, "strange"));
    let [certificate, key] = authority.sign(&files, "node", "127.0.0.1");
    let [named, named_key] = authority.sign(&files, "named", "node.example");
    let mut nodes = Nodes::new(3);
    for id in [1, 2, 3] {
        let shown = if id == 3 { [&named, &named_key] } else { [&certificate, &key] };
        let variables = ["ASPEN_HTTP_TLS_CERT_FILE", "ASPEN_HTTP_TLS_KEY_FILE"];
        nodes.start_with(
            id,
            &[1, 2, 3],
            &[(variables[0], shown[0].clone()), (variables[1], shown[1].clone())],
        );
    }
    let [one, two, three] = [1, 2, 3].map(|id| format!("https://{}", nodes.http(id)));
    nodes.comes("answer", || (typed(&one, &["--ca", &trusted, "cluster", "init"]).0 == 0).then_some(()));

    // A follower hands it on; the status asks every member.
    nodes.comes("three members", || {
        let (_, status) = typed(&two, &["--ca", &trusted, "cluster", "status"]);
        status.contains("3 members, 3 of them vote").then_some(())
    });
    check(&two, &["--ca", &trusted, "kv", "put", "k", "v"], (0, "revision"));
    check(&two, &["--ca", &trusted, "kv", "watch", "--from", "1", "--no-follow"], (0, "k"));
    let backup = files.path("backup");
    check(&one, &["--ca", &trusted, "backup", "save", &backup], (0, ""));
    check(&three, &["--ca", &trusted, "--tls-name", "node.example", "kv", "get", "k"], (0, "v"));

    check(&three, &["--ca", &trusted, "kv", "get", "k"], (3, "not valid for name"));
    check(&one, &["--ca", &strange, "kv", "get", "k"], (3, "invalid peer certificate"));
    let plain = nodes.http(1).to_string();
    check(&plain, &["kv", "get", "k"], (3, "this node speaks HTTPS"));
    check(
        &format!("https://{plain}"),
        &["--ca", &certificate, "--client-cert", &named, "kv", "get", "k"],
        (64, "--client-key"),
    );
    assert_eq!(get(nodes.http(1), "/health").unwrap().0, 400);

    // A certificate is renewed while the nodes run, here by another authority.
    stranger.sign(&files, "node", "127.0.0.1");
    nodes.comes("new certificate", || {
        (typed(&one, &["--ca", &strange, "kv", "get", "k"]) == (0, "v".to_owned())).then_some(())
    });
    check(&one, &["--ca", &trusted, "kv", "get", "k"], (3, "invalid peer certificate"));
}

#[test]
fn node_that_wants_certificates_answers_only_who_shows_one() {
    let files = Files::new();
    let (authority, clients) = (Authority::new(), Authority::new());
    let (trusted, of_clients) = (authority.put(&files, "trusted"), clients.put(&files, "clients"));
    let [certificate, key] = authority.sign(&files, "node", "127.0.0.1");
    let [right, right_key] = clients.sign(&files, "right", "client");
    let [wrong, wrong_key] = authority.sign(&files, "wrong", "client");
    let mut nodes = Nodes::new(1);
    let shown = ["--http-tls-cert-file", &certificate, "--http-tls-key-file", &key];
    nodes.start_alone(1, &[&["--bootstrap", "--http-tls-client-ca-file", &of_clients], &shown[..]].concat());
    let node = format!("https://{}", nodes.http(1));
    let put = ["kv", "put", "k", "v"];
    let with = |cert, key| {
        [&["--ca", trusted.as_str(), "--client-cert", cert, "--client-key", key], &put[..]].concat()
    };
    nodes.comes("leader", || (typed(&node, &with(&right, &right_key)).0 == 0).then_some(()));
    // With TLS 1.3 a client learns it only when it has sent its request already.
    for words in [with(&wrong, &wrong_key), [&["--ca", trusted.as_str()], &put[..]].concat()] {
        let (code, text) = typed(&node, &words);
        assert!(code != 0 && text.contains("no answer"), "{code}, {text}");
    }
}

/// There are so many places, and each is free again when its client goes. Strangers take none, and are told to go.
async fn check_places(nodes: &Nodes, ticket: &AspenClusterTicket, token: &str) {
    let ask = async |connection: &mut HttpConnection, path: &str| connection.request("GET", path, "").await;
    let client = |token: Option<BearerToken>| {
        let way = Way::Ticket(Arc::new(TicketWay::new(ticket.clone())));
        HttpConnection::new(nodes.member(1).raft).with_credentials(Credentials {
            way,
            token,
            ..Credentials::default()
        })
    };
    let shown = || client(Some(BearerToken::read(Path::new(token)).unwrap()));
    let mut strangers = Vec::new();
    for _ in 0..=CLIENT_STRANGERS_MAX {
        let mut stranger = client(None);
        assert_eq!(ask(&mut stranger, "/health").await.unwrap().status, 200);
        assert_eq!(ask(&mut stranger, "/cluster/status").await.unwrap().status, 401);
        strangers.push(stranger);
    }
    // The first had to go for the last; the others have a few seconds to show something, and asking on does not help them.
    let until = Instant::now() + Duration::from_secs(20);
    let counts = |metrics: &str, why: &str| {
        let name = format!("aspen_refusals_total{{why=\"{why}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u32>().ok()).unwrap()
    };
    let token = BearerToken::read(Path::new(token)).unwrap();
    let mut over_tcp = HttpConnection::new(nodes.http(1))
        .with_credentials(Credentials { token: Some(token), ..Credentials::default() });
    loop {
        let metrics = ask(&mut over_tcp, "/metrics").await.unwrap().body;
        let metrics = String::from_utf8_lossy(&metrics);
        let (busy, no_token) = (counts(&metrics, "busy"), counts(&metrics, "no_token"));
        if busy + no_token > CLIENT_STRANGERS_MAX {
            assert!(busy > 0 && no_token > 0, "{metrics}");
            break;
        }
        assert!(Instant::now() < until, "they stay: {metrics}");
        let _ = ask(&mut strangers[1], "/health").await;
    }
    let mut clients = Vec::new();
    for _ in 0..CLIENT_CONNECTIONS_MAX {
        let mut client = shown();
        assert_eq!(ask(&mut client, "/cluster/status").await.unwrap().status, 200);
        clients.push(client);
    }
    let mut next = shown();
    let refused = ask(&mut next, "/cluster/status").await.unwrap_err().to_string();
    assert!(refused.contains("as many clients over QUIC as it takes"), "{refused}");
    clients.pop();
    let until = Instant::now() + Duration::from_secs(10);
    while ask(&mut next, "/cluster/status").await.is_err() {
        assert!(Instant::now() < until, "no place was free");
    }
}

/// Over QUIC a client reaches the nodes of a ticket by their keys, and shows what it would show over TCP.
#[test]
fn nodes_of_a_ticket_answer_over_quic_who_shows_a_token() {
    let files = Files::new();
    let (token, secret) = (files.put("token", &"t".repeat(40)), files.put("secret", &new_secret()));
    let mut nodes = Nodes::new(3);
    let shared = ["--http-token-file", &token, "--secret-file", &secret];
    nodes.start_alone(1, &[&["--bootstrap", "--target-voters", "1"], &shared[..]].concat());
    let node = nodes.http(1).to_string();
    let ticket = nodes.comes("ticket", || {
        let (code, text) = typed(&node, &["--token-file", &token, "cluster", "ticket"]);
        (code == 0).then(|| text.trim().to_owned())
    });
    nodes.start_alone(2, &[&["--ticket", &ticket], &shared[..]].concat());
    let nobody = "127.0.0.1:1";
    let by = |ticket: &str, words: &[&str]| typed(nobody, &[&["--ticket", ticket], words].concat());
    let shown = |words: &[&str]| by(&ticket, &[&["--token-file", &token], words].concat());
    let (code, text) = shown(&["kv", "put", "k", "v"]);
    assert!(code == 0 && text.starts_with("revision"), "{text}");
    assert_eq!(shown(&["kv", "get", "k"]), (0, "v".to_owned()));
    assert!(shown(&["kv", "watch", "--from", "1", "--no-follow"]).1.contains("put\tk\tv"));
    assert_eq!(shown(&["backup", "save", &files.path("backup")]).0, 0);
    let (code, text) = by(&ticket, &["kv", "get", "k"]);
    assert!(code == 3 && text.contains("a token is needed"), "{code}, {text}");

    // A follower names the leader, which the ticket of both has, too.
    nodes.comes("second member", || shown(&["cluster", "status"]).1.contains("2 members").then_some(()));
    let (_, both) = shown(&["cluster", "ticket"]);
    let (code, text) = by(both.trim(), &["--token-file", &token, "cluster", "promote", "2"]);
    assert!(code == 0, "{code}, {text}");

    let ticket: AspenClusterTicket = ticket.parse().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(check_places(&nodes, &ticket, &token));

    // Without a token a node off this host would answer everybody.
    let [certificate, key] = Authority::new().sign(&files, "node", "127.0.0.1");
    let wants =
        ["--http-tls-cert-file", &certificate, "--http-tls-key-file", &key, "--http-tls-client-ca-file"];
    nodes.end(2, Signal::SIGKILL);
    nodes.start_alone(2, &[&["--secret-file", &secret], &wants[..], &[&certificate]].concat());
    nodes.comes("refusal", || {
        let at_two = AspenClusterTicket {
            peers: both.trim().parse::<AspenClusterTicket>().unwrap().peers.split_off(1),
            ..ticket.clone()
        };
        by(&at_two.to_string(), &["kv", "get", "k"])
            .1
            .contains("this node answers nobody over QUIC")
            .then_some(())
    });
}
