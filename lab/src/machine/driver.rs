//! Which driver runs the nodes, and a cluster made by it, at the pace of its machines.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::calibration::{Calibration, CalibrationError};
use super::cloud_hypervisor::arguments::CLOUD_HYPERVISOR;
use super::cloud_hypervisor::nodes::CloudHypervisorSettings;
use super::cluster::{MachineCluster, SetUpError, real_rule};
use super::qemu::nodes::QemuSettings;
use super::simulation::SimulatedCluster;
use super::{Machine, Sabotage, calibration, cloud_hypervisor, networks, process, qemu};
use crate::causes::lacks_room;
use crate::cluster::pace::Pace;
use crate::cluster::{Clock, Cluster, RealClock};
use crate::fabric::kernel::PortKind;
use crate::fabric::wiring::Wiring;
use crate::fabric::{FabricError, FabricKind};
use crate::limits::machines::PROCESSES_PER_CORE_MAX;
use crate::link::LinkRule;
use crate::plan::{FaultAction, Plan, Target};
use crate::program::ProgramLog;
use crate::rig;

/// What runs the nodes, with what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    /// Processes in network namespaces.
    Process(NodeProgram),
    /// Virtual machines on QEMU.
    Qemu(QemuSettings),
    /// Virtual machines on Cloud Hypervisor.
    CloudHypervisor(CloudHypervisorSettings),
    /// Nodes in the lab's own process, on virtual time.
    Simulation,
}

