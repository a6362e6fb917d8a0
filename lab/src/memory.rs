//! How much memory this host has to spare, and whether a cluster of virtual machines fits into it.

use std::fs;
use std::path::Path;

use crate::plan::Plan;

/// Machines that do not fit.
#[derive(Debug, thiserror::Error)]
#[error(
    "{machines_count} machines of this scenario need {wanted_mib} MiB of memory together, each with {each_mib} MiB for its \
     hypervisor, and {free} to spare: give `nodes` fewer, or less `memory`"
)]
pub struct Overcommitted {
    machines_count: usize,
    wanted_mib: u64,
    each_mib: u64,
    free: Free,
}

/// What there is to spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// In MiB.
    pub mib: u64,
    /// Whether a control group of the lab's allows less than the host has.
    pub is_of_group: bool,
}

impl std::fmt::Display for Free {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who = if self.is_of_group { "the control group that the lab is in" } else { "this host" };
        write!(f, "{who} has {} MiB", self.mib)
    }
}

/// Whether the memory of all machines fits, with what each hypervisor needs for itself.
///
/// # Errors
/// It does not: some of them would be killed in the middle of a run, for a reason that nobody sees.
pub fn check(plan: &Plan, hypervisor_mib: u32) -> Result<(), Overcommitted> {
    match free() {
        Some(free) => fits(plan, hypervisor_mib, free),
        // A kernel that does not say is taken at its word later.
        None => Ok(()),
    }
}

fn fits(plan: &Plan, hypervisor_mib: u32, free: Free) -> Result<(), Overcommitted> {
    let each_mib = u64::from(hypervisor_mib);
    let wanted_mib = plan.nodes.iter().map(|node| u64::from(node.memory_mib) + each_mib).sum();
    if wanted_mib <= free.mib {
        return Ok(());
    }
    Err(Overcommitted { machines_count: plan.nodes.len(), wanted_mib, each_mib, free })
}

/// What the kernel can give to the lab without swapping; nothing where it does not say.
pub fn free() -> Option<Free> {
    let host = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_mib(&text))?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = VERSIONS.iter().filter_map(|version| version.room_mib(Path::new("/"), &groups)).min();
    Some(least(host, group))
}

fn least(host_mib: u64, group_mib: Option<u64>) -> Free {
    let is_of_group = group_mib.is_some_and(|mib| mib < host_mib);
    Free { mib: group_mib.unwrap_or(host_mib).min(host_mib), is_of_group }
}

/// `MemAvailable` of `proc_meminfo(5)`.
fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib >> 10)
}

/// Where control groups say how much memory they may have (`cgroups(7)`).
struct Version {
    /// What has the process's group in `/proc/self/cgroup`.
    controller: &'static str,
    root: &'static str,
    /// Where more is refused, or held up.
    limits: &'static [&'static str],
    used: &'static str,
    /// What of that could be dropped, in `memory.stat`.
    droppable: &'static str,
}

/// "Memory Interface Files" of the kernel's cgroup-v2, and its cgroup-v1/memory.
const VERSIONS: [Version; 2] = [
    Version {
        controller: "",
        root: "sys/fs/cgroup",
        limits: &["memory.max", "memory.high"],
        used: "memory.current",
        droppable: "inactive_file ",
    },
    Version {
        controller: "memory",
        root: "sys/fs/cgroup/memory",
        limits: &["memory.limit_in_bytes"],
        used: "memory.usage_in_bytes",
        droppable: "total_inactive_file ",
    },
];

