//! The nodes of a plan as processes.

use std::path::Path;

use super::ProcessMachine;
use crate::cluster::pace::Pace;
use crate::machine::cluster::{MachineSpec, SetUpError};
use crate::machine::driver::NodeProgram;
use crate::machine::node_files::{tap_config, write_node_files};
use crate::plan::{Plan, PlannedNode};
use crate::program::{Program, ProgramLog};

/// One machine for each node of the plan.
pub(in crate::machine) fn machines(
    plan: &Plan,
    program: &NodeProgram,
    pace: Pace,
    directory: &Path,
    log: &ProgramLog,
) -> Result<Vec<MachineSpec>, SetUpError> {
    let machine = |node: &PlannedNode| -> Result<MachineSpec, SetUpError> {
        let PlannedNode { name, mac, ip, .. } = node;
        let home = directory.join("nodes").join(name);
        let config = write_node_files(plan, node, pace, &home)?;
        let tap = tap_config(plan, "eth0", *mac, *ip);
        let console = home.join("console.log");
        let (machine, port) =
            ProcessMachine::new(name, command(program, &config), console, log.clone(), &tap)?;
        Ok(MachineSpec { machine: Box::new(machine), port: Box::new(port) })
    };
    plan.nodes.iter().map(machine).collect()
}

fn command(program: &NodeProgram, config: &Path) -> Program {
    let base = match program {
        NodeProgram::Own => Program::new("/proc/self/exe").arg(crate::cli::NODE_PART),
        NodeProgram::Path(path) => Program::new(path),
    };
    let command = base.arg("--config").arg(config);
    // The lab's own ASPEN_ variables are meant for its nodes.
    std::env::vars_os()
        .filter(|(name, _)| name.to_string_lossy().starts_with("ASPEN_"))
        .fold(command, |command, (name, value)| command.env(name, value))
}
