//! The Cloud Hypervisor driver: a node is a virtual machine on the processor, which KVM lets it use.
//!
//! A machine is one process of `cloud-hypervisor`, and nothing of it is left when that ends. It is started with its machine on
//! the command line and with its TAP as an open descriptor, and obeys over its API socket.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::api::{Api, ApiError};
use self::arguments::{Hardware, TAP_DESCRIPTOR, VCPU_THREADS};
use super::vm::control::ControlSocket;
use super::vm::{Hypervisor, HypervisorError, Launch, RunState};
use crate::fabric::packet::MachineTap;
use crate::limits::machines::SAVED_CONFIG_BYTES_MAX;
use crate::program::ProcessStat;

pub mod api;
pub mod arguments;
pub mod nodes;
pub mod trial;

/// What hardware a machine has, in what was saved of it.
const SAVED_CONFIG: &str = "config.json";

/// One machine's Cloud Hypervisor, over all its starts.
#[derive(Debug)]
pub(super) struct CloudHypervisor {
    hardware: Hardware,
    /// Where its sockets are.
    folder: PathBuf,
    /// One for each network; all are in one namespace.
    taps: Vec<MachineTap>,
    /// How often it was started: no socket has the name of an earlier one.
    starts: u32,
    api: Option<Api>,
}

impl CloudHypervisor {
    fn new(hardware: Hardware, folder: PathBuf, taps: Vec<MachineTap>) -> Self {
        Self { hardware, folder, taps, starts: 0, api: None }
    }

    fn api(&self) -> Result<&Api, ApiError> {
        self.api.as_ref().ok_or(ApiError::Gone)
    }
}

/// Gives the vsock device of a machine that was saved another socket: it would have the one of its last life again.
fn rename_vsock(folder: &Path, socket: &str) -> Result<(), HypervisorError> {
    let path = folder.join(SAVED_CONFIG);
    let failed = |source| HypervisorError::Saved { path: path.clone(), source };
    let mut text = Vec::new();
    let file = File::open(&path).map_err(failed)?;
    file.take(SAVED_CONFIG_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > SAVED_CONFIG_BYTES_MAX {
        let reason =
            format!("it has more than {SAVED_CONFIG_BYTES_MAX} bytes, which are all that is allowed");
        return Err(failed(io::Error::other(reason)));
    }
    let mut config: Value = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    let Some(device) = config.get_mut("vsock").and_then(Value::as_object_mut) else {
        return Err(failed(io::Error::other("it has no vsock device")));
    };
    device.insert("socket".to_owned(), socket.into());
    fs::write(&path, config.to_string()).map_err(failed)
}

impl Hypervisor for CloudHypervisor {
    fn name(&self) -> &'static str {
        arguments::CLOUD_HYPERVISOR
    }

    fn launch(&mut self, saved: Option<&Path>) -> Result<Launch, HypervisorError> {
        self.starts += 1;
        let (api, vsock) = (format!("api-{}", self.starts), format!("vsock-{}", self.starts));
        for name in [&api, &vsock] {
            // What an earlier lab has left in a directory that it was given.
            match fs::remove_file(self.folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ApiError::Socket { path: self.folder.join(name), source: error }.into());
                }
                _ => {}
            }
        }
        let mut program = match saved {
            None => arguments::program(&self.hardware, &api, &vsock),
            Some(folder) => {
                rename_vsock(folder, &vsock)?;
                arguments::saved_program(&self.hardware, &api, folder)
            }
        };
        let mut place = None;
        for (number, tap) in (TAP_DESCRIPTOR..).zip(&self.taps) {
            let (descriptor, namespace) = tap.connect()?;
            program = program.descriptor(descriptor, number);
            place = Some(namespace);
        }
        self.api = Some(Api::new(&self.folder, &api)?);
        let control = ControlSocket::Vsock(self.folder.join(vsock));
        let reads = vec![self.hardware.kernel.clone(), self.hardware.initramfs.clone()];
        Ok(Launch { program, namespace: place, control, reads, prints_console: true })
    }

    fn forget(&mut self) {
        self.api = None;
        for start in 1..=self.starts {
            for name in [format!("api-{start}"), format!("api-{start}.lock"), format!("vsock-{start}")] {
                // One that was never made, or is gone already.
                let _ = fs::remove_file(self.folder.join(name));
            }
        }
    }

    fn state(&mut self) -> Result<RunState, HypervisorError> {
        Ok(self.api()?.state()?)
    }

    fn save(&mut self, folder: &Path) -> Result<(), HypervisorError> {
        Ok(self.api()?.snapshot(folder)?)
    }

    fn is_loaded(&mut self) -> Result<bool, HypervisorError> {
        Ok(self.api()?.state_if_any()?.is_some_and(|state| !state.is_running))
    }

    fn run(&mut self, is_running: bool) -> Result<(), HypervisorError> {
        let api = self.api()?;
        // It refuses to do what is done already.
        if api.state()?.is_running != is_running {
            if is_running { api.resume()? } else { api.pause()? }
        }
        Ok(())
    }

    fn press_power_button(&mut self) -> Result<(), HypervisorError> {
        Ok(self.api()?.press_power_button()?)
    }

    fn processors(&mut self, pid: u32) -> Result<Vec<u32>, HypervisorError> {
        Ok(ProcessStat::threads_named(pid, VCPU_THREADS))
    }
}
