//! Which driver a run gets: what was asked for, or what this host can do, found out by doing it.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::outer::{OuterError, absolute, node_version};
use crate::causes::causes;
use crate::cli::{DriverArg, FabricArg, MachineArgs};
use crate::image::cache::{BootFiles, KEY_VARIABLE};
use crate::image::workshop::variable;
use crate::image::{self, ImageError};
use crate::limits::machines::HYPERVISOR_MEMORY_MIB;
use crate::machine::cloud_hypervisor::arguments::CLOUD_HYPERVISOR;
use crate::machine::cloud_hypervisor::nodes::CloudHypervisorSettings;
use crate::machine::cloud_hypervisor::trial::{
    self as cloud_hypervisor, Installed, TrialError as NoCloudHypervisor,
};
use crate::machine::driver::{Driver, NodeProgram, SIMULATION};
use crate::machine::qemu::arguments::{Accelerator, QEMU};
use crate::machine::qemu::nodes::QemuSettings;
use crate::machine::qemu::trial::{self, Qemu, TrialError};
use crate::memory::{self, Overcommitted};
use crate::plan::{Plan, Reads, Target};
use crate::program::{Program, ProgramError, ProgramLog};
use crate::target::etcd;

/// What disks of processes need that can lose what is not synced.
const FUSE: &str = "/dev/fuse";

/// What runs the nodes, and why.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// What runs them.
    pub(crate) driver: Driver,
    /// The version that the node's program names.
    pub(crate) node_version: String,
    /// What was taken, and why.
    pub(crate) reason: String,
}

