//! Whoever is killed, nothing is left: the sandbox as root and as an unprivileged user.
//!
//! These tests need root: to look into every process's namespaces, and to give the unprivileged user a
//! /dev/net/tun in a mount namespace that the test makes.

#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host;
use crate::lab::{turn, whole_turn, write_scenario};

/// What issue and README promise.
const GONE_MAX: Duration = Duration::from_secs(2);

/// The doctor looks at the sandbox last: it boots an emulated guest before, and asks apt-get for a kernel.
const DOCTOR_MAX: Duration = Duration::from_secs(30);

/// The order in which the stages start each other.
const OUTER: usize = 0;
const MIDDLE: usize = 1;
const INNER: usize = 2;

#[derive(Clone, Copy, PartialEq)]
enum User {
    Root,
    Nobody,
}

/// One folder per test: the `lab` that it starts, and the only place for temporary files.
struct Bench {
    directory: tempfile::TempDir,
    lab: PathBuf,
}

fn bench() -> Option<Bench> {
    if !nix::unistd::geteuid().is_root() {
        host::lacks("netns", "root, who makes namespaces for others");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    // A copy: the target folder may be closed to other users, and the copy's path is this test's mark.
    let lab = path.join("lab");
    fs::copy(env!("CARGO_BIN_EXE_lab"), &lab).unwrap();
    for folder in ["tmp", "dev", "runs"] {
        fs::create_dir(path.join(folder)).unwrap();
        fs::set_permissions(path.join(folder), fs::Permissions::from_mode(0o777)).unwrap();
    }
    Some(Bench { directory, lab })
}

impl Bench {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `lab` as that user; the process that it returns is the outer process itself.
    fn command(&self, user: User, arguments: &str) -> Command {
        let path = self.path().display();
        let mut command = match user {
            User::Root => {
                let mut command = Command::new(&self.lab);
                command.args(arguments.split_whitespace());
                command
            }
            User::Nobody => {
                let script = format!(
                    "mount -t tmpfs none {path}/dev && mknod -m 666 {path}/dev/tun c 10 200 && \
                     mount --bind {path}/dev/tun /dev/net/tun && \
                     exec setpriv --reuid 65534 --regid 65534 --clear-groups {path}/lab {arguments}"
                );
                let mut command = Command::new("unshare");
                command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
                command
            }
        };
        command.env("TMPDIR", self.path().join("tmp")).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Every process that runs this test's copy of `lab`.
    fn stages(&self) -> Vec<u32> {
        let runs_lab = |pid: &u32| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            exe.starts_with(&self.lab)
        };
        processes().into_iter().filter(runs_lab).collect()
    }
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Parent and start time; `None` for a process that has ended, collected or not.
fn parent_and_start(pid: u32) -> Option<(u32, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    (fields[0] != "Z").then(|| (fields[1].parse().unwrap(), fields[19].parse().unwrap()))
}

/// The process and all that descend from it, in the order of their start.
fn family(root: u32) -> Vec<u32> {
    let parents: BTreeMap<u32, u32> =
        processes().into_iter().filter_map(|pid| Some((pid, parent_and_start(pid)?.0))).collect();
    let mut family = vec![root];
    let mut next = 0;
    while next < family.len() {
        let children = parents.iter().filter(|(_, parent)| **parent == family[next]).map(|(pid, _)| *pid);
        family.extend(children.collect::<Vec<_>>());
        next += 1;
    }
    family
}

/// The namespaces of a process, and those that it holds by descriptor, as `net:[4026531840]`.
fn namespaces(pid: u32) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for folder in ["ns", "fd"] {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/{folder}")) else { continue };
        for entry in entries.flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            // Not pipe:[…], socket:[…] or anon_inode:[eventpoll].
            let is_namespace =
                ["net:[", "mnt:[", "pid:[", "user:["].iter().any(|kind| target.starts_with(kind));
            if is_namespace {
                found.insert(target.into_owned());
            }
        }
    }
    found
}

