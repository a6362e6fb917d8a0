//! A cluster on loopback, of Aspen or of etcd, from its first start to its end.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aspen_node::client::HttpConnection;
use aspen_node::cluster::identity::Identity;
use nix::sys::signal::Signal;
use serde_json::Value as Json;

use super::{BenchError, System, etcd};
use crate::limits::bench::{READY_MAX, STOP_MAX};
use crate::machine::driver::NodeProgram;
use crate::program::{ProcessStat, Program, ProgramLog, Running};

/// Where a member listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    /// For its peers.
    pub(super) peer: SocketAddr,
    /// For clients.
    pub(super) client: SocketAddr,
}

/// What clusters are started with.
#[derive(Debug)]
pub(super) struct Setting<'a> {
    pub(super) node: NodeProgram,
    pub(super) etcd: Option<PathBuf>,
    pub(super) count: u32,
    /// What every fdatasync(2) takes longer.
    pub(super) sync_delay: Duration,
    pub(super) folder: &'a Path,
    pub(super) log: &'a ProgramLog,
}

/// A cluster that runs. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Cluster {
    system: System,
    folder: PathBuf,
    members: Vec<Running>,
    leader: SocketAddr,
}

impl Cluster {
    /// Starts a new cluster, and waits until somebody leads.
    pub(super) async fn start(system: System, setting: &Setting<'_>) -> Result<Self, BenchError> {
        let folder = setting.folder.join(system.name());
        let io = |source| BenchError::Io { path: folder.clone(), source };
        fs::create_dir(&folder).map_err(io)?;
        let addresses = free_addresses(setting.count).map_err(io)?;
        let commands = match system {
            System::Aspen => aspen(setting, &addresses, &folder)?,
            System::Etcd => (0..addresses.len())
                .map(|place| {
                    let program = slowed(setting, setting.etcd.as_deref().unwrap_or(Path::new(etcd::ETCD)));
                    let data = folder.join(format!("n{}", place + 1));
                    // etcd takes a folder that others may read for a mistake.
                    etcd::command(program, &addresses, place, &data)
                })
                .collect(),
        };
        let console = |place: usize| folder.join(format!("n{}.log", place + 1));
        let start = |(place, command): (usize, &Program)| command.start(None, &console(place), setting.log);
        let members: Vec<Running> = commands.iter().enumerate().map(start).collect::<Result<_, _>>()?;
        let placeholder = addresses[0].client;
        let mut cluster = Self { system, folder: folder.clone(), members, leader: placeholder };
        let began = Instant::now();
        let mut is_founded = system == System::Etcd;
        loop {
            if let Some(ended) = cluster.members.iter().find(|member| member.exited().is_some()) {
                return Err(BenchError::Ended { system: system.name(), console: ended.console_tail() });
            }
            if !is_founded {
                is_founded = found(placeholder).await;
            }
            for Addresses { client, .. } in &addresses {
                if is_founded && leads(system, *client).await {
                    cluster.leader = *client;
                    return Ok(cluster);
                }
            }
            if began.elapsed() > READY_MAX {
                let console = cluster.members[0].console_tail();
                return Err(BenchError::NotReady { system: system.name(), waited: READY_MAX, console });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where clients find the leader.
    pub(super) fn leader(&self) -> SocketAddr {
        self.leader
    }

    /// Whether the same member still leads.
    pub(super) async fn is_led_as_before(&self) -> bool {
        leads(self.system, self.leader).await
    }

    /// The most memory that one of its processes has had, in bytes.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        // Under strace a member is a child of what was started.
        let pids = self.members.iter().flat_map(|member| {
            let children = ProcessStat::children(member.pid());
            if children.is_empty() { vec![member.pid()] } else { children }
        });
        pids.filter_map(ProcessStat::peak_memory).max()
    }

    /// Ends it, and removes what it has stored.
    pub(super) fn stop(self) -> Result<(), BenchError> {
        for member in &self.members {
            member.signal(Signal::SIGTERM)?;
        }
        for member in &self.members {
            // One that does not end is killed when it is dropped; nothing depends on it any more.
            let _ = member.wait(STOP_MAX);
        }
        drop(self.members);
        fs::remove_dir_all(&self.folder).map_err(|source| BenchError::Io { path: self.folder, source })
    }
}

/// The commands of an Aspen cluster; its folders are made.
fn aspen(setting: &Setting<'_>, addresses: &[Addresses], folder: &Path) -> Result<Vec<Program>, BenchError> {
    use std::fmt::Write;
    let mut peers = String::new();
    let mut data_dirs = Vec::new();
    for (id, Addresses { peer, client }) in (1..).zip(addresses) {
        let data = folder.join(format!("n{id}"));
        fs::create_dir(&data).map_err(|source| BenchError::Io { path: data.clone(), source })?;
        let identity = Identity::load_or_create(&data).map_err(BenchError::Identity)?;
        // Writing to a String cannot fail.
        let _ = write!(
            peers,
            "[[peers]]\nid = {id}\nendpoint_id = \"{}\"\nraft = \"{peer}\"\nhttp = \"{client}\"\n",
            identity.endpoint_id()
        );
        data_dirs.push((id, data));
    }
    let config = folder.join("node.toml");
    fs::write(&config, peers).map_err(|source| BenchError::Io { path: config.clone(), source })?;
    let command = |((id, data), Addresses { peer, client }): (&(u64, PathBuf), &Addresses)| {
        let program = match &setting.node {
            NodeProgram::Own => slowed(setting, Path::new("/proc/self/exe")).arg(crate::cli::NODE_PART),
            NodeProgram::Path(path) => slowed(setting, path),
        };
        program
            .arg("--config")
            .arg(&config)
            .args(["--id", &id.to_string()])
            .arg("--data-dir")
            .arg(data)
            .args(["--raft-listen", &peer.to_string(), "--http-listen", &client.to_string()])
    };
    Ok(data_dirs.iter().zip(addresses).map(command).collect())
}

/// A program whose fdatasync(2) takes longer, if that is asked.
fn slowed(setting: &Setting<'_>, program: &Path) -> Program {
    if setting.sync_delay.is_zero() {
        return Program::new(program);
    }
    // `/proc/self/exe` would be strace.
    let program = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let delay = format!("inject=fsync,fdatasync:delay_exit={}", setting.sync_delay.as_micros());
    Program::new("/usr/bin/strace")
        .args(["-f", "-qqq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", &delay])
        .arg(program)
}

/// Founds an Aspen cluster; whether it is founded.
async fn found(client: SocketAddr) -> bool {
    let mut connection = HttpConnection::new(client);
    let answer = connection.request("POST", "/cluster/init", "").await;
    // It may have been, by an earlier request whose answer was lost.
    answer.is_ok_and(|answer| matches!(answer.status, 200 | 409))
}

async fn leads(system: System, client: SocketAddr) -> bool {
    match system {
        System::Etcd => etcd::leads(client).await == Some(true),
        System::Aspen => {
            let mut connection = HttpConnection::new(client);
            let Ok(answer) = connection.request("GET", "/cluster/status", "").await else { return false };
            let status: Json = serde_json::from_slice(&answer.body).unwrap_or_default();
            status["role"] == "leader"
        }
    }
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
