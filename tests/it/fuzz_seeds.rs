//! The fuzz targets on their seeds: what tests/fuzz runs for hours is built and tried here for a moment.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aspen_node::api::{ApiError, LeaderHint, WriteResult};
use aspen_node::cluster::ticket::AspenClusterTicket;
use aspen_node::network::Peer;
use aspen_node::network::about::About;
use aspen_node::network::incarnation::{Incarnation, Start};
use aspen_node::network::join::{JoinAnswer, JoinRequest, Welcome, Wish};
use aspen_node::network::rpc::{Forward, RaftProtocol, RequestVote};
use aspen_node::network::secret::ClusterId;
use aspen_node::network::snapshot::{InstallSnapshot, SnapshotPart};
use aspen_node::storage::snapshot::Seal;
use aspen_node::types::raft_types::{
    AppendEntriesRequest, Entry, LogId, Membership, SnapshotMeta, StoredMembership, Vote, VoteRequest,
};
use aspen_node::types::{
    ChunkBytes, Command, Compare, EncodedCommand, KeyRange, LeaseId, NodeId, Operand, Operation,
    OperationResult, Outcome, Relation, Revision, Transaction, VaultName,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::fuzz::http::info;

#[allow(unreachable_pub, reason = "the fuzz targets, whose library it is, call it from outside")]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

/// What a target does with an input.
type Run = fn(&[u8]) -> bool;

const TARGETS: [(&str, Run); 6] = [
    ("command", fuzz::command::run),
    ("config", fuzz::config::run),
    ("http", fuzz::http::run),
    ("rpc", fuzz::rpc::run),
    ("scenario", fuzz::scenario::run),
    ("ticket", fuzz::ticket::run),
];

/// A seed is short: the fuzzer makes it longer by itself.
const SEED_BYTES_MAX: usize = 2 * 1024;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus")
}

/// The seeds of a target. What the fuzzer has found has no extension.
fn seeds(target: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(corpus().join(target)).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some()).collect()
}

#[test]
fn every_seed_is_understood_unless_it_is_called_bad() {
    for (target, run) in TARGETS {
        let seeds = seeds(target);
        assert!(seeds.len() >= 3, "{target} has {} seeds", seeds.len());
        for path in seeds {
            let (bytes, name) = (fs::read(&path).unwrap(), path.file_name().unwrap().to_string_lossy());
            assert!(bytes.len() <= SEED_BYTES_MAX, "{target}/{name} has {} bytes", bytes.len());
            assert_eq!(run(&bytes), !name.starts_with("bad-"), "{target}/{name}");
        }
    }
}

/// With `ASPEN_SEEDS=write` they are written first, since something that travels reads otherwise.
#[test]
fn seeds_in_bytes_are_what_nodes_write() {
    let is_written = std::env::var("ASPEN_SEEDS").is_ok_and(|text| text == "write");
    for (name, want) in [messages(), commands(), tickets()].concat() {
        let path = corpus().join(name);
        if is_written {
            fs::write(&path, &want).unwrap();
        }
        assert!(
            fs::read(&path).is_ok_and(|found| found == want),
            "{name} is of another version: ASPEN_SEEDS=write"
        );
    }
}

/// A file of the corpus, and what has to stand in it.
type Seed = (&'static str, Vec<u8>);

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap()
}

/// What only openraft makes otherwise.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).unwrap()
}

/// A message behind the byte that names its kind.
fn message(name: &'static str, kind: u8, message: &impl Serialize) -> Seed {
    (name, [vec![kind], encode(message)].concat())
}

fn log_id(term: u8, index: u8) -> LogId {
    decode(&[term, index])
}

