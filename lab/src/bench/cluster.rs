//! A cluster on loopback, of Aspen or of etcd, from its first start to its end.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aspen_node::client::HttpConnection;
use aspen_node::cluster::identity::Identity;
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};

use super::{BenchError, Interface, etcd, syncs};
use crate::limits::bench::{LOOK_INTERVAL, READY_MAX, STOP_MAX};
use crate::machine::driver::NodeProgram;
use crate::program::leash::{self, leashed};
use crate::program::{ProcessStat, Program, ProgramLog, Running};
use crate::target;
use crate::target::etcd::Member;

/// Where a member listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    /// For its peers.
    pub(super) peer: SocketAddr,
    /// For clients.
    pub(super) client: SocketAddr,
}

/// What clusters are started with.
#[derive(Debug, Clone)]
pub(super) struct Setting<'a> {
    pub(super) node: NodeProgram,
    pub(super) etcd: Option<PathBuf>,
    /// What stands between every process and its disk.
    pub(super) strace: Option<Strace>,
    pub(super) count: u32,
    pub(super) folder: &'a Path,
    pub(super) log: &'a ProgramLog,
}

/// What is done where a process has its disk keep what it has.
#[derive(Debug, Clone)]
pub(super) struct Strace {
    pub(super) program: PathBuf,
    /// By how much longer fsync(2) and fdatasync(2) take.
    pub(super) delay: Duration,
    /// Whether the calls are counted.
    pub(super) counts: bool,
}

/// A cluster that runs. Dropped, it is killed, and what it has stored is gone.
#[derive(Debug)]
pub(super) struct Cluster {
    interface: Interface,
    folder: PathBuf,
    commands: Vec<Program>,
    members: Vec<Running>,
    addresses: Vec<Addresses>,
    leader: SocketAddr,
}

impl Cluster {
    /// Starts a new cluster, and waits until somebody leads. The calling thread has to outlive it.
    pub(super) async fn start(interface: Interface, setting: &Setting<'_>) -> Result<Self, BenchError> {
        let folder = setting.folder.join(interface.system());
        let io = |source| BenchError::Io { path: folder.clone(), source };
        fs::create_dir(&folder).map_err(io)?;
        let addresses = free_addresses(setting.count).map_err(BenchError::Ports)?;
        let member = |(place, address): (u32, &Addresses)| Member {
            name: format!("n{place}"),
            peer: address.peer,
            client: address.client,
        };
        let members: Vec<Member> = (1..).zip(&addresses).map(member).collect();
        let commands = match interface {
            Interface::AspenHttp => aspen(setting, &addresses, &folder)?,
            Interface::EtcdGateway | Interface::EtcdGrpc => (0..addresses.len())
                .map(|place| {
                    let program = setting.etcd.as_deref().unwrap_or(Path::new(target::etcd::ETCD));
                    let data = folder.join(&members[place].name);
                    target::etcd::command(started(setting, program, &data), &members, place, &data)
                })
                .collect(),
        };
        let leader = addresses[0].client;
        let mut cluster = Self { interface, folder, commands, members: Vec::new(), addresses, leader };
        for (place, command) in (1..).zip(&cluster.commands) {
            let console = setting.folder.join(format!("{}-n{place}.log", interface.system()));
            cluster.members.push(command.start(None, &console, setting.log)?);
        }
        cluster.find_leader().await?;
        Ok(cluster)
    }