fn interfaces() -> Vec<String> {
    let table = fs::read_to_string("/proc/net/dev").unwrap();
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

fn host() -> (Vec<String>, String) {
    (interfaces(), fs::read_to_string("/proc/self/mountinfo").unwrap())
}

/// Two cuts: one that leaves its receipt, and one during which somebody is killed.
const KILLED: &str = "name: killed\nabout: Somebody kills the lab.\nnodes: { count: 3 }\nfaults:\n  \
                      - { at: 500ms, for: 1s, partition: [[n1], [rest]] }\n  \
                      - { at: 3s, for: 1m, partition: [[n2], [rest]] }\nchecks: [linearizable]\n";

/// An outer process that a failing test does not leave behind.
struct Outer(Child);

impl Outer {
    fn start(bench: &Bench, user: User) -> Self {
        Self(bench.command(user, "doctor --hold").spawn().unwrap())
    }

    /// A run in the middle of its second fault: the first has left its receipt.
    fn start_run(bench: &Bench, user: User) -> Self {
        let path = bench.path();
        fs::write(path.join("killed.yaml"), KILLED).unwrap();
        let words = format!("run {0}/killed.yaml --seed 1 --out {0}/runs/killed", path.display());
        let outer = Self(bench.command(user, &words).spawn().unwrap());
        let events = || fs::read_to_string(path.join("runs/killed/events.jsonl")).unwrap_or_default();
        let is_struck = || events().contains("receipt complete") && events().matches("in force").count() == 2;
        assert!(comes(Instant::now() + Duration::from_mins(1), is_struck), "no second fault: {}", events());
        outer
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _collected = self.0.wait();
    }
}

/// Waits for a condition until `deadline`; says whether it came.
fn comes(deadline: Instant, mut condition: impl FnMut() -> bool) -> bool {
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

#[track_caller]
fn check_nothing_is_left(user: User, victim: usize) {
    let Some(bench) = bench() else { return };
    // Nobody else changes what this host has.
    let _turn = whole_turn();
    let before = host();
    let mut outer = Outer::start_run(&bench, user);
    let family = family(outer.0.id());
    let started: Vec<_> = family.iter().map(|pid| parent_and_start(*pid).unwrap()).collect();
    assert_eq!(family.len(), 6, "outer, middle, inner, three nodes: {family:?}");
    let own = namespaces(std::process::id());
    let theirs: BTreeSet<String> =
        family.iter().flat_map(|pid| namespaces(*pid)).filter(|name| !own.contains(name)).collect();
    let networks = theirs.iter().filter(|name| name.starts_with("net:")).count();
    assert_eq!(networks, 4, "the sandbox's and three nodes': {theirs:?}");
    assert_eq!(theirs.iter().any(|name| name.starts_with("user:")), user == User::Nobody);
    // A namespace lives on in processes, in descriptors and in mounts. As nobody outside the family holds
    // one now, none is left when the family is gone. To look for the names afterwards would be wrong:
    // the kernel gives a free number to the next namespace, perhaps to that of another test.
    let holds = |pid: &u32| !namespaces(*pid).is_disjoint(&theirs);
    let strangers: Vec<u32> =
        processes().into_iter().filter(|pid| !family.contains(pid)).filter(holds).collect();
    assert_eq!(strangers, Vec::<u32>::new(), "they hold a namespace of {family:?}");

    let killed = Instant::now();
    kill(Pid::from_raw(family[victim].cast_signed()), Signal::SIGKILL).unwrap();
    let deadline = killed + GONE_MAX;
    assert!(comes(deadline, || outer.has_ended()), "the outer process still runs");
    for (pid, start) in family.iter().zip(started) {
        let gone = || parent_and_start(*pid).is_none_or(|now| now.1 != start.1);
        assert!(comes(deadline, gone), "process {pid} of {family:?} still runs");
    }
    let (interfaces, mounts) = host();
    assert!(!mounts.contains(" - nsfs "));
    assert_eq!((interfaces, mounts), before);
    assert_eq!(fs::read_dir(bench.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn killed_outer_leaves_nothing_as_root() {
    check_nothing_is_left(User::Root, OUTER);
}

#[test]
fn killed_middle_leaves_nothing_as_root() {
    check_nothing_is_left(User::Root, MIDDLE);
}

#[test]
fn killed_inner_leaves_nothing_as_root() {
    check_nothing_is_left(User::Root, INNER);
}

#[test]
fn killed_outer_leaves_nothing_as_nobody() {
    check_nothing_is_left(User::Nobody, OUTER);
}

#[test]
fn killed_middle_leaves_nothing_as_nobody() {
    check_nothing_is_left(User::Nobody, MIDDLE);
}

#[test]
fn killed_inner_leaves_nothing_as_nobody() {
    check_nothing_is_left(User::Nobody, INNER);
}

/// Kills at 40 different moments of the start, when death signals may not be set yet.
#[track_caller]
fn check_killed_while_starting(victim: usize) {
    let Some(bench) = bench() else { return };
    let _turn = turn();
    for step in 0..40 {
        let mut outer = Outer::start(&bench, User::Root);
        let due = Instant::now() + Duration::from_micros(500 * step);
        let id = outer.0.id();
        let stages = || family(id);
        while Instant::now() < due || stages().len() <= victim {
            assert!(due.elapsed() < GONE_MAX * 5, "no such stage: {:?}", stages());
        }
        kill(Pid::from_raw(stages()[victim].cast_signed()), Signal::SIGKILL).unwrap();
        assert!(
            comes(Instant::now() + DOCTOR_MAX, || outer.has_ended()),
            "step {step}: the outer still runs"
        );
        let deadline = Instant::now() + GONE_MAX;
        assert!(comes(deadline, || bench.stages().is_empty()), "step {step}: {:?}", bench.stages());
    }
}

#[test]
fn outer_killed_while_starting_leaves_nothing() {
    check_killed_while_starting(OUTER);
}

#[test]
fn middle_killed_while_starting_leaves_nothing() {
    check_killed_while_starting(MIDDLE);
}

#[test]
fn inner_killed_while_starting_leaves_nothing() {
    check_killed_while_starting(INNER);
}

#[test]
fn doctor_passes_as_root_and_as_nobody() {
    let Some(bench) = bench() else { return };
    for user in [User::Root, User::Nobody] {
        let output = bench.command(user, "doctor").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let works = |row: &&str| row.split_whitespace().nth(2) == Some("works");
        let rows: Vec<&str> =
            text.lines().filter(works).filter_map(|row| row.split_whitespace().nth(1)).collect();
        assert_eq!(rows[..6], ["process", "switch", "partition", "link", "pause", "kill"], "{text}");
        // Whatever it is, it was found out.
        assert_eq!(text.lines().filter(|row| row.starts_with("driver   qemu, ")).count(), 2, "{text}");
    }
}

/// Nodes that had no capability at all could not open their own settings there.
#[test]
fn root_runs_a_lab_in_a_closed_folder_of_somebody_else() {
    let Some(bench) = bench() else { return };
    let _turn = turn();
    let closed = bench.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let rest = "nodes: { count: 3 }\nworkload: { rate: 50/s }\nduration: 5s\nchecks: [linearizable]\n";
    let file = write_scenario(&closed, "quiet", rest);
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&closed, Some(65_534), Some(65_534)).unwrap();
    let words = format!("run {file} --driver process --seed 1 --quiet --out {}/run", closed.display());
    let output = bench.command(User::Root, &words).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// What a library has opened without the mark that closes it is not for others: the memory of a machine was.
#[test]
fn program_without_privileges_gets_no_descriptor_that_it_was_not_given() {
    let Some(bench) = bench() else { return };
    let script = format!(
        "exec 7</dev/null 9</dev/null; exec {} __unprivileged 7 /bin/ls /proc/self/fd",
        bench.lab.display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let open: Vec<&str> = text.split_whitespace().collect();
    assert!(open.contains(&"7") && !open.contains(&"9"), "{text}");
}

#[track_caller]
fn check_refused(script: &str, want: &str) {
    let Some(bench) = bench() else { return };
    let script = script.replace("LAB", &bench.lab.display().to_string());
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains(want), "{text}");
    assert!(comes(Instant::now() + GONE_MAX, || bench.stages().is_empty()));
}

const AS_NOBODY: &str = "exec setpriv --reuid 65534 --regid 65534 --clear-groups LAB doctor";

#[test]
fn closed_tun_device_is_refused_with_the_remedy() {
    let script = format!("mount -t tmpfs none /dev/net && mknod -m 600 /dev/net/tun c 10 200 && {AS_NOBODY}");
    check_refused(&script, "sudo chmod 0666 /dev/net/tun");
}

#[test]
fn missing_tun_device_is_refused_with_the_remedy() {
    check_refused("mount -t tmpfs none /dev/net && exec LAB doctor", "sudo modprobe tun");
}

#[test]
fn namespaces_that_the_host_forbids_are_refused_with_the_remedy() {
    // A user namespace in which no more may be made stands in for a host whose owner forbids them.
    let script = "exec unshare --user --map-root-user sh -c 'echo 0 > /proc/sys/user/max_net_namespaces; \
                  exec LAB doctor'";
    check_refused(script, "sudo sysctl -w user.max_net_namespaces=");
}
