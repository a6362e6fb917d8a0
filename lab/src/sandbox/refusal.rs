//! What a host can forbid, and what its owner can do about it.

use std::fmt;
use std::fs;

use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};

/// What a stage was doing when the kernel said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// unshare(2).
    Namespaces,
    /// Writing `uid_map` and `gid_map` (`user_namespaces(7)`).
    IdMaps,
    /// A session of its own and the death signal.
    Process,
    /// Starting the next stage.
    NextStage,
    /// Making the mounts private.
    Mounts,
    /// A /proc of the new pid namespace.
    Proc,
    /// Setting the loopback interface up.
    Loopback,
    /// Letting capabilities go.
    Privileges,
    /// A network namespace inside the sandbox.
    MachineNamespace,
    /// A TAP by way of /dev/net/tun.
    Tap,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "make the lab's user, network, mount and pid namespaces",
            Self::IdMaps => "map the user into the lab's user namespace",
            Self::Process => "set up the sandbox's processes",
            Self::NextStage => "start PID 1 of the sandbox",
            Self::Mounts => "make the sandbox's mounts private",
            Self::Proc => "mount the sandbox's /proc",
            Self::Loopback => "set the sandbox's loopback interface up",
            Self::Privileges => "let go of the privileges that a lab does not need",
            Self::MachineNamespace => "make a machine's network namespace",
            Self::Tap => "make a network interface with /dev/net/tun",
        })
    }
}

/// A stage's no, on its way to the outer process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) step: Step,
    pub(super) errno: i32,
}

impl Refusal {
    pub(super) fn new(step: Step, error: &std::io::Error) -> Self {
        Self { step, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }

    pub(super) fn of(step: Step) -> impl Fn(Errno) -> Self {
        move |errno| Self { step, errno: errno as i32 }
    }
}

/// The first line that the outer process reads.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Greeting {
    Ready,
    Refused(Refusal),
}

/// The host's settings that decide about namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// The lab has `CAP_SYS_ADMIN` and `CAP_NET_ADMIN` and needs no user namespace.
    pub is_privileged: bool,
    /// Ubuntu since 23.10: an unprivileged user namespace has no capabilities.
    pub apparmor_restricts: bool,
    /// `user.max_user_namespaces`.
    pub user_namespaces_max: Option<u64>,
    /// Debian's `kernel.unprivileged_userns_clone`.
    pub unprivileged_clone: Option<u64>,
}

impl HostFacts {
    /// Reads them; what cannot be read is not known.
    pub fn read() -> Self {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let apparmor = number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
        Self {
            is_privileged: has_capabilities(),
            apparmor_restricts: apparmor.is_some_and(|value| value != 0),
            user_namespaces_max: number("/proc/sys/user/max_user_namespaces"),
            unprivileged_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
        }
    }
}

/// Whether the calling process may make namespaces and interfaces without a user namespace.
pub(super) fn has_capabilities() -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12; // linux/capability.h
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    effective & CAP_NET_ADMIN != 0 && effective & CAP_SYS_ADMIN != 0
}

/// What to do, as a sentence that holds a command.
pub(super) fn remedy(step: Step, errno: i32, facts: &HostFacts) -> String {
    let denied = errno == libc::EPERM || errno == libc::EACCES;
    let unprivileged = !facts.is_privileged;
    let text = match (step, errno) {
        (Step::Tap, libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "load the tun module with `sudo modprobe tun`, or start the container with `--device /dev/net/tun`"
        }
        (Step::Tap, libc::EACCES) => {
            "let users open the device with `sudo chmod 0666 /dev/net/tun`, or run lab as root"
        }
        _ if unprivileged && facts.user_namespaces_max == Some(0) => {
            "allow user namespaces with `sudo sysctl -w user.max_user_namespaces=10000`, or run lab as root"
        }
        _ if denied && unprivileged && facts.unprivileged_clone == Some(0) => {
            "allow user namespaces with `sudo sysctl -w kernel.unprivileged_userns_clone=1`, or run lab as root"
        }
        _ if denied && unprivileged && facts.apparmor_restricts => {
            "AppArmor restricts user namespaces: lift it with \
             `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run lab as root"
        }
        (_, libc::ENOSPC | libc::EUSERS) => {
            "the host's limit of namespaces is reached: look with `sysctl user`, and raise it, for instance \
             with `sudo sysctl -w user.max_net_namespaces=10000`"
        }
        (_, libc::EINVAL | libc::ENOSYS) => {
            "this kernel lacks namespaces: it needs CONFIG_USER_NS, CONFIG_NET_NS and CONFIG_PID_NS"
        }
        _ if denied => "run lab as root, or start the container with `--privileged`",
        _ => "run lab as root to see whether that helps, and report the line below if it does not",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(step: Step, errno: i32, facts: HostFacts, want: &str) {
        let text = remedy(step, errno, &facts);
        assert!(text.contains(want), "{text}");
    }

    #[test]
    fn every_known_refusal_has_its_command() {
        let user = HostFacts::default();
        let root = HostFacts { is_privileged: true, ..user };
        let ubuntu = HostFacts { apparmor_restricts: true, user_namespaces_max: Some(1000), ..user };
        check(
            Step::Loopback,
            libc::EPERM,
            ubuntu,
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        );
        check(Step::IdMaps, libc::EACCES, ubuntu, "apparmor_restrict_unprivileged_userns=0");
        let none = HostFacts { user_namespaces_max: Some(0), ..user };
        check(Step::Namespaces, libc::ENOSPC, none, "sysctl -w user.max_user_namespaces=");
        let debian = HostFacts { unprivileged_clone: Some(0), ..user };
        check(Step::Namespaces, libc::EPERM, debian, "sysctl -w kernel.unprivileged_userns_clone=1");
        check(Step::Namespaces, libc::EPERM, user, "--privileged");
        check(Step::Namespaces, libc::ENOSPC, root, "sysctl user");
        check(Step::Namespaces, libc::EINVAL, user, "CONFIG_USER_NS");
        check(Step::Tap, libc::ENOENT, root, "modprobe tun");
        check(Step::Tap, libc::EACCES, ubuntu, "sudo chmod 0666 /dev/net/tun");
        check(Step::Tap, libc::EPERM, ubuntu, "apparmor_restrict_unprivileged_userns=0");
    }

    #[test]
    fn greetings_survive_the_pipe() {
        let refused = Greeting::Refused(Refusal { step: Step::Tap, errno: 2 });
        let line = serde_json::to_string(&refused).unwrap();
        assert_eq!(line, r#"{"refused":{"step":"tap","errno":2}}"#);
        assert_eq!(serde_json::from_str::<Greeting>(&line).unwrap(), refused);
    }
}
