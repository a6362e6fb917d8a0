//! How a cluster fares with a large state: how long a node takes to serve again, and how much memory it takes, and how long a client
//! waits, while a snapshot is built and while one is sent to a new member.
//!
//! Steps come one after the other, each on a disk that has taken everything before, with the same lone client.

mod fill;
mod probe;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aspen_node::client::HttpConnection;
use serde::Serialize;
use serde_json::Value as Json;

use self::fill::Filled;
use self::probe::{Probe, Spell};
use super::cluster::{Cluster, Setting};
use super::memory::{Growth, Watched};
use super::outage::End;
use super::table::several;
use super::{BenchError, Interface, micros};
use crate::limits::bench::{LOOK_INTERVAL, STATE_LOOK_INTERVAL, STATE_PAUSE, STATE_STEP_MAX};

const MIB: u64 = 1024 * 1024;

/// Everything that was measured of a large state.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LargeState {
    keys: u64,
    /// Bytes of their values.
    value_bytes: u64,
    fill_us: u64,
    /// The leader's.
    disk: Disk,
    restarts: Vec<Restart>,
    /// While a snapshot is built on the leader.
    build: Spell,
    build_leader: Growth,
    /// As long, while nothing else is done.
    quiet: Spell,
    /// While a new member is sent everything.
    ship: Spell,
    ship_leader: Growth,
    ship_newcomer: Growth,
}

/// What a node has on its disk, in bytes, by files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_field_names, reason = "sizes carry their unit")]
struct Disk {
    /// With its journal.
    state_bytes: u64,
    log_bytes: u64,
    snapshot_bytes: u64,
}

/// A follower that was started again.
#[derive(Debug, Clone, Copy, Serialize)]
struct Restart {
    end: End,
    /// From the start of its process until it knows a leader.
    serves_us: u64,
}

/// Fills a cluster, and measures one step after the other.
pub(super) async fn measure(
    mib: u64,
    setting: &Setting<'_>,
    say: impl Fn(&str),
) -> Result<LargeState, BenchError> {
    let mut cluster = Cluster::start(Interface::AspenHttp, setting).await?;
    say("the state is written");
    let began = Instant::now();
    let filled = fill::fill(cluster.leader(), mib * MIB).await;
    let Filled { keys, bytes } =
        filled.map_err(|code| BenchError::Fill { system: Interface::AspenHttp.system(), code })?;
    cluster.find_leader().await?;
    for member in 0..cluster.clients().len() {
        await_applied(&cluster, member).await?;
    }
    let fill_us = micros(began.elapsed());
    say("every member makes its first snapshot");
    for member in 0..cluster.clients().len() {
        // What the one before has written is in nobody's way.
        settle(setting).await?;
        make_snapshot(&cluster, member).await?;
    }
    settle(setting).await?;
    let disk = Disk::read(&cluster.data(cluster.leader_place()));
    say("a follower is started again");
    let restarts = restart(&mut cluster, setting).await?;
    let probe = Probe::start(cluster.leader());
    say("a snapshot is built");
    settle(setting).await?;
    let leader = watched(&cluster, cluster.leader_place())?;
    let (made, build) = probe.during(make_snapshot(&cluster, cluster.leader_place())).await;
    made?;
    let build_leader = leader.seen();
    settle(setting).await?;
    let as_long = Duration::from_micros(build.took_us).max(STATE_PAUSE);
    // It is looked at as before: that costs something, too.
    let ((), quiet) = probe.during(tokio::time::sleep(as_long)).await;
    drop(leader);
    say("a new member is sent everything");
    let (ship, ship_leader, ship_newcomer) = send_to_another(&mut cluster, setting, &probe).await?;
    drop(probe);
    cluster.check()?;
    cluster.stop()?;
    Ok(LargeState {
        keys,
        value_bytes: bytes,
        fill_us,
        disk,
        restarts,
        build,
        build_leader,
        quiet,
        ship,
        ship_leader,
        ship_newcomer,
    })
}

