//! Labs of one test: commands to them, and what is left of them.

#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;

use super::wait_max;
use crate::lab::processes_with_argument;

/// What a command has said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// A place for labs whose control sockets are found by nobody else.
pub(super) struct Home<'a>(pub(super) &'a Path);

impl Home<'_> {
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.args(words).env("XDG_RUNTIME_DIR", self.0).stdin(Stdio::null());
        command
    }

    pub(super) fn lab(&self, words: &[&str]) -> Said {
        let output = self.command(words).output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        Said { code: output.status.code(), stdout, stderr }
    }

    #[track_caller]
    pub(super) fn done(&self, words: &[&str]) -> String {
        let said = self.lab(words);
        assert_eq!(said.code, Some(0), "{words:?}: {said:?}");
        said.stdout
    }

    #[track_caller]
    pub(super) fn fails(&self, words: &[&str], code: i32, text: &str) {
        let said = self.lab(words);
        assert_eq!((said.code, said.stderr.as_str()), (Some(code), text), "{words:?}: {said:?}");
    }

    #[track_caller]
    pub(super) fn status(&self) -> Json {
        serde_json::from_str(&self.done(&["status", "--json"])).unwrap()
    }

    /// Waits until the status is as it should be.
    #[track_caller]
    pub(super) fn await_status(&self, what: &str, is_so: impl Fn(&Json) -> bool) -> Json {
        let began = Instant::now();
        loop {
            let status = self.status();
            if is_so(&status) {
                return status;
            }
            let waited = began.elapsed();
            assert!(waited < wait_max(&status), "not within {waited:?}: {what}: {status:#}");
        }
    }

    pub(super) fn out(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// What is left where control sockets are.
    pub(super) fn sockets(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("aspen")).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        // Nothing is up any more, unless the test has failed.
        for name in ["a", "b"] {
            let _ = self.command(&["down", "--lab", name]).output();
        }
    }
}

/// As many ports in a row as a cluster needs, free a moment ago.
pub(super) fn free_ports(count: u16) -> u16 {
    // Below those that the kernel gives to whoever connects: there a port could be taken again by anybody at any time.
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let below: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    // Two test programs do not look at the same ones first.
    let start = u16::try_from(std::process::id() % 10_000).unwrap() + 10_000;
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let firsts = (start..below).chain(10_000..start).step_by(usize::from(count));
    firsts.into_iter().find(|first| (*first..first + count).all(is_free)).expect("some ports are free")
}

/// The processes of a lab: its directory is named in the order, in quotes, and in the nodes' own arguments.
pub(super) fn processes(directory: &str) -> Vec<i32> {
    let arguments = [directory.to_owned(), format!("{{\"directory\":\"{directory}\"")];
    arguments.iter().flat_map(|argument| processes_with_argument(argument)).collect()
}

/// Waits until nothing of a lab is there any more.
#[track_caller]
pub(super) fn await_nothing(directory: &str) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !processes(directory).is_empty() {
        assert!(Instant::now() < deadline, "processes {:?} are left", processes(directory));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A lab in the foreground.
pub(super) struct Foreground(pub(super) Child);

impl Foreground {
    #[track_caller]
    pub(super) fn start(home: &Home<'_>, words: &[&str]) -> Self {
        let mut child = home.command(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let lab = Self(child);
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !String::from_utf8_lossy(&seen).contains("Ctrl-C ends it") {
            assert_eq!(
                stdout.read(&mut byte).unwrap(),
                1,
                "it has ended: {}",
                String::from_utf8_lossy(&seen)
            );
            seen.push(byte[0]);
        }
        lab
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // It has ended already, unless the test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
