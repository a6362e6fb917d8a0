//! Cloud Hypervisor's API, as far as the driver needs it: HTTP over a Unix socket, one request at a time, every wait bounded.
//!
//! The only file that knows cloud-hypervisor-client.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use cloud_hypervisor_client::apis::{self, DefaultApi};
use cloud_hypervisor_client::models::{VmSnapshotConfig, VmState};
use cloud_hypervisor_client::{SocketBasedApiClient, socket_based_api_client};

use crate::limits::POLL_INTERVAL;
use crate::limits::machines::{API_ANSWER_MAX, CLOUD_HYPERVISOR_START_MAX, LOAD_MAX, SAVE_MAX};
use crate::machine::vm::RunState;

/// Why Cloud Hypervisor did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Its process is gone, or was never there.
    #[error("cloud-hypervisor does not run")]
    Gone,
    /// The place of its sockets.
    #[error("cannot use {}", .path.display())]
    Socket {
        /// The folder or socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No runtime for the client.
    #[error("cannot talk with cloud-hypervisor")]
    Runtime(#[source] io::Error),
    /// It says nothing.
    #[error("cloud-hypervisor did not answer {request} within {limit:?}")]
    Silent {
        /// What it was asked.
        request: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Nobody listens, or what comes is no answer.
    #[error("cloud-hypervisor's answer to {request}")]
    Client {
        /// What it was asked.
        request: &'static str,
        /// What went wrong.
        source: apis::Error,
    },
    /// It refuses.
    #[error("cloud-hypervisor refuses {request} ({status}): {reason}")]
    Refused {
        /// What it was asked.
        request: &'static str,
        /// Its status, of HTTP.
        status: u16,
        /// What it says.
        reason: String,
    },
}

/// The API of one process.
#[derive(Debug)]
pub struct Api {
    /// Held open, so that the socket has a short name: a Unix socket's has 107 bytes at most.
    folder: File,
    name: String,
    /// Until when it may still be about to open its socket.
    opens_until: Instant,
}

/// What the client gives back.
type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, apis::Error>> + Send + 'a>>;

impl Api {
    /// That of a process which is about to start and will make the socket `name` in `folder`.
    ///
    /// # Errors
    /// The folder cannot be opened.
    pub fn new(folder: &Path, name: &str) -> Result<Self, ApiError> {
        let opened = File::open(folder);
        let folder = opened.map_err(|source| ApiError::Socket { path: folder.to_owned(), source })?;
        Ok(Self { folder, name: name.to_owned(), opens_until: Instant::now() + CLOUD_HYPERVISOR_START_MAX })
    }

    /// What its machine does.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn state(&self) -> Result<RunState, ApiError> {
        self.state_within(API_ANSWER_MAX)
    }

    fn state_within(&self, limit: Duration) -> Result<RunState, ApiError> {
        let info = self.ask_within(limit, "vm.info", |client| client.vm_info_get())?;
        let is_running = info.state == VmState::Running;
        Ok(RunState { name: info.state.to_string().to_lowercase(), is_running })
    }

    /// Stops the processors.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn pause(&self) -> Result<(), ApiError> {
        self.ask("vm.pause", |client| client.pause_vm())
    }

    /// Lets the processors go on.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn resume(&self) -> Result<(), ApiError> {
        self.ask("vm.resume", |client| client.resume_vm())
    }

    /// Writes the state of a machine that stands still, all but its disks, into a folder.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn snapshot(&self, folder: &Path) -> Result<(), ApiError> {
        let config = VmSnapshotConfig { destination_url: Some(file_url(folder)) };
        self.ask_within(SAVE_MAX, "vm.snapshot", |client| client.vm_snapshot_put(config.clone()))
    }

    /// What its machine does, if it has one already: one that goes on from what was saved has none until that is read, and answers
    /// nothing while it reads.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn state_if_any(&self) -> Result<Option<RunState>, ApiError> {
        match self.state_within(LOAD_MAX) {
            Err(ApiError::Refused { .. }) => Ok(None),
            state => state.map(Some),
        }
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn press_power_button(&self) -> Result<(), ApiError> {
        self.ask("vm.power-button", |client| client.power_button_vm())
    }

    fn ask<T>(
        &self,
        request: &'static str,
        ask: impl Fn(&SocketBasedApiClient) -> Answer<'_, T>,
    ) -> Result<T, ApiError> {
        self.ask_within(API_ANSWER_MAX, request, ask)
    }

    /// Asks, as soon as the socket is there.
    fn ask_within<T>(
        &self,
        limit: Duration,
        request: &'static str,
        ask: impl Fn(&SocketBasedApiClient) -> Answer<'_, T>,
    ) -> Result<T, ApiError> {
        let path = format!("/proc/self/fd/{}/{}", self.folder.as_raw_fd(), self.name);
        // The client's connections belong to a runtime; the machines are ordered about from threads that have none.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(ApiError::Runtime)?.block_on(async {
            loop {
                let client = socket_based_api_client(&path);
                let answer = tokio::time::timeout(limit, ask(&client)).await;
                match answer {
                    Err(_elapsed) => return Err(ApiError::Silent { request, limit }),
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(apis::Error::Api(apis::ApiError { code, body }))) => {
                        return Err(ApiError::Refused {
                            request,
                            status: code.as_u16(),
                            reason: reason(&body),
                        });
                    }
                    Ok(Err(apis::Error::HyperClient(error)))
                        if error.is_connect() && Instant::now() < self.opens_until => {}
                    Ok(Err(source)) => return Err(ApiError::Client { request, source }),
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        })
    }
}

/// A refusal as Cloud Hypervisor writes it: a list of causes, or a text.
fn reason(body: &str) -> String {
    match serde_json::from_str::<Vec<String>>(body) {
        Ok(causes) => causes.join(": "),
        Err(_) => body.trim().to_owned(),
    }
}

/// The address of a file or folder (RFC 8089): every byte that would mean something in an address or an option is written by its
/// number.
pub(super) fn file_url(path: &Path) -> String {
    let encode = |byte: &u8| {
        if byte.is_ascii_alphanumeric() || b"/._-~".contains(byte) {
            char::from(*byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    let path: String = path.as_os_str().as_bytes().iter().map(encode).collect();
    format!("file://{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_a_folder_has_no_byte_that_ends_an_option() {
        assert_eq!(file_url(Path::new("/run/n1/suspended")), "file:///run/n1/suspended");
        assert_eq!(file_url(Path::new("/a b,c/\u{e9}=")), "file:///a%20b%2Cc/%C3%A9%3D");
    }
}
