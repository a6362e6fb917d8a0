//! What the appliance is asked beside its probes: how its clocks are, and to make them wrong or right.

use std::thread;
use std::time::{Instant, SystemTime};

use aspen_init::control::{Health, Order};

use super::VirtualMachine;
use super::control::ControlError;
use crate::cluster::ClockReading;
use crate::limits::POLL_INTERVAL;
use crate::limits::machines::CONTROL_ANSWER_MAX;
use crate::machine::MachineError;
use crate::plan::ClockError;

impl VirtualMachine {
    /// How far its clock is ahead of the host's.
    pub(super) fn read_clock(&self) -> Result<ClockReading, MachineError> {
        let asked = Instant::now();
        let asked_ms = unix_ms();
        let Health { clock_ms, .. } = self.health(Instant::now() + CONTROL_ANSWER_MAX)?;
        let took = asked.elapsed();
        let half_ms = i64::try_from(took.as_millis() / 2).unwrap_or(i64::MAX);
        Ok(ClockReading { ahead_ms: clock_ms - asked_ms - half_ms, took })
    }

    /// Makes its clocks wrong.
    pub(super) fn set_clock_wrong(&self, error: ClockError) -> Result<(), MachineError> {
        let order = match error {
            ClockError::Step { by_ms } => Order::StepClock { by_ms },
            ClockError::Drift { per_million } => Order::DriftClock { per_million },
        };
        self.ask(order, Instant::now() + CONTROL_ANSWER_MAX).map(drop)
    }

    /// Lets its clocks run as they should, and sets the time of day.
    pub(super) fn set_clock_right(&self) -> Result<(), MachineError> {
        let deadline = Instant::now() + CONTROL_ANSWER_MAX;
        self.ask(Order::DriftClock { per_million: 0 }, deadline)?;
        self.ask(Order::SetClock { unix_ms: unix_ms() }, deadline).map(drop)
    }

    /// Asks the appliance until it answers: one that has just gone on needs a moment.
    pub(super) fn ask(&self, order: Order, deadline: Instant) -> Result<serde_json::Value, MachineError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let source = match self.control.ask(order.clone(), left.min(CONTROL_ANSWER_MAX)) {
                Ok(answer) => return Ok(answer),
                Err(source) => source,
            };
            let is_final = matches!(source, ControlError::Refused(_));
            if is_final || Instant::now() >= deadline {
                return Err(MachineError::Control { name: self.name.clone(), source });
            }
            self.alive()?;
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// How the appliance says it is.
    pub(super) fn health(&self, deadline: Instant) -> Result<Health, MachineError> {
        let answer = self.ask(Order::Health, deadline)?;
        let malformed = |_| ControlError::Malformed(answer.to_string());
        serde_json::from_value(answer.clone())
            .map_err(malformed)
            .map_err(|source| MachineError::Control { name: self.name.clone(), source })
    }
}

/// The host's time of day, in milliseconds since 1970-01-01 UTC.
fn unix_ms() -> i64 {
    #[allow(clippy::disallowed_methods, reason = "what another clock is compared with, and set to")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
