//! Which driver runs the nodes, and a cluster made by it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Sabotage;
use super::cluster::{MachineCluster, SetUpError};
use super::process::nodes;
use crate::cluster::{Clock, Cluster, RealClock};
use crate::plan::Plan;
use crate::program::ProgramLog;

/// What runs the nodes, with what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// Processes in network namespaces.
    Process(NodeProgram),
}

/// What runs as a node's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeProgram {
    /// The lab's own program, in the part of a node: the versions cannot differ.
    Own,
    /// Another program.
    Path(PathBuf),
}

/// A cluster whose nodes are not started yet, and the clock that its times are told by.
#[derive(Debug, Clone)]
pub struct World {
    /// The cluster.
    pub cluster: Arc<dyn Cluster>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// Makes every machine's directory, configuration and network below the run directory. No node is started.
///
/// # Errors
/// A file, interface or namespace that cannot be made.
pub fn set_up(
    driver: &Driver,
    plan: &Arc<Plan>,
    directory: &Path,
    sabotage: Option<Sabotage>,
) -> Result<World, SetUpError> {
    let log = ProgramLog::open(&directory.join("programs.log"))?;
    let machines = match driver {
        Driver::Process(program) => nodes::machines(plan, program, directory, &log)?,
    };
    let cluster = MachineCluster::new(plan.clone(), machines, sabotage)?;
    Ok(World { cluster: Arc::new(cluster), clock: Arc::new(RealClock::start()) })
}