/// Starts a follower again, after it was asked to stop and after it was killed.
async fn restart(cluster: &mut Cluster, setting: &Setting<'_>) -> Result<Vec<Restart>, BenchError> {
    let mut restarts = Vec::new();
    for end in [End::Restart, End::Kill] {
        let follower = (cluster.leader_place() + 1) % cluster.clients().len();
        // Something to do for it when it comes back.
        let probe = Probe::start(cluster.leader());
        settle(setting).await?;
        cluster.end_member(follower, end.signal()).await?;
        drop(probe);
        let began = Instant::now();
        cluster.start_again(follower, setting)?;
        let address = cluster.clients()[follower];
        let serves = async || get(address, "/health").await.is_some_and(|health| health["ready"] == true);
        until(cluster, follower, STATE_LOOK_INTERVAL, "start of a node", serves).await?;
        restarts.push(Restart { end, serves_us: micros(began.elapsed()) });
        // Where there is one node only, it leads once more.
        cluster.find_leader().await?;
        await_applied(cluster, follower).await?;
    }
    Ok(restarts)
}

/// Adds a member, and waits until it has everything.
async fn send_to_another(
    cluster: &mut Cluster,
    setting: &Setting<'_>,
    probe: &Probe,
) -> Result<(Spell, Growth, Growth), BenchError> {
    let (newcomer, learner) = cluster.start_another(setting)?;
    let address = cluster.clients()[newcomer];
    let answers = async || get(address, "/raft/state").await.is_some();
    until(cluster, newcomer, LOOK_INTERVAL, "start of a node", answers).await?;
    settle(setting).await?;
    let leader = watched(cluster, cluster.leader_place())?;
    let another = watched(cluster, newcomer)?;
    let added = async {
        post(cluster.leader(), "/cluster/add-learner", &learner.to_string()).await.map_err(refused)?;
        await_applied(cluster, newcomer).await
    };
    let (added, ship) = probe.during(added).await;
    added?;
    if get(address, "/raft/state").await.is_none_or(|state| state["snapshot"].is_null()) {
        return Err(BenchError::Refused { code: "the new member was sent no snapshot".to_owned() });
    }
    Ok((ship, leader.seen(), another.seen()))
}

fn watched(cluster: &Cluster, place: usize) -> Result<Watched, BenchError> {
    Watched::begin(cluster.pid(place)).ok_or_else(|| cluster.not_ready(place))
}

/// Waits until the disk has everything, and what is done once a second was done.
async fn settle(setting: &Setting<'_>) -> Result<(), BenchError> {
    tokio::time::sleep(STATE_PAUSE).await;
    let folder = setting.folder.to_owned();
    let synced = tokio::task::spawn_blocking(move || {
        let synced = File::open(&folder).and_then(|open| Ok(nix::unistd::syncfs(&open)?));
        synced.map_err(|source| BenchError::Io { path: folder, source })
    });
    synced.await.expect("a sync does not panic")
}

/// Has a member make a snapshot of all that it has now.
async fn make_snapshot(cluster: &Cluster, place: usize) -> Result<(), BenchError> {
    let address = cluster.clients()[place];
    let wanted = known_index(cluster, place, address, "applied").await?;
    match post(address, "/cluster/snapshot", "").await {
        Ok(()) => return Ok(()),
        // It goes on.
        Err(code) if code == "timeout" => {}
        Err(code) => return Err(refused(code)),
    }
    let is_made = async || index(address, "snapshot").await.is_some_and(|index| index >= wanted);
    until(cluster, place, LOOK_INTERVAL, "snapshot", is_made).await
}

/// Waits until a member has applied what the leader has now.
async fn await_applied(cluster: &Cluster, place: usize) -> Result<(), BenchError> {
    let wanted = known_index(cluster, place, cluster.leader(), "applied").await?;
    let address = cluster.clients()[place];
    let is_there = async || index(address, "applied").await.is_some_and(|index| index >= wanted);
    until(cluster, place, LOOK_INTERVAL, "state on a member", is_there).await
}

/// Asks again and again, until it is so.
async fn until(
    cluster: &Cluster,
    place: usize,
    interval: Duration,
    what: &'static str,
    is_so: impl AsyncFn() -> bool,
) -> Result<(), BenchError> {
    let began = Instant::now();
    while !is_so().await {
        cluster.check()?;
        if began.elapsed() > STATE_STEP_MAX {
            return Err(BenchError::Late { what, waited: STATE_STEP_MAX, console: cluster.console(place) });
        }
        tokio::time::sleep(interval).await;
    }
    Ok(())
}

