//! Real nodes on loopback, for the tests that need no lab: their folders, their processes, and what they are asked.
#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aspen_lab::cli::NODE_PART;
use aspen_lab::program::ProcessStat;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http_client::{get, post, request};
use crate::lab;

/// Longer than an election, a dial and a write together.
const COMES_MAX: Duration = Duration::from_secs(30);
/// Says that something is over when it is dropped, whatever ends the test.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A node's own bound, and a second for the process to end.
const STOP_MAX: Duration = Duration::from_secs(11);

/// The node, which `lab` can be: it is built with this test, and is the same code.
pub(crate) fn node_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.arg(NODE_PART);
    command
}

/// A member: its addresses, and its process while it runs.
pub(crate) struct Member {
    id: u64,
    pub(crate) raft: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) endpoint_id: String,
    process: Option<Child>,
}

/// Nodes in one folder. Dropped, it kills what still runs.
pub(crate) struct Nodes {
    program: Option<PathBuf>,
    directory: TempDir,
    members: Vec<Member>,
    /// What every node is started with besides.
    pub(crate) flags: Vec<&'static str>,
    /// Variables that every node has in its environment.
    pub(crate) environment: Vec<(&'static str, String)>,
    turn: lab::Turn,
}

/// So many addresses where nobody listens, by UDP and TCP.
fn free_addresses(turn: &lab::Turn, count: u64, others: &[Member]) -> Vec<SocketAddr> {
    let at = turn.ports().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    // Somebody whose address it is may not run at present.
    let is_known = |at: &SocketAddr| others.iter().any(|other| other.raft == *at || other.http == *at);
    let is_free =
        |at: &SocketAddr| !is_known(at) && UdpSocket::bind(at).is_ok() && TcpListener::bind(at).is_ok();
    let free: Vec<_> = at.filter(is_free).take(count.try_into().unwrap()).collect();
    assert_eq!(free.len() as u64, count, "there are not enough free ports");
    free
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.kill_all();
    }
}

impl Nodes {
    /// Makes `count` identities, numbered from 1, on free ports. Nothing runs yet.
    pub(crate) fn new(count: u64) -> Self {
        let turn = lab::turn();
        let directory = tempfile::tempdir().unwrap();
        let members = free_addresses(&turn, count, &[]).into_iter().zip(1..).map(|(address, id)| Member {
            id,
            raft: address,
            http: address,
            endpoint_id: endpoint_id(&directory.path().join(id.to_string())),
            process: None,
        });
        Self {
            program: None,
            members: members.collect(),
            directory,
            flags: Vec::new(),
            environment: Vec::new(),
            turn,
        }
    }

    /// Gives a node that never ran another data directory.
    pub(crate) fn give_data(&mut self, id: u64, write: impl FnOnce(&Path)) {
        let data = self.directory.path().join(id.to_string());
        fs::remove_dir_all(&data).unwrap();
        fs::create_dir(&data).unwrap();
        write(&data);
        let member = self.members.iter_mut().find(|member| member.id == id).unwrap();
        member.endpoint_id = endpoint_id(&data);
    }

    /// Says which program the nodes are, unless they are the lab's, and with which flags.
    pub(crate) fn set_up(&mut self, program: Option<PathBuf>, flags: &[&'static str]) {
        self.program = program;
        self.flags = flags.to_vec();
    }

    /// Gives a node that does not run another address for the other members.
    pub(crate) fn give_raft(&mut self, id: u64, address: SocketAddr) {
        self.members.iter_mut().find(|member| member.id == id).unwrap().raft = address;
    }

    /// Where a node keeps its files.
    pub(crate) fn data(&self, id: u64) -> PathBuf {
        self.directory.path().join(id.to_string())
    }

    /// Writes a node's key into its folder, durably.
    pub(crate) fn give_identity(&self, id: u64, key: &[u8]) {
        let folder = self.data(id);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.join("identity.key"))
            .unwrap();
        file.write_all(key).unwrap();
        file.sync_all().unwrap();
        File::open(folder).unwrap().sync_all().unwrap();
    }

