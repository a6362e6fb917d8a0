//! By how much time has to be stretched so that these machines can do what the plan asks of them.
//!
//! One machine with a cluster of its own is asked for as much as it can do. It is the real appliance with its real node: what
//! it can do counts its processor, its disk and its way to the lab.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;

use super::Machine;
use super::cluster::{MachineCluster, SetUpError};
use crate::cluster::pace::Pace;
use crate::cluster::{Channel, Cluster, ClusterError, Request};
use crate::fabric::wiring::Wiring;
use crate::history::Op;
use crate::limits::machines::{
    CALIBRATION_BOOT_MAX, CALIBRATION_CLIENTS, CALIBRATION_TIME, PLANNED_BOOT_MAX, SLOWDOWN_MAX,
    UTILIZATION_PERCENT_MAX,
};
use crate::limits::{CLIENT_TIMEOUT, LOOK_INTERVAL, OBSERVE_TIMEOUT};
use crate::plan::{NodeIndex, Plan, Reads, Target};
use crate::target::aspen;

/// Why nobody knows what the machines can do.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// The trial machine cannot be made.
    #[error("cannot set the trial machine up")]
    SetUp(#[from] Box<SetUpError>),
    /// It cannot be started.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// It does not serve.
    #[error("the trial machine does not serve within {} s; the end of its console:\n{console_end}", CALIBRATION_BOOT_MAX.as_secs())]
    Silent {
        /// The last that it printed.
        console_end: String,
    },
    /// It ends instead.
    #[error("the trial machine ended before it served; the end of its console:\n{console_end}")]
    Died {
        /// The last that it printed.
        console_end: String,
    },
}

/// What was measured, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    /// Operations that one machine answers in a second, while no other runs.
    pub operations_per_s: f64,
    /// Operations that the plan asks for in a second.
    pub wanted_per_s: f64,
    /// How long the machine took from its start to its node's first answer, while no other ran.
    pub boot: Duration,
    /// The pace at which the machines have time for that.
    pub pace: Pace,
    /// Whether they would need more than that: who is late then may be so for that alone.
    pub is_too_slow: bool,
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations_per_s, wanted_per_s, boot, pace, .. } = self;
        write!(
            f,
            "{pace}: one node boots in {:.1} s and does {operations_per_s:.0} operations a second, {wanted_per_s:.0} are planned",
            boot.as_secs_f64(),
        )?;
        if self.is_too_slow {
            write!(
                f,
                "; that is less than needed at the largest slowdown, {SLOWDOWN_MAX}, and who is late then may be so for that alone"
            )?;
        }
        Ok(())
    }
}

/// The plan of the trial: the first node alone.
pub(super) fn trial_plan(plan: &Plan) -> Plan {
    let mut trial = plan.clone();
    trial.nodes.truncate(1);
    trial.links.clear();
    trial.client_networks.clear();
    trial.nodes[0].client_ip = None;
    // It is this host that is measured, not what runs on it.
    trial.target = Target::Aspen;
    trial
}

/// Starts the trial machine, asks as much of it as it can do, and ends it.
pub(super) async fn calibrate(
    plan: &Plan,
    trial: Plan,
    machines: Vec<Box<dyn Machine>>,
    wiring: Wiring,
    cores_count: usize,
) -> Result<Calibration, CalibrationError> {
    let cluster = MachineCluster::new(Arc::new(trial), machines, wiring, None, Pace::REAL);
    let cluster = cluster.map_err(Box::new)?;
    let node = NodeIndex(0);
    cluster.start(node).await?;
    let started = Instant::now();
    let deadline = started + CALIBRATION_BOOT_MAX;
    await_ok(&cluster, &Request::get("/raft/state"), deadline).await?;
    let boot = started.elapsed();
    // Once: a second one is refused, whatever has become of the first.
    let init = Request::post("/cluster/init", &json!({}));
    let left = deadline.saturating_duration_since(Instant::now());
    let answer = cluster.channel(node).request(init, left).await;
    if !answer.is_ok_and(|answer| answer.status == 200) {
        return Err(CalibrationError::Silent { console_end: cluster.console_end(node) });
    }
    await_ok(&cluster, &Request::get("/health"), deadline).await?;
    let began = Instant::now();
    let clients = (0..CALIBRATION_CLIENTS).map(|client| count_answers(cluster.channel(node), client, began));
    let answered: u32 = join_all(clients).await.into_iter().sum();
    let operations_per_s = f64::from(answered) / began.elapsed().as_secs_f64();
    cluster.kill(node).await?;
    Ok(conclude(plan, operations_per_s, boot, cores_count))
}

