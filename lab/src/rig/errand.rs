//! What a command needs in the guest: files, programs, machines, input; and what comes out of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, Parser};

use crate::cli::{Cli, Command, DriverArg, ImageCommand, MachineArgs, RUNS, RigArgs};

/// The word for a shell instead of a command of the lab.
pub(super) const SHELL: &str = "shell";

/// Whether virtual machines are started in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machines {
    /// By no means.
    None,
    /// The guest is asked whether it can.
    Tried,
    /// If an image for them can be had.
    Perhaps,
    /// They were asked for.
    Wanted,
}

/// What a command needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Errand {
    /// Whether it is a shell.
    pub(super) is_shell: bool,
    /// Whether it starts virtual machines.
    pub(super) machines: Machines,
    /// A scenario that it names.
    pub(super) scenario: Option<PathBuf>,
    /// Other files and folders that it names.
    pub(super) files: Vec<PathBuf>,
    /// Programs that it names.
    pub(super) programs: Vec<PathBuf>,
    /// An image that it names.
    pub(super) image: Option<PathBuf>,
    /// Where it puts what it makes: what is new below comes out.
    pub(super) out: Vec<PathBuf>,
    /// A folder that it makes, and that must not be there.
    pub(super) makes: Option<PathBuf>,
    /// Whether it reads its input.
    pub(super) has_input: bool,
}

/// Why a command cannot be run in a guest.
#[derive(Debug, thiserror::Error)]
pub enum ErrandError {
    /// Not what was typed, or a wish for help.
    #[error("{0}")]
    Words(clap::Error),
    /// An option of the rig that the command does not have.
    #[error("`{0}` is an option of the rig, and comes before the command: lab rig {0} … COMMAND")]
    OptionBehind(String),
    /// A shell takes a script only on its input.
    #[error("the shell takes no arguments: `lab rig shell`, or `lab rig shell < SCRIPT`")]
    ShellWords,
    /// It could not be worked on.
    #[error(
        "what is up in a guest cannot be worked on from here: `lab rig --with {0} shell`, and there `lab up {0} &` and the \
         commands to it"
    )]
    Up(String),
    /// There is nobody to talk to.
    #[error(
        "no lab is up in a guest that has just started: `lab rig --with FILE shell` has `lab up FILE &` and the commands to it \
         in one place"
    )]
    NothingUp,
    /// It measures this host.
    #[error("a benchmark measures this host, not a guest: leave `rig` out")]
    Bench,
    /// It needs what is here.
    #[error("images and kernels are built outside: the guest has no compiler; leave `rig` out")]
    Build,
    /// One in another.
    #[error("a rig in a rig is not supported: leave one of them out")]
    Nested,
}

impl Errand {
    /// What the words after `lab rig` need. Relative paths are of `folder`.
    ///
    /// # Errors
    /// [`ErrandError`].
    pub(super) fn of(words: &[OsString], folder: &Path) -> Result<Self, ErrandError> {
        if words == [SHELL] {
            let mut errand = Self::bare(Machines::Tried);
            (errand.is_shell, errand.has_input) = (true, true);
            errand.out.push(folder.to_owned());
            return Ok(errand);
        }
        if words.first().is_some_and(|first| first == SHELL) {
            return Err(ErrandError::ShellWords);
        }
        let typed = std::iter::once("lab rig".into()).chain(words.iter().cloned());
        let cli = Cli::try_parse_from(typed).map_err(|error| not_understood(error, words))?;
        let mut errand = Self::of_command(&cli.command)?;
        let single = errand.scenario.iter_mut().chain(&mut errand.image).chain(&mut errand.makes);
        for path in errand.files.iter_mut().chain(&mut errand.programs).chain(single) {
            *path = folder.join(&*path);
        }
        errand.out = errand.out.iter().map(|path| folder.join(path)).collect();
        Ok(errand)
    }

    fn bare(machines: Machines) -> Self {
        let (files, programs, out) = (vec![], vec![], vec![]);
        let (scenario, image, makes) = (None, None, None);
        Self { is_shell: false, machines, scenario, files, programs, image, out, makes, has_input: false }
    }

    fn of_command(command: &Command) -> Result<Self, ErrandError> {
        Ok(match command {
            Command::Run(args) => Self::of_run(&args.file, &args.machines, args.out.as_ref()),
            Command::Explore(args) => {
                Self::of_scenario(&args.file, machines_of(args.driver), args.out.as_ref())
            }
            Command::Up(args) => return Err(ErrandError::Up(args.file.display().to_string())),
            Command::Control(_) => return Err(ErrandError::NothingUp),
            Command::Verify(args) => {
                let mut errand = Self::bare(Machines::None);
                errand.has_input = args.path == Path::new("-");
                if !errand.has_input {
                    errand.files.push(args.path.clone());
                }
                errand
            }
            Command::Selftest(args) => {
                let mut errand = Self::bare(Machines::None);
                errand.programs.extend(args.node_bin.clone());
                errand.puts(args.out.as_ref());
                errand
            }
            Command::Image(ImageCommand::Build(_) | ImageCommand::Kernel(_)) => {
                return Err(ErrandError::Build);
            }
            Command::Image(ImageCommand::Sign { folder, key } | ImageCommand::Verify { folder, key }) => {
                let mut errand = Self::bare(Machines::None);
                errand.files.extend([folder.clone(), key.clone()]);
                errand.out.push(folder.clone());
                errand
            }
            Command::Image(ImageCommand::Inspect { folder }) => {
                let mut errand = Self::bare(Machines::None);
                errand.files.push(folder.clone());
                errand
            }
            Command::Bench(_) => return Err(ErrandError::Bench),
            Command::FabricCheck(_) => Self::bare(Machines::None),
            Command::Doctor { hold, .. } => {
                let mut errand = Self::bare(Machines::Tried);
                errand.has_input = *hold;
                errand
            }
            Command::Rig(_) => return Err(ErrandError::Nested),
        })
    }