/// Why nothing can run the nodes as asked.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// QEMU.
    #[error(transparent)]
    Qemu(#[from] TrialError),
    /// Cloud Hypervisor.
    #[error(transparent)]
    CloudHypervisor(#[from] NoCloudHypervisor),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] Overcommitted),
    /// A fault that only a machine can have.
    #[error(
        "the scenario has the fault {fault}, for which every node needs a machine of its own, and this driver has none: {remedy}"
    )]
    NeedsMachines {
        /// As it is written.
        fault: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The image that is named.
    #[error(transparent)]
    Image(ImageError),
    /// Of another version.
    #[error(
        "the image in {folder} is of aspen {found}, this is {}: take the lab that built it",
        aspen_node::VERSION
    )]
    Version {
        /// Where it is.
        folder: PathBuf,
        /// What it says.
        found: String,
    },
    /// There is none, and none can be made.
    #[error("there is no image to boot")]
    NoImage(#[source] ImageError),
    /// The log of programs.
    #[error(transparent)]
    Log(#[from] ProgramError),
    /// What is under test is not installed.
    #[error("the scenario's target is {program}, which is not installed: {remedy}")]
    Lacks {
        /// What is missing.
        program: &'static str,
        /// What gets it.
        remedy: String,
    },
    /// `--node-bin` is something else.
    #[error("{0} is not etcd: its --version does not say so")]
    NotEtcd(PathBuf),
    /// What is under test is no machine's.
    #[error("the scenario's target is etcd, which runs as processes: take --driver process")]
    Machines,
    /// What needs a real network or a real clock.
    #[error("the scenario has {0}, which the simulation does not know: take --driver process")]
    NotSimulated(&'static str),
    /// An option of another driver.
    #[error("{option} is of no use to --driver {driver}: leave one of them out")]
    Option {
        /// As it is typed.
        option: &'static str,
        /// As it is typed.
        driver: &'static str,
    },
}

/// Finds out what runs the nodes. What takes long is told, as it is what was taken and why.
pub(crate) fn choose(
    args: &MachineArgs,
    plan: &Plan,
    directory: &Path,
    tell: &mut dyn FnMut(&str),
) -> Result<Choice, OuterError> {
    check_faults(args, plan)?;
    choose_any(args, plan, directory, tell)
}

/// Refuses faults that what is asked for cannot have, before an image is built for it.
fn check_faults(args: &MachineArgs, plan: &Plan) -> Result<(), ChoiceError> {
    let Some(fault) = plan.needs_machines() else {
        let is_simulated = args.driver == DriverArg::Sim && plan.cuts_power();
        return if is_simulated { Err(ChoiceError::NotSimulated("the fault power_cut")) } else { Ok(()) };
    };
    let remedy = if args.node_bin.is_some() {
        "leave --node-bin out, which is a program for that one"
    } else if matches!(args.driver, DriverArg::Process | DriverArg::Sim) {
        "take --driver qemu, which emulates machines where KVM runs none"
    } else {
        return Ok(());
    };
    Err(ChoiceError::NeedsMachines { fault, remedy })
}

fn choose_any(
    args: &MachineArgs,
    plan: &Plan,
    directory: &Path,
    tell: &mut dyn FnMut(&str),
) -> Result<Choice, OuterError> {
    if plan.target == Target::Etcd {
        return etcd(args, directory);
    }
    let is_process_only = args.node_bin.is_some();
    match args.driver {
        DriverArg::Process => {
            if args.image.is_some() {
                return Err(ChoiceError::Option { option: "--image", driver: "process" }.into());
            }
            process(args, directory, "driver: process, as asked".to_owned())
        }
        DriverArg::Qemu if is_process_only => {
            Err(ChoiceError::Option { option: "--node-bin", driver: "qemu" }.into())
        }
        DriverArg::CloudHypervisor if is_process_only => {
            Err(ChoiceError::Option { option: "--node-bin", driver: CLOUD_HYPERVISOR }.into())
        }
        DriverArg::Auto if is_process_only => {
            process(args, directory, "driver: process, since --node-bin is one".to_owned())
        }
        DriverArg::Sim => simulation(args, plan),
        DriverArg::Qemu => qemu(args, plan, directory, tell),
        DriverArg::CloudHypervisor => cloud_hypervisor(args, plan, directory, tell),
        DriverArg::Auto => auto(args, plan, directory, tell),
    }
}

/// Processes of etcd.
fn etcd(args: &MachineArgs, directory: &Path) -> Result<Choice, OuterError> {
    if !matches!(args.driver, DriverArg::Process | DriverArg::Auto) || args.image.is_some() {
        return Err(ChoiceError::Machines.into());
    }
    let (program, package) = (etcd::ETCD, etcd::PACKAGE);
    let lacks = || ChoiceError::Lacks { program, remedy: format!("apt-get install {package}") };
    let path = match &args.node_bin {
        Some(path) => absolute(path)?,
        None => Program::find(program).ok_or_else(lacks)?,
    };
    let failed = |source| OuterError::NodeBin { path: path.clone(), source };
    let version = etcd::version(&path, &log(directory)?).map_err(failed)?;
    let version = version.ok_or_else(|| ChoiceError::NotEtcd(path.clone()))?;
    let node_version = format!("etcd {version}");
    let reason = format!("driver: process, of {node_version}");
    Ok(Choice { driver: Driver::Process(NodeProgram::Path(path)), node_version, reason })
}

/// Nodes in the lab's own process.
fn simulation(args: &MachineArgs, plan: &Plan) -> Result<Choice, OuterError> {
    let options = [
        ("--image", args.image.is_some()),
        ("--node-bin", args.node_bin.is_some()),
        ("--fabric kernel", args.fabric == FabricArg::Kernel),
        ("--slowdown", args.slowdown.is_some()),
    ];
    if let Some((option, _)) = options.into_iter().find(|(_, is_given)| *is_given) {
        return Err(ChoiceError::Option { option, driver: SIMULATION }.into());
    }
    let not_simulated = [
        ("nodes.join", plan.joins.is_some()),
        ("networks", plan.network.name.is_some()),
        ("raft.preferred_zones", !plan.preferred_zones.is_empty()),
        ("workload.reads: lease", plan.workload.reads == Reads::Lease),
    ];
    if let Some((what, _)) = not_simulated.into_iter().find(|(_, is_wanted)| *is_wanted) {
        return Err(ChoiceError::NotSimulated(what).into());
    }
    let reason = "driver: sim, as asked: on virtual time, and all that is left to chance comes from the seed";
    let (driver, node_version) = (Driver::Simulation, aspen_node::BUILD.to_owned());
    Ok(Choice { driver, node_version, reason: reason.to_owned() })
}

/// Virtual machines, emulated where the processor does not run them.
fn qemu(
    args: &MachineArgs,
    plan: &Plan,
    directory: &Path,
    tell: &mut dyn FnMut(&str),
) -> Result<Choice, OuterError> {
    let log = log(directory)?;
    let qemu = trial::find(&log).map_err(ChoiceError::from)?;
    // What is least, before an image is built for nothing.
    memory::check(plan, HYPERVISOR_MEMORY_MIB).map_err(ChoiceError::from)?;
    let version = &qemu.version;
    let image = image(args, directory, tell)?;
    let (accelerator, reason) = match runs_on_kvm(&qemu, &image, directory, &log) {
        Ok(()) => (Accelerator::Kvm, format!("driver: qemu {version} with kvm, as asked")),
        Err(error) => {
            let why = error.in_short();
            let reason = format!("driver: qemu {version}, emulating: KVM runs no guest here ({why})");
            (Accelerator::Tcg, reason)
        }
    };
    Ok(qemu_machines(&qemu, plan, image, accelerator, reason)?)
}

/// Virtual machines on the processor.
fn cloud_hypervisor(
    args: &MachineArgs,
    plan: &Plan,
    directory: &Path,
    tell: &mut dyn FnMut(&str),
) -> Result<Choice, OuterError> {
    let log = log(directory)?;
    let installed = cloud_hypervisor::find(&log).map_err(ChoiceError::from)?;
    cloud_hypervisor::smallest_guest(&installed, directory, &log).map_err(ChoiceError::from)?;
    memory::check(plan, HYPERVISOR_MEMORY_MIB).map_err(ChoiceError::from)?;
    let image = image(args, directory, tell)?;
    cloud_hypervisor::kernel(&installed, &image.kernel, directory, &log).map_err(ChoiceError::from)?;
    let reason = format!("driver: cloud-hypervisor {}, as asked", installed.version);
    Ok(cloud_hypervisor_machines(&installed, image, reason))
}

/// Virtual machines if the processor really runs them: on Cloud Hypervisor, or else on QEMU. Otherwise processes, or emulated
/// machines for who names an image, and for faults that only a machine can have. Disks that lose their power are the quickest
/// where nodes are processes.
fn auto(
    args: &MachineArgs,
    plan: &Plan,
    directory: &Path,
    tell: &mut dyn FnMut(&str),
) -> Result<Choice, OuterError> {
    let wants_machines = args.image.is_some() || plan.needs_machines().is_some();
    if plan.cuts_power() && !wants_machines && File::options().read(true).write(true).open(FUSE).is_ok() {
        return process(
            args,
            directory,
            "driver: process, whose disks can lose what is not synced".to_owned(),
        );
    }
    let log = log(directory)?;
    // What is quick and needs no image.
    let first = cloud_hypervisor::find(&log).and_then(|installed| {
        cloud_hypervisor::smallest_guest(&installed, directory, &log)?;
        Ok(installed)
    });
    let second = trial::find(&log).and_then(|qemu| {
        trial::smallest_guest(&qemu, Accelerator::Kvm, directory, &log)?;
        Ok(qemu)
    });
    let emulated = match &second {
        Err(TrialError::Missing) => format!("once {QEMU} is installed, `--driver qemu` emulates microVMs"),
        _ => "`--driver qemu` would emulate microVMs".to_owned(),
    };
    let as_process = |why: &str| {
        let reason = format!("driver: process, since no hypervisor runs a guest here ({why}); {emulated}");
        process(args, directory, reason)
    };
    let on_processor = OnProcessor { first, second, plan, wants_machines };
    if let Some(why) = on_processor.why_not() {
        return if wants_machines { qemu(args, plan, directory, tell) } else { as_process(&why) };
    }
    match memory::check(plan, HYPERVISOR_MEMORY_MIB) {
        Err(error) if wants_machines => return Err(ChoiceError::from(error).into()),
        Err(error) => return process(args, directory, format!("driver: process, since {error}")),
        Ok(()) => {}
    }
    let image = match image(args, directory, tell) {
        Err(OuterError::Driver(ChoiceError::NoImage(error))) if !wants_machines => {
            let why = causes(&error).replace('\n', " ");
            let reason = format!("driver: process, since there is no image that KVM could run ({why})");
            return process(args, directory, reason);
        }
        image => image?,
    };
    match on_processor.choose(image, directory, &log)? {
        Ok(choice) => Ok(choice),
        Err(_) if wants_machines => qemu(args, plan, directory, tell),
        Err(why) => as_process(&why),
    }
}

/// The hypervisors whose smallest guest the processor runs.
struct OnProcessor<'a> {
    first: Result<Installed, NoCloudHypervisor>,
    second: Result<Qemu, TrialError>,
    plan: &'a Plan,
    /// Whether processes would not do.
    wants_machines: bool,
}

impl OnProcessor<'_> {
    /// Why there is none, if there is none.
    fn why_not(&self) -> Option<String> {
        let (first, second) = (self.first.as_ref().err()?, self.second.as_ref().err()?);
        Some(format!("{}; {}", first.in_short(), second.in_short()))
    }

    /// The first of them that runs the image's kernel, or QEMU emulating where nothing but machines will do; otherwise why not.
    ///
    /// # Errors
    /// What is taken finds no room for its memory.
    fn choose(
        self,
        image: Image,
        directory: &Path,
        log: &ProgramLog,
    ) -> Result<Result<Choice, String>, ChoiceError> {
        let mut refusals = Vec::new();
        let first = self.first.and_then(|installed| {
            cloud_hypervisor::kernel(&installed, &image.kernel, directory, log)?;
            Ok(installed)
        });
        match first {
            Ok(installed) => {
                let version = &installed.version;
                let reason = format!("driver: cloud-hypervisor {version}, since KVM runs a guest here");
                return Ok(Ok(cloud_hypervisor_machines(&installed, image, reason)));
            }
            Err(error) => refusals.push(error.in_short()),
        }
        let qemu = match self.second {
            Ok(qemu) => qemu,
            Err(error) => {
                refusals.push(error.in_short());
                return Ok(Err(refusals.join("; ")));
            }
        };
        let version = &qemu.version;
        match trial::kernel(&qemu, Accelerator::Kvm, &image.kernel, log) {
            Ok(()) => {
                let reason = format!("driver: qemu {version} with kvm, which runs a guest here");
                return qemu_machines(&qemu, self.plan, image, Accelerator::Kvm, reason).map(Ok);
            }
            Err(error) => refusals.push(error.in_short()),
        }
        let why = refusals.join("; ");
        if !self.wants_machines {
            return Ok(Err(why));
        }
        let reason = format!("driver: qemu {version}, emulating: KVM runs no guest here ({why})");
        qemu_machines(&qemu, self.plan, image, Accelerator::Tcg, reason).map(Ok)
    }
}

