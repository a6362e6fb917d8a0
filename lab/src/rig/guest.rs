//! The guest's first program: makes a host of a kernel that has just started, carries out one order, and turns the machine off.
//!
//! It is the lab itself. What it has to say itself goes to the console.

mod collect;
mod command;
mod layers;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use aspen_init::texts::{head, with_causes};
use aspen_init::{modules, ports};
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sethostname;

use self::layers::LayersError;
use super::wire::{Ended, Message, PORT, ToGuest, ToHost, receive, send};
use super::{INIT, MODULES_LIST, OTHER_KVM_LIST};
use crate::fabric::TapError;
use crate::fabric::tap;
use crate::limits::POLL_INTERVAL;
use crate::limits::rig::DEVICE_WAIT_MAX;
use crate::program::ProgramError;

pub(super) use self::command::{SESSION, become_session};

/// There once a module has found the processor's virtualisation.
const KVM: &str = "/dev/kvm";
/// The guest's disk.
const DISK: &str = "/dev/vda";

/// Why the guest cannot do what it is for.
#[derive(Debug, thiserror::Error)]
enum GuestError {
    #[error(transparent)]
    Layers(#[from] LayersError),
    #[error("there is no {0}")]
    NoDevice(&'static str),
    #[error("cannot use {}", .path.display())]
    Device { path: PathBuf, source: io::Error },
    #[error("the loopback interface cannot be used")]
    Loopback(#[from] TapError),
    #[error("cannot talk to the host")]
    Wire(#[source] io::Error),
    #[error("the host says nothing")]
    NoOrder,
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("cannot make a thread")]
    Thread(#[source] io::Error),
    #[error("cannot make a terminal")]
    Terminal(#[source] io::Error),
}

/// Whether this process is the first one of a guest.
pub(super) fn is_first() -> bool {
    std::process::id() == 1 && parent_id() == 0 && std::env::args_os().next().is_some_and(|name| name == INIT)
}

/// The whole life of the guest.
pub(super) fn run() -> ! {
    if let Err(error) = serve() {
        say(&with_causes(&error));
    }
    // It does not come back unless it is refused; the end of the first program ends the machine, too.
    let Err(errno) = reboot(RebootMode::RB_POWER_OFF);
    say(errno.desc());
    std::process::exit(1)
}

/// Says something on the console.
fn say(text: &str) {
    // Nobody reads: nobody can be told.
    let _ = writeln!(io::stderr(), "rig: {text}");
}

fn serve() -> Result<(), GuestError> {
    layers::mount_kernels()?;
    modules::load(Path::new(MODULES_LIST), &mut say);
    if !Path::new(KVM).exists() {
        modules::load(Path::new(OTHER_KVM_LIST), &mut say);
    }
    // Machines share few processors: one that waits is to leave its own to the others at once. A kernel without KVM has no such
    // setting.
    let _ = fs::write("/sys/module/kvm/parameters/halt_poll_ns", "0");
    let disk = await_device("disk", || Some(PathBuf::from(DISK)).filter(|path| path.exists()))?;
    let port = await_device("port to the host", || ports::find(Path::new("/sys"), PORT))?;
    let layers = layers::make(&disk)?;
    let opened = File::options().read(true).write(true).open(&port);
    let opened = opened.and_then(|port| Ok((port.try_clone()?, port)));
    let (mut from, to) = opened.map_err(|source| GuestError::Device { path: port, source })?;
    // A host without a name works as well.
    let _ = sethostname("rig");
    tap::loopback_up()?;
    let link = Link(Arc::new(Mutex::new(to)));
    let release = head(Path::new("/proc/sys/kernel/osrelease"), 256).unwrap_or_default();
    link.send(&ToHost::Up(release)).map_err(GuestError::Wire)?;
    let Some(ToGuest::Order(order)) = receive(&mut from).map_err(GuestError::Wire)? else {
        return Err(GuestError::NoOrder);
    };
    let (code, orders) = command::run(&order, from, &link)?;
    let notes = collect::bring_out(&order.out, &layers, &link).map_err(GuestError::Wire)?;
    link.send(&ToHost::Ended(Ended { code, notes })).map_err(GuestError::Wire)?;
    // What was written is on its way, and would be lost with the machine. The host ends it when it has heard all.
    let _host_is_gone = orders.join();
    Ok(())
}

/// Waits for a device that has to be there.
fn await_device(
    what: &'static str,
    mut find: impl FnMut() -> Option<PathBuf>,
) -> Result<PathBuf, GuestError> {
    let deadline = Instant::now() + DEVICE_WAIT_MAX;
    loop {
        if let Some(path) = find() {
            return Ok(path);
        }
        if Instant::now() > deadline {
            return Err(GuestError::NoDevice(what));
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// The way to the host, for several threads.
#[derive(Debug, Clone)]
struct Link(Arc<Mutex<File>>);

impl Link {
    fn send(&self, message: &impl Message) -> io::Result<()> {
        send(message, &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
