//! How much memory this host has to spare, and whether a cluster of virtual machines fits into it.

use std::fs;

use crate::plan::Plan;

/// Machines that do not fit.
#[derive(Debug, thiserror::Error)]
#[error(
    "{machines_count} machines of this scenario have {wanted_mib} MiB of memory together, and this host has {free_mib} MiB to \
     spare: give `nodes` fewer, or less `memory`"
)]
pub struct Overcommitted {
    machines_count: usize,
    wanted_mib: u64,
    free_mib: u64,
}

/// Whether the memory of all machines fits, without what their hypervisors need themselves.
///
/// # Errors
/// It does not: some of them would be killed in the middle of a run, for a reason that nobody sees.
pub fn check(plan: &Plan) -> Result<(), Overcommitted> {
    match available_mib() {
        Some(free_mib) => fits(plan, free_mib),
        // A kernel that does not say is taken at its word later.
        None => Ok(()),
    }
}

fn fits(plan: &Plan, free_mib: u64) -> Result<(), Overcommitted> {
    let wanted_mib = plan.nodes.iter().map(|node| u64::from(node.memory_mib)).sum();
    if wanted_mib <= free_mib {
        return Ok(());
    }
    Err(Overcommitted { machines_count: plan.nodes.len(), wanted_mib, free_mib })
}

/// What the kernel can give without swapping, in MiB (`MemAvailable` of `proc_meminfo(5)`); nothing where it does not say.
pub fn available_mib() -> Option<u64> {
    parse(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn memory_to_spare_is_what_the_kernel_says() {
        assert_eq!(parse("MemTotal: 1 kB\nMemAvailable:   20971520 kB\n"), Some(20_480));
        assert_eq!(parse("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn machines_that_do_not_fit_are_refused_with_what_to_do() {
        let text = "name: a\nabout: A test.\nnodes: { count: 9, memory: 1GiB }\nchecks: [raft]\n";
        let plan = Plan::new(&Scenario::parse("a.yaml", text).unwrap(), 1);
        assert!(fits(&plan, 9 << 10).is_ok());
        assert_eq!(
            fits(&plan, 8_000).unwrap_err().to_string(),
            "9 machines of this scenario have 9216 MiB of memory together, and this host has 8000 MiB to spare: give `nodes` \
             fewer, or less `memory`"
        );
    }
}
