//! Starts the `lab` under test, no more clusters at a time than this host runs well, and reads what it leaves.

#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;

use crate::host;

/// So many clusters of a few nodes two cores run well: these wait most of the time.
const PLACES: u16 = 2;
/// Where the ports of nodes begin: below those that Linux gives to clients, one of which could hold the port of a node that starts
/// again (`ip_local_port_range`, `ip(7)`).
const PORTS_FROM: u16 = 20_000;
/// So many ports has the cluster of one place.
const PORTS: u16 = 6_000;

/// The right to run a cluster in one of the places, or in all of them. Locks on files, since some test runners give every test a
/// process of its own.
pub(crate) struct Turn {
    place: u16,
    _files: Vec<fs::File>,
}

impl Turn {
    /// The ports of this cluster's place. Two test programs do not look at the same ones first.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        let (from, skipped) = (PORTS_FROM + self.place * PORTS, std::process::id() % u32::from(PORTS));
        (from..from + PORTS).cycle().skip(skipped as usize).take(PORTS.into())
    }
}

fn lock_file(name: &str) -> fs::File {
    fs::File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)).unwrap()
}

fn place_file(place: u16) -> fs::File {
    lock_file(&format!("place-{place}"))
}

/// Those who wait for places take their turns, or one that waits for all of them would wait for ever.
fn queue() -> fs::File {
    let queue = lock_file("queue");
    queue.lock().unwrap();
    queue
}