fn messages() -> Vec<Seed> {
    let vote = Vote::new_committed(3, NodeId(1));
    let command = EncodedCommand::from(&set("k"));
    let membership =
        Membership::new(vec![[NodeId(1)].into()], BTreeMap::from([(NodeId(1), info(1))])).unwrap();
    let append = AppendEntriesRequest {
        vote,
        prev_log_id: Some(log_id(2, 4)),
        entries: vec![
            Entry { log_id: log_id(3, 5), payload: decode(&[0]) },
            Entry { log_id: log_id(3, 6), payload: decode(&[vec![1], encode(&command)].concat()) },
            Entry { log_id: log_id(3, 7), payload: decode(&[vec![2], encode(&membership)].concat()) },
        ],
        leader_commit: Some(log_id(3, 5)),
    };
    let last_membership = StoredMembership::new(Some(log_id(3, 7)), membership);
    let snapshot = InstallSnapshot {
        vote,
        meta: SnapshotMeta { last_log_id: Some(log_id(3, 8)), last_membership },
        seal: Seal { bytes: 100, digest: [5; 32] },
    };
    let wants_vote = RequestVote(VoteRequest::new(vote, Some(log_id(2, 4))));
    let vaults = Forward(EncodedCommand::from_bytes(&[6, 0].repeat(900)));
    let (revision, results) =
        (Revision(9), vec![OperationResult::Found { entries: Vec::new(), is_truncated: true }]);
    let written = WriteResult { revision, outcome: Outcome::Transaction { succeeded: true, results } };
    let leader = Some(LeaderHint { id: NodeId(2), http: Some("10.0.0.2:8001".to_owned()) });
    let request = JoinRequest { proof: decode(&[7; 32]), info: info(4), wish: Wish::Join(None) };
    let members = vec![Peer { id: NodeId(1), info: info(1) }, Peer { id: NodeId(4), info: info(4) }];
    let welcome = Welcome { as_of: 9, id: Some(NodeId(4)), members, target_voters: Some(5) };
    let label = || "eu".parse().unwrap();
    let about = About { region: Some(label()), zone: None, preferred_regions: vec![label()] };
    let start = |number| Start { number, mark: 1 << number, beat: 300 };
    vec![
        message("rpc/forward.bin", 0, &RaftProtocol::Forward(Forward(command))),
        message("rpc/vaults-in-vaults.bin", 0, &RaftProtocol::Forward(vaults)),
        message("rpc/vote.bin", 0, &RaftProtocol::RequestVote(wants_vote)),
        message("rpc/snapshot.bin", 0, &RaftProtocol::InstallSnapshot(snapshot)),
        message("rpc/append.bin", 1, &append),
        message("rpc/region.bin", 2, &SnapshotPart::Region(vec![[1; 32], [2; 32]])),
        message("rpc/chunk.bin", 2, &SnapshotPart::Chunk(ChunkBytes(b"bytes".to_vec()))),
        message("rpc/written.bin", 8, &Ok::<_, ApiError>(written)),
        message("rpc/refused.bin", 8, &Err::<WriteResult, _>(ApiError::NotLeader { leader })),
        message("rpc/join.bin", 10, &request),
        message("rpc/about.bin", 13, &about),
        message(
            "rpc/greeting.bin",
            14,
            &Incarnation { present: start(8), earlier: [start(7), start(5)].into() },
        ),
        message("rpc/welcome.bin", 11, &JoinAnswer::Proven { proof: decode(&[8; 32]), verdict: Ok(welcome) }),
    ]
}

fn set(key: &str) -> Command {
    Command::Set { key: key.into(), value: "v".into() }
}

/// Every command, the ones in vaults apart.
fn commands() -> Vec<Seed> {
    let vault = VaultName("v".to_owned());
    let compare = |operand| Compare { key: "k".into(), relation: Relation::NotEqual, operand };
    let transaction = Transaction {
        compare: vec![compare(Operand::Value("w".into())), compare(Operand::Version(7))],
        success: vec![
            Operation::Put { key: "l".into(), value: "v".into() },
            Operation::Range { range: KeyRange::default(), limit: 10 },
        ],
        failure: vec![Operation::Get { key: "k".into() }, Operation::Delete { key: "k".into() }],
    };
    let plain = [
        set("k"),
        Command::CompareAndSwap { key: "k".into(), expected: Some("v".into()), value: "w".into() },
        Command::SetMulti { pairs: vec![("a".into(), "1".into()), ("b".into(), "2".into())] },
        Command::Transaction(transaction),
        Command::DeleteMulti { keys: vec!["a".into(), "c".into()] },
        Command::Delete { key: "k".into() },
    ];
    let within = |command| Command::InVault { vault: vault.clone(), command: Box::new(command) };
    let in_vaults = [
        Command::CreateVault { vault: vault.clone() },
        within(set("k")),
        within(within(set("k"))),
        Command::DeleteVault { vault: vault.clone() },
        within(Command::Delete { key: "k".into() }),
    ];
    let with_lease = |command| Command::WithLease { lease: LeaseId(1), command: Box::new(command) };
    let leases = [
        Command::GrantLease { ttl_ms: 1_000 },
        with_lease(set("k")),
        with_lease(within(set("k"))),
        with_lease(with_lease(set("k"))),
        Command::RevokeLease { lease: LeaseId(1) },
        with_lease(set("late")),
    ];
    let log = |commands: &[Command]| {
        commands.iter().flat_map(|command| encode(&EncodedCommand::from(command))).collect()
    };
    vec![
        ("command/plain.bin", log(&plain)),
        ("command/vaults.bin", log(&in_vaults)),
        ("command/leases.bin", log(&leases)),
        ("command/refused.bin", log(&[set(""), set("k")])),
    ]
}

/// A ticket, and what stands in one.
fn tickets() -> Vec<Seed> {
    let text = AspenClusterTicket::new(ClusterId([9; 16]), [info(1), info(2)]).to_string();
    let sealed = data_encoding::BASE32_NOPAD_NOCASE.decode(&text.as_bytes()["aspen1".len()..]).unwrap();
    let content = sealed[..sealed.len() - 4].to_vec();
    vec![("ticket/two-members.txt", text.into_bytes()), ("ticket/content.bin", content)]
}
