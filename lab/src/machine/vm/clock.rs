//! A machine's clocks, as the appliance in it reads and sets them.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use aspen_init::control::{Health, Order};
use serde_json::Value;

use super::VirtualMachine;
use super::control::ControlError;
use crate::cluster::ClockReading;
use crate::limits::POLL_INTERVAL;
use crate::limits::machines::CONTROL_ANSWER_MAX;
use crate::machine::MachineError;
use crate::plan::ClockError;

/// How far its clock is ahead of the host's.
pub(super) fn read(machine: &VirtualMachine) -> Result<ClockReading, MachineError> {
    let (asked, asked_ms) = (Instant::now(), unix_ms());
    let answer = ask(machine, || Order::Health, Instant::now() + CONTROL_ANSWER_MAX)?;
    let took = asked.elapsed();
    let malformed = |_| ControlError::Malformed(answer.to_string());
    let health = serde_json::from_value::<Health>(answer.clone()).map_err(malformed);
    let Health { clock_ms, .. } = health.map_err(|source| refused(machine, source))?;
    let half_ms = i64::try_from(took.as_millis() / 2).unwrap_or(i64::MAX);
    Ok(ClockReading { ahead_ms: clock_ms - asked_ms - half_ms, took })
}

/// Makes its clocks wrong.
pub(super) fn make_wrong(machine: &VirtualMachine, error: ClockError) -> Result<(), MachineError> {
    let order = || match error {
        ClockError::Step { by_ms } => Order::StepClock { by_ms },
        ClockError::Drift { per_million } => Order::DriftClock { per_million },
    };
    ask(machine, order, Instant::now() + CONTROL_ANSWER_MAX).map(drop)
}

/// Makes its clocks right, and leaves them to the appliance. Returns how long that took: they may be behind by so much.
pub(super) fn mend(machine: &VirtualMachine) -> Result<Duration, MachineError> {
    let began = Instant::now();
    let order = || Order::MendClock { unix_ms: unix_ms() };
    ask(machine, order, began + CONTROL_ANSWER_MAX)?;
    Ok(began.elapsed())
}

/// Gives the appliance an order, once; connecting is tried again: one that has just gone on needs a moment.
pub(super) fn ask(
    machine: &VirtualMachine,
    order: impl Fn() -> Order,
    deadline: Instant,
) -> Result<Value, MachineError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let source = match machine.control.ask(order(), left.min(CONTROL_ANSWER_MAX)) {
            Ok(answer) => return Ok(answer),
            Err(source) => source,
        };
        if !source.is_unsent() || Instant::now() >= deadline {
            return Err(refused(machine, source));
        }
        machine.alive()?;
        thread::sleep(POLL_INTERVAL);
    }
}

fn refused(machine: &VirtualMachine, source: ControlError) -> MachineError {
    MachineError::Control { name: machine.name.clone(), source }
}

/// The host's time of day, in milliseconds since 1970-01-01 UTC.
fn unix_ms() -> i64 {
    #[allow(clippy::disallowed_methods, reason = "what another clock is compared with, and set to")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