/// An entry that a node names in its state, once it does.
async fn known_index(
    cluster: &Cluster,
    place: usize,
    node: SocketAddr,
    name: &'static str,
) -> Result<u64, BenchError> {
    let found = AtomicU64::new(0);
    let is_known = async || match index(node, name).await {
        Some(index) => {
            found.store(index, Ordering::Relaxed);
            true
        }
        None => false,
    };
    until(cluster, place, LOOK_INTERVAL, "answer of a node", is_known).await?;
    Ok(found.load(Ordering::Relaxed))
}

/// An entry that a node names in its state; `None` before the first, and where it says nothing.
async fn index(node: SocketAddr, name: &str) -> Option<u64> {
    get(node, "/raft/state").await?[name]["index"].as_u64()
}

async fn get(node: SocketAddr, path: &str) -> Option<Json> {
    let mut connection = HttpConnection::new(node);
    let answer = Box::pin(connection.request("GET", path, "")).await.ok()?;
    serde_json::from_slice(&answer.body).ok()
}

/// An error is the code of what went wrong.
async fn post(node: SocketAddr, path: &str, body: &str) -> Result<(), String> {
    let mut connection = HttpConnection::new(node);
    match Box::pin(connection.request("POST", path, body.to_owned())).await {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(answer.code().unwrap_or_else(|| format!("status {}", answer.status))),
        Err(_) => Err("no answer".to_owned()),
    }
}

fn refused(code: String) -> BenchError {
    BenchError::Refused { code }
}

impl Disk {
    fn read(data: &Path) -> Self {
        let mut disk = Self::default();
        for entry in fs::read_dir(data).into_iter().flatten().flatten() {
            let bytes = allocated(&entry.path());
            match entry.file_name().to_str().unwrap_or_default() {
                "snapshots" => disk.snapshot_bytes += bytes,
                name if name.starts_with("state") => disk.state_bytes += bytes,
                name if name.starts_with("log") => disk.log_bytes += bytes,
                _ => {}
            }
        }
        disk
    }
}

/// Bytes that a file, or what is in a folder, takes on the disk.
fn allocated(path: &Path) -> u64 {
    // `st_blocks` counts 512 bytes each (stat(2)).
    let Ok(metadata) = fs::metadata(path) else { return 0 };
    if metadata.is_dir() {
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| allocated(&entry.path())).sum()
    } else {
        metadata.blocks() * 512
    }
}

/// The steps as a table.
pub(super) fn text(nodes: u32, state: &LargeState) -> String {
    let seconds = |us: u64| format!("{:.2} s", Duration::from_micros(us).as_secs_f64());
    let mib = |bytes: u64| bytes.div_ceil(MIB);
    let Disk { state_bytes, log_bytes, snapshot_bytes } = state.disk;
    let mut text = format!(
        "{} on loopback, {} keys with {} MiB of values of 256 bytes to 1 MiB, written in {}\n\
         on the leader's disk: state {} MiB, log {} MiB, snapshot {} MiB\n",
        several(nodes, "node"),
        state.keys,
        mib(state.value_bytes),
        seconds(state.fill_us),
        mib(state_bytes),
        mib(log_bytes),
        mib(snapshot_bytes),
    );
    for Restart { end, serves_us } in &state.restarts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "a follower that was {} serves after {}", end.title(), seconds(*serves_us));
    }
    let _ = writeln!(
        text,
        "\n{:24} {:>9} {:>9} {:>13}   RSS in MiB     PSS in MiB",
        "", "took", "writes", "longest pause"
    );
    let mut line = |what: &str, spell: Option<Spell>, growth: Option<Growth>| {
        let spell = spell.map_or_else(
            || format!("{:33}", ""),
            |spell| {
                let pause = format!("{} ms", spell.longest_pause_us.div_ceil(1000));
                format!("{:>9} {:>9} {pause:>13}", seconds(spell.took_us), spell.writes)
            },
        );
        let growth = growth.map_or_else(String::new, |growth| growth.text());
        let _ = writeln!(text, "{}", format!("{what:24} {spell}   {growth}").trim_end());
    };
    line("a snapshot is built", Some(state.build), Some(state.build_leader));
    line("nothing else is done", Some(state.quiet), None);
    line("a new member is sent it", Some(state.ship), Some(state.ship_leader));
    line("  and the member", None, Some(state.ship_newcomer));
    text
}
