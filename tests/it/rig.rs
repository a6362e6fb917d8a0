//! The host in a box: commands of the lab in a guest that QEMU emulates, where KVM runs none.

#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host;
use crate::lab::{LOOK_INTERVAL, Turn, processes_with_argument, topology, turn};

/// A guest that is emulated, on a host that fetches the kernel first.
const RIG_MAX: Duration = Duration::from_mins(5);
/// How long QEMU may take to give its memory back, on a busy host.
const GONE_MAX: Duration = Duration::from_secs(5);

/// What is tried in the guest. It ends with an exit code of its own.
const SCRIPT: &str = r#"
set -e
echo "a complete host"
echo "and its errors" >&2
ip link add br0 type bridge
ip link add v0 type veth peer name v1
ip link set v0 master br0 up
tc qdisc add dev v0 root handle 1: htb default 1
tc class add dev v0 parent 1: classid 1:1 htb rate 1gbit
tc qdisc add dev v0 parent 1:1 handle 10: netem delay 10ms loss 1%
tc filter add dev v0 parent 1: protocol all u32 match ether src 02:00:00:00:00:01 flowid 1:1
nft add table bridge lab
nft add set bridge lab cut '{ type ether_addr . ether_addr; }'
nft add chain bridge lab forward '{ type filter hook forward priority 0; }'
nft add rule bridge lab forward ether saddr . ether daddr @cut counter drop
test -c /dev/kvm
unshare --user --net true
mkdir -p made/deep
printf 'from the guest' > made/deep/file
truncate -s 1G made/sparse
printf 'of the guest' > mine
exit 7
"#;

/// The right to run a guest; none where this host has no QEMU.
fn rig() -> Option<Turn> {
    host::qemu()?;
    if host::program(&["mke2fs"]).is_none() {
        host::lacks("qemu", "mke2fs (apt-get install e2fsprogs)");
        return None;
    }
    Some(turn())
}

fn start(folder: &Path, words: &[&str]) -> Child {
    start_with(folder, words, &[])
}

/// The same, with more in its environment.
fn start_with(folder: &Path, words: &[&str], environment: &[(&str, &str)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_lab"))
        .envs(environment.iter().copied())
        .arg("rig")
        .args(words)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a command in a guest to its end, with this as its input.
fn run(folder: &Path, words: &[&str], input: &str) -> Output {
    run_within(folder, words, &[], input, RIG_MAX)
}

/// The same, with a limit and an environment of its own.
pub(crate) fn run_within(
    folder: &Path,
    words: &[&str],
    environment: &[(&str, &str)],
    input: &str,
    limit: Duration,
) -> Output {
    let mut child = start_with(folder, words, environment);
    let pid = child.id();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let (done, is_done) = std::sync::mpsc::sync_channel::<()>(0);
    let watch = thread::spawn(move || {
        if is_done.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    watch.join().unwrap();
    output
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where a lab with this process id has what it makes for its guest.
fn folder_of(pid: u32) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| Path::new(path).is_absolute());
    let cache =
        cache.map_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(".cache"), Into::into);
    cache.join(format!("aspen/rigs/rig-{pid}"))
}

/// The processes of QEMU that it has started.
fn guests_of(pid: u32) -> Vec<i32> {
    let console = folder_of(pid).join("console.log");
    processes_with_argument(&format!("file,id=console,path={}", console.display()))
}

/// Waits until the rig says that its guest is up.
fn await_up(child: &mut Child) {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let is_up = lines.any(|line| line.unwrap().contains(" up after "));
    assert!(is_up, "the guest does not come up");
    // What else it says goes nowhere.
    thread::spawn(move || lines.for_each(drop));
}

#[test]
fn doctor_finds_everything_in_a_guest() {
    let Some(_turn) = rig() else { return };
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), &["doctor"], "");
    let (table, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{table}{said}");
    for row in ["driver   process ", "fabric   switch ", "driver   qemu, KVM ", "driver   qemu, emulated "] {
        let line =
            table.lines().find(|line| line.starts_with(row)).unwrap_or_else(|| panic!("{row}: {table}"));
        assert!(line.contains(" works "), "{line}");
    }
    // The one thing that a guest has only where this host has it.
    let has_hypervisor = host::program(&["cloud-hypervisor"]).is_some();
    let is_excused = |line: &str| line.starts_with("driver   cloud-hypervisor ") && !has_hypervisor;
    let missing = table.lines().find(|line| line.contains(" no ") && !is_excused(line));
    assert_eq!(missing, None, "{table}");
    assert!(said.contains("rig: Linux ") && said.contains(" up after "), "{said}");
}

#[test]
fn script_in_a_guest_has_netem_bridges_nftables_and_kvm_and_what_it_makes_comes_out() {
    let Some(_turn) = rig() else { return };
    for program in ["nft", "tc"] {
        if host::program(&[program]).is_none() {
            host::lacks("qemu", "nft and tc (apt-get install nftables iproute2)");
            return;
        }
    }
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("mine"), "of this host").unwrap();
    let output = run(home.path(), &["shell"], SCRIPT);
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(7), "{said}{errors}");
    assert_eq!(said, "a complete host\n");
    assert!(errors.lines().any(|line| line == "and its errors"), "{errors}");
    let made = home.path().join("made");
    assert_eq!(fs::read_to_string(made.join("deep/file")).unwrap(), "from the guest");
    assert_eq!(fs::metadata(made.join("sparse")).unwrap().len(), 1 << 30);
    assert_eq!(fs::read_to_string(home.path().join("mine")).unwrap(), "of this host");
    assert!(errors.contains("/mine is here already, and stays as it is"), "{errors}");
}

