//! The nodes of a plan as processes.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use super::{LossyDisk, ProcessMachine};
use crate::cluster::pace::Pace;
use crate::fabric::namespace::Namespace;
use crate::fabric::wiring::Wiring;
use crate::machine::Machine;
use crate::machine::cluster::SetUpError;
use crate::machine::driver::NodeProgram;
use crate::machine::networks::{self, Attachment};
use crate::machine::node_files::{DATA, write_node_files};
use crate::plan::{NodeIndex, Plan, Target};
use crate::program::{Program, ProgramLog};
use crate::target::etcd::{self, Member};

/// One machine for each node of the plan.
pub(in crate::machine) fn machines(
    plan: &Plan,
    program: &NodeProgram,
    pace: Pace,
    directory: &Path,
    log: &ProgramLog,
    wiring: &mut Wiring,
) -> Result<Vec<Box<dyn Machine>>, SetUpError> {
    let machine = |index: NodeIndex| -> Result<Box<dyn Machine>, SetUpError> {
        let node = &plan.nodes[index.position()];
        let name = &node.name;
        let home = directory.join("nodes").join(name);
        let disk = plan.cuts_power().then(|| LossyDisk::new(&home.join(DATA))).transpose()?;
        let command = match plan.target {
            Target::Aspen => command(program, &write_node_files(plan, node, pace, &home)?),
            Target::Etcd => etcd_command(plan, program, pace, index, &home.join(DATA))?,
        };
        let namespace = Namespace::create()?;
        for Attachment { port, interface } in networks::of_node(plan, index) {
            wiring.connect(port, &namespace, &interface)?;
        }
        let console = home.join("console.log");
        let machine = ProcessMachine::new(name, namespace, command.unprivileged(), console, log.clone())?;
        Ok(Box::new(machine.with_disk(disk)))
    };
    plan.node_indexes().map(machine).collect()
}

fn etcd_command(
    plan: &Plan,
    program: &NodeProgram,
    pace: Pace,
    index: NodeIndex,
    data: &Path,
) -> Result<Program, SetUpError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.map_err(|source| SetUpError::Io { path: data.to_owned(), source })?;
    let members: Vec<Member> = plan
        .nodes
        .iter()
        .map(|node| Member {
            name: node.name.clone(),
            peer: node.raft_address(),
            client: node.http_address(),
        })
        .collect();
    let program = match program {
        NodeProgram::Own => unreachable!("the choice of the driver has found its path"),
        NodeProgram::Path(path) => Program::new(path),
    };
    let program = etcd::command(program, &members, index.position(), data);
    let real = |planned_ms| pace.to_real(Duration::from_millis(planned_ms));
    Ok(etcd::timed(program, real(plan.raft.heartbeat_ms), real(plan.raft.election_ms_min)))
}

fn command(program: &NodeProgram, config: &Path) -> Program {
    let base = match program {
        NodeProgram::Own => Program::new("/proc/self/exe").arg(crate::cli::NODE_PART),
        NodeProgram::Path(path) => Program::new(path),
    };
    let command = base.arg("--config").arg(config);
    // What a node is made to do wrong. Its settings are those of the plan, whatever else this user has in the environment.
    let wrongs = [aspen_node::plant::VARIABLE, aspen_node::failpoint::VARIABLE];
    std::env::vars_os()
        .filter(|(name, _)| wrongs.iter().any(|wrong| *name == **wrong))
        .fold(command, |command, (name, value)| command.env(name, value))
}