/// Whether the processor runs the image's kernel.
fn runs_on_kvm(qemu: &Qemu, image: &Image, directory: &Path, log: &ProgramLog) -> Result<(), TrialError> {
    trial::smallest_guest(qemu, Accelerator::Kvm, directory, log)?;
    trial::kernel(qemu, Accelerator::Kvm, &image.kernel, log)
}

fn process(args: &MachineArgs, directory: &Path, reason: String) -> Result<Choice, OuterError> {
    let program = args.node_bin.as_deref().map(absolute).transpose()?;
    let node_version = match &program {
        None => aspen_node::BUILD.to_owned(),
        Some(path) => node_version(path, directory)?,
    };
    let driver = Driver::Process(program.map_or(NodeProgram::Own, NodeProgram::Path));
    Ok(Choice { driver, node_version, reason })
}

fn qemu_machines(
    qemu: &Qemu,
    plan: &Plan,
    image: Image,
    accelerator: Accelerator,
    reason: String,
) -> Result<Choice, ChoiceError> {
    memory::check(plan, accelerator.memory_mib())?;
    let Image { kernel, initramfs, node_version } = image;
    let settings = QemuSettings { qemu: qemu.path.clone(), accelerator, kernel, initramfs };
    Ok(Choice { driver: Driver::Qemu(settings), node_version, reason })
}

