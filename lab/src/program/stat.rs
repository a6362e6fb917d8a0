//! What the kernel says about a process.

use serde::{Deserialize, Serialize};

/// The part of `/proc/PID/stat` (proc(5)) that shows whether a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStat {
    /// Field 3: `R`unning, `S`leeping, s`T`opped, `Z`ombie and so on.
    pub state: char,
    /// Field 4: the parent's process id.
    pub parent: u32,
    /// Fields 14 and 15: processor time used so far, in clock ticks.
    pub cpu_ticks: u64,
    /// Field 20: its threads that have not ended.
    pub threads: u64,
}

impl ProcessStat {
    /// Reads it; `None` if there is no such process.
    pub fn read(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Reads that of one thread of a process; `None` if there is no such thread.
    pub fn read_thread(pid: u32, thread: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).ok()?)
    }

    /// The threads of a process whose names begin like this; none if there is no such process.
    pub fn threads_named(pid: u32, prefix: &str) -> Vec<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let is_named = |name: &str| name.starts_with(prefix);
        let named = tasks.filter(|task| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| is_named(&name))
        });
        named.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
    }

    /// The most memory that a process has had in use, in bytes (`VmHWM` of `/proc/PID/status`, proc(5)); `None` if there is no
    /// such process.
    pub fn peak_memory(pid: u32) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    }

    /// The children of a process, by `/proc/PID/task/PID/children` (proc(5)); none if there is no such process.
    pub fn children(pid: u32) -> Vec<u32> {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.unwrap_or_default().split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Whether the whole process has ended and holds no file or socket any more. Its first thread may be a zombie while others
    /// still do.
    pub fn has_ended(&self) -> bool {
        self.state == 'Z' && self.threads <= 1
    }

    fn parse(stat: &str) -> Option<Self> {
        // Field 2 is the program's name in brackets, which may itself hold brackets and spaces.
        let (_name, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: u32::try_from(number(4)?).ok()?,
            cpu_ticks: number(14)? + number(15)?,
            threads: number(20)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_name_with_brackets_is_read() {
        let line = "7 (a) b) T 3 7 7 0 -1 4194304 92 0 0 0 11 5 0 0 20 0 1 0 100 0 0";
        let want = ProcessStat { state: 'T', parent: 3, cpu_ticks: 16, threads: 1 };
        assert_eq!(ProcessStat::parse(line), Some(want));
        assert_eq!(ProcessStat::parse("7 (a) T 3"), None);
    }

    #[test]
    fn process_has_ended_with_the_last_of_its_threads() {
        let ended = |state, threads| ProcessStat { state, parent: 3, cpu_ticks: 16, threads }.has_ended();
        assert_eq!([ended('Z', 1), ended('Z', 2), ended('S', 1)], [true, false, false]);
    }

    #[test]
    fn peak_memory_is_that_of_a_process() {
        assert!(ProcessStat::peak_memory(std::process::id()).unwrap() > 1 << 20);
        assert_eq!(ProcessStat::peak_memory(u32::MAX), None);
    }

    #[test]
    fn threads_are_found_by_their_names() {
        let (sender, wait) = std::sync::mpsc::sync_channel::<()>(0);
        let thread = std::thread::Builder::new().name("vcpu7-test".to_owned());
        let thread = thread.spawn(move || wait.recv()).unwrap();
        let found = || ProcessStat::threads_named(std::process::id(), "vcpu7");
        // A thread gives itself its name once it runs.
        while found().is_empty() {
            std::thread::yield_now();
        }
        let [one] = found()[..] else { panic!("{:?}", found()) };
        assert!(ProcessStat::read_thread(std::process::id(), one).is_some());
        drop(sender);
        let _ended = thread.join();
    }
}