/// Waits for the right to run a cluster beside others.
pub(crate) fn turn() -> Turn {
    let _queue = queue();
    loop {
        for place in 0..PLACES {
            let file = place_file(place);
            if file.try_lock().is_ok() {
                return Turn { place, _files: vec![file] };
            }
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Waits for the right to run a cluster that takes what this host has, or of which it is measured how fast it is.
pub(crate) fn whole_turn() -> Turn {
    let _queue = queue();
    let files = (0..PLACES).map(place_file).inspect(|file| file.lock().unwrap());
    Turn { place: 0, _files: files.collect() }
}

/// How often it is looked whether what is waited for is so.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The scenarios of `topologies/` that every driver can run.
pub(crate) const TOPOLOGIES: [&str; 16] = [
    "three-nodes",
    "leader-isolated",
    "split-brain",
    "crash-storm",
    "one-way-cut",
    "lossy-wan",
    "pause-leader",
    "lease-reads",
    "flapping",
    "left-behind",
    "blackout",
    "rolling-restart",
    "grow-and-shrink",
    "self-healing",
    "three-regions",
    "two-networks",
];

/// Those that need a file system of the lab's own where nodes are processes.
pub(crate) const VOLUME_TOPOLOGIES: [&str; 1] = ["power-cut"];

/// The others, which need virtual machines.
pub(crate) const MACHINE_TOPOLOGIES: [&str; 3] = ["suspend-leader", "rollback", "wrong-clocks"];

/// What only machines can have, in as little time as it takes: they are saved and go on, their clocks are wrong, and the leader is
/// put back. So many operations in a second.
pub(crate) fn time_story(rate: u32) -> String {
    format!(
        "nodes: {{ count: 3 }}\nworkload: {{ rate: {rate}/s }}\nduration: 34s\nfaults:\n  \
         - {{ at: 1s, for: 3s, suspend: follower }}\n  \
         - {{ at: 1s, for: 3s, clock: leader, step: -30s }}\n  \
         - {{ at: 8s, for: 3s, suspend: leader }}\n  \
         - {{ at: 15s, for: 5s, clock: follower, drift: 5% }}\n  \
         - {{ at: 21s, by: 2s, rollback: leader }}\n\
         checks: [linearizable, durable, raft, {{ recovers: {{ within: 10s }} }}]\n"
    )
}

/// A program that knows the node's version, and otherwise does this, in words of a shell.
pub(crate) fn node_that(home: &Path, does: &str) -> PathBuf {
    let path = home.join("another-node");
    let version = env!("CARGO_PKG_VERSION");
    let script = format!("#!/bin/sh\n[ \"$1\" = --version ] && exec echo aspen-node {version}\n{does}\n");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// How often a test repeats what it proves: `ASPEN_LONG`, or once.
pub(crate) fn rounds() -> u64 {
    std::env::var("ASPEN_LONG").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Whether this host can run clusters; if not, says so loudly, or fails where `LAB_REQUIRE` wants it.
fn can_run() -> bool {
    if nix::unistd::geteuid().is_root() || fs::File::open("/dev/net/tun").is_ok() {
        return true;
    }
    host::lacks("netns", "/dev/net/tun that this user may open");
    false
}

/// The right to run a cluster beside others, and a folder for what it leaves; none where this host cannot run any.
pub(crate) fn bench() -> Option<(Turn, tempfile::TempDir)> {
    can_run().then(|| (turn(), tempfile::tempdir().unwrap()))
}

/// The same for a cluster that has the host for itself.
pub(crate) fn whole_bench() -> Option<(Turn, tempfile::TempDir)> {
    can_run().then(|| (whole_turn(), tempfile::tempdir().unwrap()))
}

/// A scenario of the repository.
pub(crate) fn topology(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../topologies").join(format!("{name}.yaml"))
}

/// Writes a scenario that lacks only its name and what it is about.
pub(crate) fn write_scenario(home: &Path, name: &str, rest: &str) -> String {
    let path = home.join(format!("{name}.yaml"));
    fs::write(&path, format!("name: {name}\nabout: A test.\n{rest}")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A finished run.
pub(crate) struct Run {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it said meanwhile.
    pub(crate) stderr: String,
    /// Its run directory.
    pub(crate) directory: PathBuf,
}

impl Run {
    /// report.json.
    pub(crate) fn report(&self) -> Json {
        let text = fs::read_to_string(self.directory.join("report.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The status of a check, `pass` or otherwise.
    pub(crate) fn status(&self, check: &str) -> String {
        let report = self.report();
        let verdicts = report["verdicts"].as_array().unwrap();
        let verdict = verdicts.iter().find(|verdict| verdict["check"] == check);
        verdict.map_or("absent".to_owned(), |verdict| verdict["status"].as_str().unwrap().to_owned())
    }

    /// Everything it said, for the message of a failed assertion.
    pub(crate) fn output(&self) -> String {
        format!("exit code {:?}\n{}\n{}", self.code, self.stdout, self.stderr)
    }
}

/// A run that goes on.
pub(crate) struct Running {
    child: Child,
    directory: PathBuf,
}

impl Running {
    /// Starts `lab run` with these words and a run directory below `home`: of processes, unless the words say otherwise.
    pub(crate) fn start(home: &Path, name: &str, words: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_below(home, name, &[], words, environment)
    }

    /// The same below another command of the lab.
    pub(crate) fn start_below(
        home: &Path,
        name: &str,
        command: &[&str],
        words: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let directory = home.join(name);
        let driver = if words.contains(&"--driver") { [].as_slice() } else { &["--driver", "process"] };
        let child = Command::new(env!("CARGO_BIN_EXE_lab"))
            .args(command)
            .arg("run")
            .args(words)
            .args(driver)
            .arg("--out")
            .arg(&directory)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    /// The process that the user would see.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The run directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits until events.jsonl says something.
    #[track_caller]
    pub(crate) fn await_event(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_mins(1);
        let events = self.directory.join("events.jsonl");
        while !fs::read_to_string(&events).unwrap_or_default().contains(text) {
            assert!(Instant::now() < deadline, "no event {text:?} within 60 s");
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Waits for the end, at most three minutes.
    #[track_caller]
    pub(crate) fn finish(self) -> Run {
        self.finish_within(Duration::from_mins(3))
    }

    /// Ends it as Ctrl-C does, and waits for the end.
    #[track_caller]
    pub(crate) fn interrupt(self) -> Run {
        kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGINT).unwrap();
        self.finish()
    }

    /// The same by a signal that comes twice: the end of its terminal is told more than once.
    #[track_caller]
    pub(crate) fn end_by_two(self, signal: Signal) -> Run {
        let is_taken = || {
            let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
            status.lines().any(|line| line.strip_prefix("ShdPnd:\t").is_some_and(|mask| mask.ends_with('0')))
        };
        for _ in 0..2 {
            kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
            // Two that wait are one.
            while !is_taken() {
                std::thread::sleep(LOOK_INTERVAL);
            }
        }
        self.finish()
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn finish_within(mut self, limit: Duration) -> Run {
        let (mut stdout, mut stderr) = (self.child.stdout.take().unwrap(), self.child.stderr.take().unwrap());
        let read_stderr = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map(|_| text)
        });
        let read_stdout = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| text)
        });
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the run does not end");
            std::thread::sleep(LOOK_INTERVAL);
        };
        Run {
            code: status.code(),
            stdout: read_stdout.join().unwrap().unwrap(),
            stderr: read_stderr.join().unwrap().unwrap(),
            directory: self.directory.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `lab run` to its end.
#[track_caller]
pub(crate) fn run(home: &Path, name: &str, words: &[&str], environment: &[(&str, &str)]) -> Run {
    Running::start(home, name, words, environment).finish()
}

/// Processes with an argument that is, or begins with, this text.
pub(crate) fn processes_with_argument(argument: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let pids = pids.filter(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word.starts_with(argument.as_bytes()))
    });
    pids.collect()
}