/// What the plan needs of machines that do so much, on a host with so many cores.
fn conclude(plan: &Plan, operations_per_s: f64, boot: Duration, cores_count: usize) -> Calibration {
    let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let nodes_count = count(plan.nodes.len());
    let workload = &plan.workload;
    let wanted_per_s = f64::from(workload.rate_per_s)
        + f64::from(workload.reader_rate_per_s) * count(workload.readers.len());
    // Every node has a part in every operation; the host's cores are shared by all of them, and a machine has one.
    let machines_at_once = count(cores_count).min(nodes_count);
    let possible_per_s = operations_per_s * machines_at_once / nodes_count;
    let usable_per_s = possible_per_s * f64::from(UTILIZATION_PERCENT_MAX) / 100.0;
    let for_load = if usable_per_s > 0.0 { wanted_per_s / usable_per_s } else { f64::INFINITY };
    // A scenario takes a restart for a matter of moments, and does not know how long a machine takes to boot, beside others
    // that serve meanwhile.
    let for_boots = boot.as_secs_f64() * nodes_count / machines_at_once / PLANNED_BOOT_MAX.as_secs_f64();
    let factor = for_load.max(for_boots);
    let pace = Pace::slower(factor);
    Calibration { operations_per_s, wanted_per_s, boot, pace, is_too_slow: factor > pace.factor() + 0.01 }
}

async fn await_ok(
    cluster: &MachineCluster,
    request: &Request,
    deadline: Instant,
) -> Result<(), CalibrationError> {
    let node = NodeIndex(0);
    let mut channel = cluster.channel(node);
    loop {
        let answer = channel.request(request.clone(), OBSERVE_TIMEOUT).await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        let console_end = || cluster.console_end(node);
        if !cluster.deaths().is_empty() {
            return Err(CalibrationError::Died { console_end: console_end() });
        }
        if Instant::now() >= deadline {
            return Err(CalibrationError::Silent { console_end: console_end() });
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// One client's operations, one after the other, half of them writes.
async fn count_answers(mut channel: Box<dyn Channel>, client: u32, began: Instant) -> u32 {
    let mut answered = 0;
    while began.elapsed() < CALIBRATION_TIME {
        let op = if answered % 2 == 0 { Op::Write { value: answered.to_string() } } else { Op::Read };
        let answer = channel
            .request(aspen::request(&format!("trial-{client}"), &op, Reads::Linearizable), CLIENT_TIMEOUT)
            .await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            answered += 1;
        }
    }
    answered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[track_caller]
    fn check(nodes_count: usize, operations_per_s: f64, boot_ms: u64, cores_count: usize, want: &str) {
        let text = format!(
            "name: a\nabout: A test.\nnodes: {{ count: {nodes_count} }}\nworkload: {{ rate: 200/s }}\nchecks: [raft]\n"
        );
        let plan = Plan::new(&Scenario::parse("a.yaml", &text).unwrap(), 1);
        let boot = Duration::from_millis(boot_ms);
        assert_eq!(conclude(&plan, operations_per_s, boot, cores_count).to_string(), want);
    }

    #[test]
    fn slowdown_leaves_half_of_what_the_machines_can_do() {
        // Two cores for three machines: two thirds of 400 each, half of that is 400 / 3.
        let want = "3.45: one node boots in 1.0 s and does 200 operations a second, 230 are planned";
        check(3, 200.0, 1_000, 2, want);
        // No machine has more than one core.
        let want = "2.1: one node boots in 1.0 s and does 200 operations a second, 210 are planned";
        check(1, 200.0, 1_000, 8, want);
        // Fast machines are not held up.
        let want = "1: one node boots in 1.0 s and does 5000 operations a second, 230 are planned";
        check(3, 5_000.0, 1_000, 2, want);
        check(
            50,
            100.0,
            1_000,
            2,
            "10: one node boots in 1.0 s and does 100 operations a second, 700 are planned; that is less than needed at \
             the largest slowdown, 10, and who is late then may be so for that alone",
        );
    }

    #[test]
    fn slowdown_makes_a_boot_short() {
        let want = "3.375: one node boots in 9.0 s and does 5000 operations a second, 230 are planned";
        check(3, 5_000.0, 9_000, 2, want);
    }
}