/// What the simulation is called.
pub const SIMULATION: &str = "sim";

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
            Self::CloudHypervisor(_) => CLOUD_HYPERVISOR.to_owned(),
            Self::Simulation => SIMULATION.to_owned(),
        }
    }

    /// Whether every node has a machine of its own.
    pub fn has_machines(&self) -> bool {
        match self {
            Self::Process(_) | Self::Simulation => false,
            Self::Qemu(_) | Self::CloudHypervisor(_) => true,
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
    /// What was measured of a host that is too slow for the plan at any pace.
    pub shortage: Option<String>,
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

impl DriverError {
    /// Whether this host cannot do what is asked of it, as opposed to something having failed.
    pub fn is_refused(&self) -> bool {
        match self {
            error if lacks_room(error) => true,
            Self::SetUp(SetUpError::Fabric(FabricError::Kernel(error))) => error.is_refused(),
            Self::SetUp(SetUpError::Volume(_) | SetUpError::Fabric(FabricError::Uncounted(_))) => true,
            _ => false,
        }
    }
}

/// Makes every machine's directory, configuration and network below the run directory. No node is started. Without a pace
/// virtual machines are measured first, and so are processes where they are many; few go at the pace of the plan. `tell` gets what a person may want to know.
///
/// # Errors
/// A file, interface or namespace that cannot be made, or machines of which nobody knows how fast they are.
pub async fn set_up(
    driver: &Driver,
    fabric: FabricKind,
    pace: Option<Pace>,
    plan: &Arc<Plan>,
    directory: &Path,
    sabotage: Option<Sabotage>,
    tell: &mut (dyn FnMut(String) + Send),
) -> Result<World, DriverError> {
    if *driver == Driver::Simulation {
        let cluster = Arc::new(SimulatedCluster::new(plan.clone(), directory, sabotage)?);
        let clock = Arc::new(RealClock::start(Pace::REAL));
        return Ok(World { cluster, clock, pace: Pace::REAL, shortage: None });
    }
    let can_have_faults = driver.has_machines() || plan.needs_machines().is_none();
    assert!(can_have_faults, "whoever chooses a driver looks at the faults");
    let log = ProgramLog::open(&directory.join("programs.log")).map_err(SetUpError::from)?;
    // First of all: what this host cannot have is told before anything is measured.
    let mut wiring = wiring(driver, fabric, plan, sabotage, &log)?;
    let asked = rules(plan, Pace::REAL);
    check_receipts(fabric, &asked).map_err(SetUpError::from)?;
    wiring.require(asked).map_err(SetUpError::from)?;
    let (pace, shortage) = match (driver, pace) {
        (_, Some(pace)) => (pace, None),
        // Where the whole host is emulated, processes are as slow as machines, and where many share a core, slower than planned.
        (Driver::Process(_), None)
            if !rig::is_inside() && plan.nodes.len() <= PROCESSES_PER_CORE_MAX * cores_count() =>
        {
            (Pace::REAL, None)
        }
        (_, None) => {
            let calibration = measured(plan, driver, directory, &log, tell).await?;
            (calibration.pace, calibration.is_too_slow.then(|| calibration.to_string()))
        }
    };
    wiring.require(rules(plan, pace)).map_err(SetUpError::from)?;
    let machines = machines(driver, pace, plan, directory, &log, &mut wiring)?;
    let cluster = MachineCluster::new(plan.clone(), machines, wiring, sabotage, pace)?;
    Ok(World { cluster: Arc::new(cluster), clock: Arc::new(RealClock::start(pace)), pace, shortage })
}

fn cores_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The fabric, to which nothing is connected yet.
fn wiring(
    driver: &Driver,
    fabric: FabricKind,
    plan: &Plan,
    sabotage: Option<Sabotage>,
    log: &ProgramLog,
) -> Result<Wiring, SetUpError> {
    let kind = match driver {
        Driver::Process(_) | Driver::Simulation => PortKind::Veth,
        Driver::Qemu(_) | Driver::CloudHypervisor(_) => PortKind::Tap,
    };
    let sabotage = match sabotage {
        Some(Sabotage::Fabric(sabotage)) => Some(sabotage),
        Some(
            Sabotage::IgnorePauses
            | Sabotage::IgnoreKills
            | Sabotage::IgnorePowerCuts
            | Sabotage::IgnoreSuspends
            | Sabotage::IgnoreRollbacks
            | Sabotage::IgnoreClocks,
        )
        | None => None,
    };
    Ok(Wiring::begin(fabric, plan.seed, sabotage, &networks::network_ports(plan, kind), log)?)
}

/// Whether all of this leaves receipts: a fault that leaves none is none.
fn check_receipts(fabric: FabricKind, rules: &[LinkRule]) -> Result<(), FabricError> {
    let is_uncounted = fabric == FabricKind::Kernel && rules.iter().any(|rule| rule.corrupt_per_million > 0);
    if is_uncounted { Err(FabricError::Uncounted("corrupt")) } else { Ok(()) }
}

/// Everything that the plan does to links, as the wall sees it.
fn rules(plan: &Plan, pace: Pace) -> Vec<LinkRule> {
    let standing = plan.links.iter().map(|link| link.effect);
    let struck = plan.steps.iter().filter_map(|step| match &step.action {
        FaultAction::Link { effect, .. } => Some(*effect),
        _ => None,
    });
    standing.chain(struck).map(|effect| real_rule(effect.rule(), pace)).collect()
}

/// One machine for each node of the plan.
fn machines(
    driver: &Driver,
    pace: Pace,
    plan: &Plan,
    directory: &Path,
    log: &ProgramLog,
    wiring: &mut Wiring,
) -> Result<Vec<Box<dyn Machine>>, SetUpError> {
    match driver {
        Driver::Process(program) => process::nodes::machines(plan, program, pace, directory, log, wiring),
        Driver::Qemu(settings) => qemu::nodes::machines(plan, settings, pace, directory, log, wiring),
        Driver::CloudHypervisor(settings) => {
            cloud_hypervisor::nodes::machines(plan, settings, pace, directory, log, wiring)
        }
        Driver::Simulation => unreachable!("it has no machines"),
    }
}

/// What a machine of the trial can do, and the pace that allows.
async fn measured(
    plan: &Plan,
    driver: &Driver,
    directory: &Path,
    log: &ProgramLog,
    tell: &mut (dyn FnMut(String) + Send),
) -> Result<Calibration, DriverError> {
    let home = directory.join("trial");
    let trial = calibration::trial_plan(plan);
    let own = Driver::Process(NodeProgram::Own);
    let driver = if plan.target == Target::Etcd { &own } else { driver };
    // How fast a machine is does not depend on the fabric, and the switch needs nothing of the host.
    let mut wiring = wiring(driver, FabricKind::Switch, &trial, None, log)?;
    let machines = machines(driver, Pace::REAL, &trial, &home, log, &mut wiring)?;
    let calibration = calibration::calibrate(plan, trial, machines, wiring, cores_count()).await?;
    tell(calibration.to_string());
    // What it was measured with is of no more use; where it cannot be removed it stays.
    let _ = std::fs::remove_dir_all(&home);
    Ok(calibration)
}