    /// Whether a node that was started has ended by itself.
    pub(crate) fn has_ended(&self, id: u64) -> bool {
        let process = self.member(id).process.as_ref().unwrap();
        ProcessStat::read(process.id()).is_none_or(|stat| stat.has_ended())
    }

    /// Kills every node that runs.
    pub(crate) fn kill_all(&mut self) {
        for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn member(&self, id: u64) -> &Member {
        self.members.iter().find(|member| member.id == id).unwrap()
    }

    pub(crate) fn http(&self, id: u64) -> SocketAddr {
        self.member(id).http
    }

    /// Starts a node that knows these peers, with the flags that all nodes get.
    pub(crate) fn start(&mut self, id: u64, peers: &[u64]) {
        self.start_with(id, peers, &[]);
    }

    /// Starts a node that finds its cluster by itself, with what its command line has besides its directory and addresses.
    pub(crate) fn start_alone(&mut self, id: u64, words: &[&str]) {
        let mut command = self.command(id);
        command.args(words);
        self.spawn(id, command);
    }

    /// Gives a node that does not run other addresses.
    pub(crate) fn give_addresses(&mut self, ids: &[u64]) {
        for (id, address) in ids.iter().zip(free_addresses(&self.turn, ids.len() as u64, &self.members)) {
            let member = self.members.iter_mut().find(|member| member.id == *id).unwrap();
            (member.raft, member.http) = (address, address);
        }
    }

    /// The same, with variables in its environment.
    pub(crate) fn start_with(&mut self, id: u64, peers: &[u64], environment: &[(&str, String)]) {
        let mut toml = String::new();
        for peer in peers.iter().map(|peer| self.member(*peer)) {
            let Member { id, raft, http, endpoint_id, .. } = peer;
            write!(toml, "[[peers]]\nid = {id}\nendpoint_id = '{endpoint_id}'\n").unwrap();
            write!(toml, "raft = '{raft}'\nhttp = '{http}'\n").unwrap();
        }
        let file = self.directory.path().join(format!("{id}.toml"));
        fs::write(&file, toml).unwrap();
        let mut command = self.command(id);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.arg("--config").arg(file).args(["--id", &id.to_string()]);
        self.spawn(id, command);
    }

    /// A node with its directory and addresses, and what all nodes get.
    fn command(&self, id: u64) -> Command {
        let member = self.member(id);
        let mut command = self.program.as_ref().map_or_else(node_command, Command::new);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg("--data-dir").arg(self.data(id)).args(&self.flags);
        command.args(["--raft-listen", &member.raft.to_string()]);
        command.args(["--http-listen", &member.http.to_string()]);
        command
    }

    fn spawn(&mut self, id: u64, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.log(id)).unwrap();
        let member = self.members.iter_mut().find(|member| member.id == id).unwrap();
        member.process = Some(command.stdin(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// The process of a node that was started.
    pub(crate) fn process(&self, id: u64) -> u32 {
        self.member(id).process.as_ref().unwrap().id()
    }

    fn log(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("{id}.log"))
    }

    /// Sends a signal to a node that runs.
    pub(crate) fn signal(&self, id: u64, signal: Signal) {
        let process = self.member(id).process.as_ref().unwrap();
        kill(Pid::from_raw(process.id().cast_signed()), signal).unwrap();
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(&mut self, id: u64, signal: Signal) -> ExitStatus {
        self.signal(id, signal);
        self.ends_within(id, STOP_MAX)
    }

    /// Waits until a node ends by itself.
    pub(crate) fn ended(&mut self, id: u64) -> ExitStatus {
        self.ends_within(id, COMES_MAX)
    }

    fn ends_within(&mut self, id: u64, limit: Duration) -> ExitStatus {
        let member = self.members.iter_mut().find(|member| member.id == id).unwrap();
        let mut process = member.process.take().unwrap();
        let asked = Instant::now();
        loop {
            match process.try_wait().unwrap() {
                Some(status) => return status,
                None if asked.elapsed() > limit => {
                    process.kill().unwrap();
                    process.wait().unwrap();
                    panic!("node {id} still ran after {limit:?}:\n{}", self.last_words(id));
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub(crate) fn last_words(&self, id: u64) -> String {
        fs::read_to_string(self.log(id)).unwrap_or_default()
    }

    /// Asks again and again until `what` is there.
    #[track_caller]
    pub(crate) fn comes<T>(&self, what: &str, ask: impl FnMut() -> Option<T>) -> T {
        self.comes_within(COMES_MAX, what, ask)
    }

    /// The same, for so long.
    #[track_caller]
    pub(crate) fn comes_within<T>(
        &self,
        limit: Duration,
        what: &str,
        mut ask: impl FnMut() -> Option<T>,
    ) -> T {
        let began = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            if began.elapsed() > limit {
                let logs = self.members.iter().map(|member| self.last_words(member.id)).collect::<String>();
                panic!("no {what} within {limit:?}:\n{logs}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a node answers at all.
    pub(crate) fn answers(&self, id: u64) {
        self.comes("answer", || get(self.http(id), "/raft/state").ok().filter(|(status, _)| *status == 200));
    }

    /// Waits until a node answers 200.
    #[track_caller]
    pub(crate) fn succeeds(&self, id: u64, path: &str, body: &Value) -> Value {
        self.comes(&format!("200 from {path} of node {id}"), || match post(self.http(id), path, body) {
            Ok((200, answer)) => Some(answer),
            Ok(_) | Err(_) => None,
        })
    }
}

/// What `validate` says of a stopped node's data directory: whether it is sound, and its text.
pub(crate) fn validate(nodes: &Nodes, id: u64) -> (bool, String) {
    let data = nodes.directory.path().join(id.to_string());
    let output = node_command().arg("validate").arg("--data-dir").arg(data).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

fn endpoint_id(data: &Path) -> String {
    let output = node_command().arg("identity").arg("--data-dir").arg(data).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

pub(crate) fn set(key: &str, value: &str) -> Value {
    json!({ "command": { "Set": { "key": key, "value": value } } })
}

/// Positions of `/raft/state`, by name.
pub(crate) fn position(nodes: &Nodes, id: u64, name: &str) -> Option<u64> {
    get(nodes.http(id), "/raft/state").ok()?.1[name]["index"].as_u64()
}

/// Every key with a prefix that a node holds, page by page: its value, and the entry that wrote it.
pub(crate) fn contents(nodes: &Nodes, id: u64, prefix: &str) -> BTreeMap<String, (String, u64)> {
    let (mut found, mut token) = (BTreeMap::new(), Value::Null);
    loop {
        let page = nodes.succeeds(
            id,
            "/kv/scan",
            &json!({ "prefix": prefix, "continuation_token": token, "consistency": "stale" }),
        );
        for entry in page["entries"].as_array().unwrap() {
            let text = |name: &str| entry[name].as_str().unwrap().to_owned();
            found.insert(text("key"), (text("value"), entry["mod_revision"].as_u64().unwrap()));
        }
        if page["is_truncated"] == json!(false) {
            return found;
        }
        token = page["continuation_token"].clone();
    }
}

/// Three nodes that answer, and are no cluster yet.
pub(crate) fn three_nodes(flags: &[&'static str]) -> ([u64; 3], Nodes) {
    three_nodes_of(None, flags)
}

/// Three that have founded a cluster, and soon miss a leader that is gone; it leads for long enough to be found.
pub(crate) fn three_quick_nodes() -> ([u64; 3], Nodes) {
    let (ids, nodes) =
        three_nodes(&["--heartbeat-ms", "50", "--election-ms-min", "250", "--election-ms-max", "500"]);
    request(nodes.http(1), "POST", "/cluster/init", "").unwrap();
    nodes.succeeds(1, "/kv/write", &set("first", "of all"));
    (ids, nodes)
}

/// The same of another program.
pub(crate) fn three_nodes_of(program: Option<PathBuf>, flags: &[&'static str]) -> ([u64; 3], Nodes) {
    let ids = [1, 2, 3];
    let mut nodes = Nodes::new(3);
    nodes.set_up(program, flags);
    for id in ids {
        nodes.start(id, &ids);
    }
    for id in ids {
        nodes.answers(id);
    }
    (ids, nodes)
}