fn cloud_hypervisor_machines(installed: &Installed, image: Image, reason: String) -> Choice {
    let Image { kernel, initramfs, node_version } = image;
    let settings = CloudHypervisorSettings { program: installed.path.clone(), kernel, initramfs };
    Choice { driver: Driver::CloudHypervisor(settings), node_version, reason }
}

/// What the machines boot.
#[derive(Debug, Clone)]
struct Image {
    kernel: PathBuf,
    initramfs: PathBuf,
    node_version: String,
}

/// Where in the run's directory the copies are that machines boot.
const BOOT_FOLDER: &str = "boot";

/// Removes the copies that machines have booted, once there are no machines any more.
pub(crate) fn remove_boot_files(directory: &Path) {
    // Where there were none, nothing is to be removed; what cannot be removed is in nobody's way.
    let _ = std::fs::remove_dir_all(directory.join(BOOT_FOLDER));
}

/// The image that is named, or the one of this checkout, copied into the run's directory.
fn image(args: &MachineArgs, directory: &Path, tell: &mut dyn FnMut(&str)) -> Result<Image, OuterError> {
    let folder = match &args.image {
        Some(folder) => image::open(folder, variable(KEY_VARIABLE).as_deref()).map_err(ChoiceError::Image)?,
        None => image::ensure(tell).map_err(ChoiceError::NoImage)?,
    };
    if folder.version() != aspen_node::VERSION {
        let (found, folder) = (folder.version().to_owned(), folder.folder().to_owned());
        return Err(ChoiceError::Version { folder, found }.into());
    }
    let BootFiles { kernel, initramfs } =
        folder.copy_for_boot(&directory.join(BOOT_FOLDER)).map_err(ChoiceError::Image)?;
    let node_version = format!(
        "{}, in an image with Linux {}, SHA-256 of its manifest {}",
        folder.version(),
        folder.release(),
        folder.identity()
    );
    Ok(Image { kernel, initramfs, node_version })
}