    /// Everything that it names.
    pub(super) fn named(&self) -> impl Iterator<Item = &PathBuf> {
        self.scenario.iter().chain(&self.files).chain(&self.programs).chain(&self.image)
    }

    fn of_run(file: &Path, machines: &MachineArgs, out: Option<&PathBuf>) -> Self {
        let kind = match machines_of(machines.driver) {
            Machines::Perhaps if machines.node_bin.is_some() => Machines::None,
            kind => kind,
        };
        let mut errand = Self::of_scenario(file, kind, out);
        errand.programs.extend(machines.node_bin.clone());
        errand.image.clone_from(&machines.image);
        errand
    }

    fn of_scenario(file: &Path, machines: Machines, out: Option<&PathBuf>) -> Self {
        let mut errand = Self::bare(machines);
        errand.scenario = Some(file.to_owned());
        errand.puts(out);
        errand
    }

    /// It puts what it makes into a folder of its own, which it may be given.
    fn puts(&mut self, given: Option<&PathBuf>) {
        self.out.push(given.cloned().unwrap_or_else(|| RUNS.into()));
        self.makes = given.cloned();
    }
}

/// What was typed wrong: most of all an option of the rig where the command's are.
fn not_understood(error: clap::Error, words: &[OsString]) -> ErrandError {
    let rig = RigArgs::augment_args(clap::Command::new("rig"));
    let is_option = |word: &&str| {
        rig.get_arguments().filter_map(clap::Arg::get_long).any(|long| word.strip_prefix("--") == Some(long))
    };
    let words =
        words.iter().filter_map(|word| word.to_str()).map(|word| word.split('=').next().unwrap_or(word));
    match words.into_iter().find(is_option) {
        Some(option) if error.kind() == ErrorKind::UnknownArgument => {
            ErrandError::OptionBehind(option.to_owned())
        }
        _ => ErrandError::Words(error),
    }
}

/// What a driver wants of machines.
fn machines_of(driver: DriverArg) -> Machines {
    match driver {
        DriverArg::Process | DriverArg::Sim => Machines::None,
        DriverArg::Auto => Machines::Perhaps,
        DriverArg::Qemu | DriverArg::CloudHypervisor => Machines::Wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Errand, ErrandError> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        Errand::of(&words, Path::new("/w"))
    }

    #[track_caller]
    fn check(line: &str, machines: Machines, files: &[&str], out: &[&str], has_input: bool) {
        let errand = of(line).unwrap();
        let texts = |paths: &[PathBuf]| -> Vec<String> {
            paths.iter().map(|path| path.to_str().unwrap().to_owned()).collect()
        };
        let single = errand.scenario.into_iter().chain(errand.image);
        let named: Vec<PathBuf> = [errand.files, errand.programs, single.collect()].concat();
        assert_eq!((errand.machines, errand.has_input), (machines, has_input), "{line}");
        assert_eq!(
            (texts(&named).as_slice(), texts(&errand.out).as_slice()),
            (owned(files).as_slice(), owned(out).as_slice()),
            "{line}"
        );
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn command_takes_what_it_names_and_brings_what_it_makes() {
        check("run a.yaml --driver process", Machines::None, &["/w/a.yaml"], &["/w/runs"], false);
        check("run /s/a.yaml --out b", Machines::Perhaps, &["/s/a.yaml"], &["/w/b"], false);
        check(
            "run a.yaml --driver qemu --image i",
            Machines::Wanted,
            &["/w/a.yaml", "/w/i"],
            &["/w/runs"],
            false,
        );
        check("run a.yaml --node-bin n", Machines::None, &["/w/n", "/w/a.yaml"], &["/w/runs"], false);
        check("verify -", Machines::None, &[], &[], true);
        check("verify runs/a", Machines::None, &["/w/runs/a"], &[], false);
        check("doctor", Machines::Tried, &[], &[], false);
        check("selftest --out o", Machines::None, &[], &["/w/o"], false);
        check("image inspect i", Machines::None, &["/w/i"], &[], false);
        check("shell", Machines::Tried, &[], &["/w"], true);
        assert!(of("shell").unwrap().is_shell && !of("doctor").unwrap().is_shell);
    }

    #[test]
    fn command_that_makes_no_sense_in_a_guest_is_refused_with_what_does() {
        let refused = |line: &str| of(line).unwrap_err().to_string();
        let up = "what is up in a guest cannot be worked on from here: `lab rig --with a.yaml shell`, and there `lab up a.yaml &` \
                  and the commands to it";
        assert_eq!(refused("up a.yaml --detach"), up);
        let behind =
            "`--cpus` is an option of the rig, and comes before the command: lab rig --cpus … COMMAND";
        assert_eq!(refused("run a.yaml --cpus=2"), behind);
        assert!(refused("status").starts_with("no lab is up in a guest that has just started"));
        assert!(refused("image build").ends_with("leave `rig` out"));
        assert!(refused("rig doctor").starts_with("a rig in a rig"));
        assert!(refused("run").contains("<FILE>"), "{}", refused("run"));
        assert!(refused("shell now").starts_with("the shell takes no arguments"));
    }
}