#[test]
fn signal_reaches_the_command_and_killed_lab_leaves_no_guest() {
    let Some(_turn) = rig() else { return };
    let home = tempfile::tempdir().unwrap();
    let mut child = start(home.path(), &["shell"]);
    let script = "trap 'echo told > told; exit 5' INT\necho ready\nwhile true; do sleep 1; done\n";
    let mut input = child.stdin.take().unwrap();
    input.write_all(script.as_bytes()).unwrap();
    await_up(&mut child);
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!((line.as_str(), guests_of(child.id()).len()), ("ready\n", 1));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert_eq!(fs::read_to_string(home.path().join("told")).unwrap(), "told\n");
    assert!(guests_of(child.id()).is_empty());

    let mut child = start(home.path(), &["shell"]);
    await_up(&mut child);
    assert_eq!(guests_of(child.id()).len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + GONE_MAX;
    while !guests_of(child.id()).is_empty() {
        assert!(Instant::now() < deadline, "QEMU is left");
        thread::sleep(LOOK_INTERVAL);
    }
}

#[test]
fn rig_that_is_stopped_before_there_is_a_guest_says_so_and_leaves_nothing() {
    let Some(_turn) = rig() else { return };
    let home = tempfile::tempdir().unwrap();
    let mut child = start(home.path(), &["doctor"]);
    let folder = folder_of(child.id());
    let deadline = Instant::now() + RIG_MAX;
    while !folder.exists() {
        let is_over = child.try_wait().unwrap().is_some() || Instant::now() >= deadline;
        assert!(!is_over, "nothing is made for a guest");
        thread::sleep(Duration::from_millis(1));
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).ends_with("stopped, before the command came to its end\n"));
    assert!(!folder.exists());
}

#[test]
fn command_that_fails_in_a_guest_fails_here_and_finds_what_it_names() {
    let Some(_turn) = rig() else { return };
    let home = tempfile::tempdir().unwrap();
    let history = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/it/histories/stale-repeated.jsonl");
    fs::copy(history, home.path().join("history.jsonl")).unwrap();
    let output = run(home.path(), &["--cpus", "1", "verify", "history.jsonl"], "");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("FAIL     linearizable"), "{}", text(&output.stdout));
}

#[test]
fn what_is_wrong_is_told_before_a_guest_is_started() {
    let home = tempfile::tempdir().unwrap();
    let check = |words: &[&str], path: Option<&str>, code: i32, want: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.arg("rig").args(words).current_dir(home.path()).stdin(Stdio::null());
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(want), "{words:?}: {said}");
    };
    let nowhere = home.path().to_str().unwrap();
    check(&["doctor"], Some(nowhere), 3, "run `apt-get install qemu-system-x86`");
    check(&["run"], None, 64, "<FILE>");
    check(&["status"], None, 64, "no lab is up in a guest that has just started");
    check(&["up", "a.yaml"], None, 64, "`lab rig --with a.yaml shell`");
    check(&["doctor", "--cpus", "2"], None, 64, "comes before the command: lab rig --cpus");
    check(&["shell", "now"], None, 64, "the shell takes no arguments");
    check(&["--with", "nowhere", "shell"], None, 64, "cannot read");
    check(&["rig", "doctor"], None, 64, "a rig in a rig is not supported");
    check(&["--cpus", "0", "doctor"], None, 64, "--cpus");
    let file = topology("three-nodes");
    let run = ["run", file.to_str().unwrap(), "--driver", "process"];
    check(
        &[&run[..], &["--out", nowhere]].concat(),
        None,
        64,
        "exists: --out names a directory that the lab",
    );
    check(&[&run[..], &["--node-bin", nowhere]].concat(), None, 64, "is no file");
    if host::qemu().is_some() {
        check(&["--kernel", "nowhere", "doctor"], None, 64, "cannot read");
    }
}
