//! Which driver runs the nodes, and a cluster made by it, at the pace of its machines.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::calibration::CalibrationError;
use super::cluster::{MachineCluster, MachineSpec, SetUpError};
use super::qemu::nodes::QemuSettings;
use super::{Sabotage, calibration, process, qemu};
use crate::cluster::pace::Pace;
use crate::cluster::{Clock, Cluster, RealClock};
use crate::plan::Plan;
use crate::program::ProgramLog;
use crate::rig;

/// What runs the nodes, with what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    /// Processes in network namespaces.
    Process(NodeProgram),
    /// Virtual machines on QEMU.
    Qemu(QemuSettings),
}

/// What runs as a node's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeProgram {
    /// The lab's own program, in the part of a node: the versions cannot differ.
    Own,
    /// Another program.
    Path(PathBuf),
}

impl Driver {
    /// What a report calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Process(_) => "process".to_owned(),
            Self::Qemu(settings) => format!("qemu with {}", settings.accelerator.name()),
        }
    }
}

/// A cluster whose nodes are not started yet, and the clock that its times are told by.
#[derive(Debug, Clone)]
pub struct World {
    /// The cluster.
    pub cluster: Arc<dyn Cluster>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How much slower than planned it goes.
    pub pace: Pace,
}

/// Why there is no world.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The machines and their network.
    #[error(transparent)]
    SetUp(#[from] SetUpError),
    /// How fast they are.
    #[error("cannot find out how fast the machines are")]
    Calibration(#[from] CalibrationError),
}

/// Makes every machine's directory, configuration and network below the run directory. No node is started. Without a pace
/// virtual machines are measured first, and processes go at the pace of the plan, but for those in a rig. `tell` gets what a person may want to know.
///
/// # Errors
/// A file, interface or namespace that cannot be made, or machines of which nobody knows how fast they are.
pub async fn set_up(
    driver: &Driver,
    pace: Option<Pace>,
    plan: &Arc<Plan>,
    directory: &Path,
    sabotage: Option<Sabotage>,
    tell: &mut (dyn FnMut(String) + Send),
) -> Result<World, DriverError> {
    let log = ProgramLog::open(&directory.join("programs.log")).map_err(SetUpError::from)?;
    let (machines, pace) = match driver {
        Driver::Process(program) => {
            let make =
                |plan: &Plan, home: &Path| process::nodes::machines(plan, program, Pace::REAL, home, &log);
            let pace = match pace {
                Some(pace) => pace,
                // Where the whole host is emulated, processes are as slow as machines.
                None if rig::is_inside() => measured(plan, &make, directory, tell).await?,
                None => Pace::REAL,
            };
            (process::nodes::machines(plan, program, pace, directory, &log)?, pace)
        }
        Driver::Qemu(settings) => {
            let make =
                |plan: &Plan, home: &Path| qemu::nodes::machines(plan, settings, Pace::REAL, home, &log);
            let pace = match pace {
                Some(pace) => pace,
                None => measured(plan, &make, directory, tell).await?,
            };
            (qemu::nodes::machines(plan, settings, pace, directory, &log)?, pace)
        }
    };
    let cluster = MachineCluster::new(plan.clone(), machines, sabotage, pace)?;
    Ok(World { cluster: Arc::new(cluster), clock: Arc::new(RealClock::start(pace)), pace })
}

/// Makes the machines of a plan below a folder.
type Maker<'a> = dyn Fn(&Plan, &Path) -> Result<Vec<MachineSpec>, SetUpError> + Sync + 'a;

/// The pace that a machine of the trial allows.
async fn measured(
    plan: &Plan,
    make: &Maker<'_>,
    directory: &Path,
    tell: &mut (dyn FnMut(String) + Send),
) -> Result<Pace, DriverError> {
    let home = directory.join("trial");
    let trial = calibration::trial_plan(plan);
    let machines = make(&trial, &home)?;
    let cores_count = std::thread::available_parallelism().map_or(1, usize::from);
    let calibration = calibration::calibrate(plan, trial, machines, cores_count).await?;
    tell(calibration.to_string());
    // What it was measured with is of no more use; where it cannot be removed it stays.
    let _ = std::fs::remove_dir_all(&home);
    Ok(calibration.pace)
}