impl Version {
    /// What the process's group and those above it allow beyond what they have, in MiB; nothing where none has a limit. `groups`
    /// is what `/proc/self/cgroup` says, `root` where the file system begins.
    fn room_mib(&self, root: &Path, groups: &str) -> Option<u64> {
        let name = groups.lines().find_map(|line| {
            let (controllers, name) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|name| name == self.controller).then(|| name.strip_prefix('/'))?
        })?;
        let groups = Path::new(name).ancestors().map(|group| root.join(self.root).join(group));
        groups.filter_map(|group| self.room_bytes(&group)).min().map(|bytes| bytes >> 20)
    }

    /// The same of one group, in bytes.
    fn room_bytes(&self, group: &Path) -> Option<u64> {
        let read = |file: &str| fs::read_to_string(group.join(file)).ok();
        // `max` is no number.
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        let max = self.limits.iter().filter_map(|file| number(file)).min()?;
        let used = number(self.used)?;
        let stat = read("memory.stat").unwrap_or_default();
        let droppable = stat.lines().find_map(|line| line.strip_prefix(self.droppable)?.parse().ok());
        Some(max.saturating_sub(used.saturating_sub(droppable.unwrap_or(0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn memory_to_spare_is_what_the_kernel_says() {
        assert_eq!(available_mib("MemTotal: 1 kB\nMemAvailable:   20971520 kB\n"), Some(20_480));
        assert_eq!(available_mib("MemTotal: 1 kB\n"), None);
    }

    /// A host of 64 GiB whose container has 8 said that 9 machines of 1 GiB fit.
    #[test]
    fn least_room_of_the_control_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |group: &str, files: &[(&str, &str)]| {
            let folder = root.path().join("sys/fs/cgroup").join(group);
            fs::create_dir_all(&folder).unwrap();
            for (file, text) in files {
                fs::write(folder.join(file), text).unwrap();
            }
        };
        let second = |max, used, stat| [("memory.max", max), ("memory.current", used), ("memory.stat", stat)];
        let [unified, memory] = VERSIONS;
        let groups = "4:cpu,memory:/docker/c\n1:name=systemd:/x\n0::/a/b\n";
        write("a/b", &second("max\n", "1048576\n", "anon 5\ninactive_file 0\n"));
        assert_eq!(unified.room_mib(root.path(), groups), None, "no group has a limit");
        write("a", &second("104857600\n", "62914560\n", "anon 5\ninactive_file 10485760\n"));
        assert_eq!(unified.room_mib(root.path(), groups), Some(50));
        // Where more is held up and not refused.
        write("a", &[("memory.high", "73400320\n")]);
        assert_eq!(unified.room_mib(root.path(), groups), Some(20));
        write("a/b", &second("1048576\n", "4194304\n", ""));
        assert_eq!(unified.room_mib(root.path(), groups), Some(0), "one that has more than it may");
        assert_eq!(memory.room_mib(root.path(), groups), None);
        let first = [
            ("memory.limit_in_bytes", "104857600\n"),
            ("memory.usage_in_bytes", "41943040\n"),
            ("memory.stat", "inactive_file 0\ntotal_inactive_file 10485760\n"),
        ];
        write("memory/docker", &first);
        assert_eq!(memory.room_mib(root.path(), groups), Some(70));
        assert_eq!(memory.room_mib(root.path(), "0::/a\n"), None);
        assert_eq!(least(64, Some(50)), Free { mib: 50, is_of_group: true });
        assert_eq!(least(64, Some(80)), Free { mib: 64, is_of_group: false });
    }

    #[test]
    fn machines_that_do_not_fit_are_refused_with_what_to_do() {
        let text = "name: a\nabout: A test.\nnodes: { count: 9, memory: 1GiB }\nchecks: [raft]\n";
        let plan = Plan::new(&Scenario::parse("a.yaml", text).unwrap(), 1);
        assert!(fits(&plan, 0, least(9 << 10, None)).is_ok());
        let check = |group, who: &str| {
            let want = format!(
                "9 machines of this scenario need 9666 MiB of memory together, each with 50 MiB for its hypervisor, and {who} has \
                 9300 MiB to spare: give `nodes` fewer, or less `memory`"
            );
            let host = if group { 64 << 10 } else { 9_300 };
            let error = fits(&plan, 50, least(host, group.then_some(9_300))).unwrap_err();
            assert_eq!(error.to_string(), want);
        };
        check(false, "this host");
        check(true, "the control group that the lab is in");
    }
}
