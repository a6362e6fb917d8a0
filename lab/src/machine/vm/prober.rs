//! Probes from inside a virtual machine: sent by the appliance, over its control channel.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aspen_init::control::{Order, Probed};

use super::console::ConsoleWatch;
use super::control::{ControlChannel, ControlError};
use crate::limits::PROBE_MAX;
use crate::limits::machines::SILENT_MACHINE_MARGIN;
use crate::machine::{ProbeError, Prober};

/// Sends probes from one machine, over all its starts.
#[derive(Debug)]
pub(super) struct MachineProber {
    /// Whom it asks.
    pub(super) control: Arc<ControlChannel>,
    /// Says whether the machine has booted.
    pub(super) watch: Arc<Mutex<ConsoleWatch>>,
    /// Whether the machine is on and its processor runs.
    pub(super) runs: AtomicBool,
}

impl Prober for MachineProber {
    fn probe(&self, to: SocketAddr, timeout: Duration) -> Result<Duration, ProbeError> {
        let timeout = timeout.clamp(Duration::from_millis(1), PROBE_MAX);
        let within_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let answer = self.control.ask(Order::Probe { to, within_ms }, timeout + SILENT_MACHINE_MARGIN);
        let probed = answer.and_then(|value| {
            serde_json::from_value(value.clone()).map_err(|_| ControlError::Malformed(value.to_string()))
        });
        match probed {
            Ok(Probed::AnsweredUs(time_us)) => Ok(Duration::from_micros(time_us)),
            Ok(Probed::Unanswered(_)) => Err(ProbeError::Unanswered(timeout)),
            Err(error) => Err(ProbeError::Machine(Box::new(error))),
        }
    }

    fn takes_part(&self) -> bool {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        self.runs.load(Ordering::Relaxed)
            && watch.look().is_ok_and(|said| said.ready.is_some() && said.exit.is_none())
    }
}