    /// Finds out who leads, founding the cluster if that is needed.
    pub(super) async fn find_leader(&mut self) -> Result<(), BenchError> {
        let began = Instant::now();
        let mut is_founded = self.interface != Interface::AspenHttp;
        loop {
            self.check()?;
            if !is_founded {
                is_founded = found(self.addresses[0].client).await;
            }
            for Addresses { client, .. } in &self.addresses {
                if is_founded && leads(self.interface, *client).await {
                    self.leader = *client;
                    return Ok(());
                }
            }
            if began.elapsed() > READY_MAX {
                return Err(self.not_ready(0));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Whether every process still runs.
    pub(super) fn check(&self) -> Result<(), BenchError> {
        match self.members.iter().find(|member| member.exited().is_some()) {
            None => Ok(()),
            Some(ended) => {
                let (system, console) = (self.interface.system(), ended.console_tail());
                Err(BenchError::Ended { system, console })
            }
        }
    }

    /// Where clients find the leader.
    pub(super) fn leader(&self) -> SocketAddr {
        self.leader
    }

    /// Whether the same member still leads.
    pub(super) async fn is_led_as_before(&self) -> bool {
        leads(self.interface, self.leader).await
    }

    /// Where clients find each member.
    pub(super) fn clients(&self) -> Vec<SocketAddr> {
        self.addresses.iter().map(|addresses| addresses.client).collect()
    }

    /// Which member leads, or led when it was looked last.
    pub(super) fn leader_place(&self) -> usize {
        self.addresses.iter().position(|addresses| addresses.client == self.leader).unwrap_or(0)
    }

    /// Sends the leader a signal, and waits until its process is gone; which member it was.
    pub(super) async fn end_leader(&mut self, signal: Signal) -> Result<usize, BenchError> {
        self.find_leader().await?;
        let place = self.leader_place();
        self.end_member(place, signal).await?;
        Ok(place)
    }

    /// Sends a member a signal, and waits until its process is gone.
    pub(super) async fn end_member(&mut self, place: usize, signal: Signal) -> Result<(), BenchError> {
        let began = Instant::now();
        self.members[place].signal(signal)?;
        while self.members[place].exited().is_none() {
            if began.elapsed() > READY_MAX {
                return Err(self.not_ready(place));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Starts a member whose process is gone.
    pub(super) fn start_again(&mut self, place: usize, setting: &Setting<'_>) -> Result<(), BenchError> {
        let console = setting.folder.join(format!("{}-n{}.log", self.interface.system(), place + 1));
        self.members[place] = self.commands[place].start(None, &console, setting.log)?;
        Ok(())
    }

    /// Waits until a member knows who leads.
    pub(super) async fn await_member(&self, place: usize) -> Result<(), BenchError> {
        let began = Instant::now();
        while !knows_leader(self.interface, self.addresses[place].client).await {
            self.check()?;
            if began.elapsed() > READY_MAX {
                return Err(self.not_ready(place));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Starts one more node of an Aspen cluster, with an empty folder, of which the others know nothing; which member it is to be, and
    /// what the leader is to be told of it.
    pub(super) fn start_another(&mut self, setting: &Setting<'_>) -> Result<(usize, Json), BenchError> {
        let addresses = free_addresses(1).map_err(BenchError::Ports)?[0];
        let place = self.addresses.len();
        let newcomer = NewMember::make(place, addresses, &self.folder)?;
        let path = self.folder.join("node.toml");
        let read = fs::read_to_string(&path);
        let peers = read.map_err(|source| BenchError::Io { path, source })? + &newcomer.as_peer();
        let config = write_config(&self.folder, "another.toml", &peers)?;
        self.commands.push(newcomer.command(setting, &config));
        let console = setting.folder.join(format!("{}-n{}.log", self.interface.system(), place + 1));
        self.members.push(self.commands[place].start(None, &console, setting.log)?);
        self.addresses.push(addresses);
        Ok((place, newcomer.as_learner()))
    }

    /// The process of a member.
    pub(super) fn pid(&self, place: usize) -> u32 {
        let started = self.members[place].pid();
        ProcessStat::children(started).first().copied().unwrap_or(started)
    }

    /// Where a member keeps what it has.
    pub(super) fn data(&self, place: usize) -> PathBuf {
        self.folder.join(format!("n{}", place + 1))
    }

    /// What a member's process has said last.
    pub(super) fn console(&self, place: usize) -> String {
        self.members[place].console_tail()
    }

    /// That a member does not do what is waited for.
    pub(super) fn not_ready(&self, place: usize) -> BenchError {
        let console = self.console(place);
        BenchError::NotReady { system: self.interface.system(), waited: READY_MAX, console }
    }

    /// How often its processes have told their disks to keep what they have, where that is counted.
    pub(super) fn calls(&self) -> u64 {
        (0..self.members.len()).map(|place| syncs::calls_in(&trace_of(&self.data(place)))).sum()
    }

    /// The most memory that one of its processes has had, in bytes.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        self.pids().into_iter().filter_map(ProcessStat::peak_memory).max()
    }

    /// Ends it, and removes what it has stored.
    pub(super) fn stop(self) -> Result<(), BenchError> {
        self.end()
    }

    /// The members' processes: under strace a member is a child of what was started.
    fn pids(&self) -> Vec<u32> {
        (0..self.members.len()).map(|place| self.pid(place)).collect()
    }

    fn end(&self) -> Result<(), BenchError> {
        let pids = self.pids();
        for member in &self.members {
            // Also what is on its leash; one that has ended takes no signal.
            member.signal(Signal::SIGKILL)?;
        }
        let began = Instant::now();
        let runs = |pid: &u32| ProcessStat::read(*pid).is_some_and(|stat| !stat.has_ended());
        while pids.iter().any(runs) && began.elapsed() < STOP_MAX {
            std::thread::sleep(LOOK_INTERVAL);
        }
        fs::remove_dir_all(&self.folder)
            .map_err(|source| BenchError::Io { path: self.folder.clone(), source })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After a stop there is nothing left to do.
        if self.folder.exists() {
            // What cannot be removed stays, and the error that has led here is told.
            let _ = self.end();
        }
    }
}

/// The commands of an Aspen cluster; its folders are made.
fn aspen(setting: &Setting<'_>, addresses: &[Addresses], folder: &Path) -> Result<Vec<Program>, BenchError> {
    let make = |(place, addresses): (usize, &Addresses)| NewMember::make(place, *addresses, folder);
    let members = addresses.iter().enumerate().map(make).collect::<Result<Vec<_>, _>>()?;
    let peers: String = members.iter().map(NewMember::as_peer).collect();
    let config = write_config(folder, "node.toml", &peers)?;
    Ok(members.iter().map(|member| member.command(setting, &config)).collect())
}

fn write_config(folder: &Path, name: &str, text: &str) -> Result<PathBuf, BenchError> {
    let path = folder.join(name);
    match fs::write(&path, text) {
        Ok(()) => Ok(path),
        Err(source) => Err(BenchError::Io { path, source }),
    }
}

/// A member of an Aspen cluster whose folder is made.
struct NewMember {
    id: usize,
    addresses: Addresses,
    data: PathBuf,
    endpoint_id: String,
}

impl NewMember {
    fn make(place: usize, addresses: Addresses, folder: &Path) -> Result<Self, BenchError> {
        let id = place + 1;
        let data = folder.join(format!("n{id}"));
        fs::create_dir(&data).map_err(|source| BenchError::Io { path: data.clone(), source })?;
        let identity = Identity::load_or_create(&data).map_err(BenchError::Identity)?;
        Ok(Self { id, addresses, data, endpoint_id: identity.endpoint_id().to_string() })
    }

    /// As the configuration of every member has it.
    fn as_peer(&self) -> String {
        let Self { id, endpoint_id, addresses: Addresses { peer, client }, .. } = self;
        format!(
            "[[peers]]\nid = {id}\nendpoint_id = \"{endpoint_id}\"\nraft = \"{peer}\"\nhttp = \"{client}\"\n"
        )
    }

    /// As the leader is told of it.
    fn as_learner(&self) -> Json {
        let Self { id, endpoint_id, addresses: Addresses { peer, client }, .. } = self;
        json!({ "id": id, "endpoint_id": endpoint_id, "raft": peer, "http": client })
    }

    fn command(&self, setting: &Setting<'_>, config: &Path) -> Program {
        let program = match &setting.node {
            NodeProgram::Own => {
                started(setting, Path::new("/proc/self/exe"), &self.data).arg(crate::cli::NODE_PART)
            }
            NodeProgram::Path(path) => started(setting, path, &self.data),
        };
        let Addresses { peer, client } = self.addresses;
        program
            .arg("--config")
            .arg(config)
            .args(["--id", &self.id.to_string()])
            .arg("--data-dir")
            .arg(&self.data)
            .args(["--raft-listen", &peer.to_string(), "--http-listen", &client.to_string()])
    }
}

/// A program that ends with the lab, and whose calls of fdatasync(2) and the like are counted, or take longer, if that is asked. `data` is
/// where it keeps what it has.
fn started(setting: &Setting<'_>, program: &Path, data: &Path) -> Program {
    let Some(Strace { program: strace, delay, counts }) = &setting.strace else { return leashed(program) };
    let calls = format!("trace={}", syncs::CALLS.join(","));
    let trace = if *counts { trace_of(data) } else { "/dev/null".into() };
    let mut wanted = vec!["-e".to_owned(), calls];
    if !delay.is_zero() {
        wanted.extend(["-e".to_owned(), format!("inject=fsync,fdatasync:delay_exit={}", delay.as_micros())]);
    }
    // strace is on a leash, and the program on one of strace's: killed, strace would let it go.
    let own = fs::canonicalize("/proc/self/exe").unwrap_or_else(|_| "/proc/self/exe".into());
    leashed(strace)
        .args(["-f", "-qqq", "--seccomp-bpf", "-o"])
        .arg(trace)
        .args(&wanted)
        .arg(own)
        .arg(leash::STAGE)
        .arg(program)
}

/// Where the calls of the process stand that keeps what it has in this folder.
fn trace_of(data: &Path) -> PathBuf {
    data.with_extension("trace")
}

/// Founds an Aspen cluster; whether it is founded.
async fn found(client: SocketAddr) -> bool {
    let mut connection = HttpConnection::new(client);
    let answer = connection.request("POST", "/cluster/init", "").await;
    // It may have been, by an earlier request whose answer was lost.
    answer.is_ok_and(|answer| matches!(answer.status, 200 | 409))
}

async fn leads(interface: Interface, client: SocketAddr) -> bool {
    match interface {
        Interface::EtcdGateway | Interface::EtcdGrpc => etcd::leads(client).await,
        Interface::AspenHttp => status(client).await["role"] == "leader",
    }
}

async fn knows_leader(interface: Interface, client: SocketAddr) -> bool {
    match interface {
        Interface::EtcdGateway | Interface::EtcdGrpc => etcd::knows_leader(client).await,
        Interface::AspenHttp => !status(client).await["leader"].is_null(),
    }
}

/// What an Aspen node says of its cluster; null if it says nothing.
async fn status(client: SocketAddr) -> Json {
    let mut connection = HttpConnection::new(client);
    let Ok(answer) = connection.request("GET", "/cluster/status", "").await else { return Json::Null };
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

/// Ports that nobody has at the moment, on loopback.
fn free_addresses(count: u32) -> io::Result<Vec<Addresses>> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    // All at once, so that no port is given twice; a peer's is free for TCP and for UDP.
    let mut held = Vec::new();
    for _ in 0..count {
        let peer = TcpListener::bind(any)?;
        let datagrams = UdpSocket::bind(peer.local_addr()?)?;
        held.push((peer, datagrams, TcpListener::bind(any)?));
    }
    held.iter()
        .map(|(peer, _, client)| Ok(Addresses { peer: peer.local_addr()?, client: client.local_addr()? }))
        .collect()
}