fn log(directory: &Path) -> Result<ProgramLog, OuterError> {
    let log = ProgramLog::open(&directory.join("programs.log"));
    Ok(log.map_err(ChoiceError::Log)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::scenario::Scenario;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        machines: MachineArgs,
    }

    /// What is refused of these faults, with these words.
    #[track_caller]
    fn check(words: &[&str], faults: &str, want: Option<&str>) {
        let machines = Typed::parse_from([&["lab"], words].concat()).machines;
        let text = format!(
            "name: a\nabout: A test.\nnodes: {{ count: 3 }}\nduration: 20s\nfaults:\n{faults}checks: [linearizable]\n"
        );
        let plan = Plan::new(&Scenario::parse("a.yaml", &text).unwrap(), 1);
        let refused = check_faults(&machines, &plan).err().map(|error| error.to_string());
        assert_eq!(refused.is_some(), want.is_some(), "{words:?}: {refused:?}");
        assert!(refused.unwrap_or_default().ends_with(want.unwrap_or_default()), "{words:?}");
    }

    #[test]
    fn faults_that_a_driver_cannot_have_are_refused_with_what_can_be_done() {
        let suspend = "  - { at: 1s, for: 3s, suspend: n1 }\n";
        let cut = "  - { at: 1s, power_cut: n1, restart_after: 1s }\n";
        for words in [&[][..], &["--driver", "qemu"], &["--driver", "cloud-hypervisor"]] {
            check(words, suspend, None);
        }
        let clock = "  - { at: 8s, for: 3s, clock: n1, step: 30s }\n";
        for words in [&["--driver", "process"][..], &["--node-bin", "aspen-node"]] {
            check(words, cut, None);
        }
        for words in [&[][..], &["--driver", "qemu"], &["--driver", "cloud-hypervisor"]] {
            check(words, &format!("{cut}{clock}"), None);
        }
        let emulate = "take --driver qemu, which emulates machines where KVM runs none";
        check(&["--driver", "process"], suspend, Some(emulate));
        let leave_out = "leave --node-bin out, which is a program for that one";
        check(&["--node-bin", "aspen-node"], suspend, Some(leave_out));
        let unknown =
            "the scenario has the fault power_cut, which the simulation does not know: take --driver process";
        check(&["--driver", "sim"], cut, Some(unknown));
    }
}
