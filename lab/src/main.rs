//! `lab`: words in, exit code out. The first thing that happens is the question which stage of the sandbox this process
//! is: the middle one must have a single thread.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use aspen_lab::bench::{self, BenchError};
use aspen_lab::causes::causes;
use aspen_lab::cli::{Cli, Command, NODE_PART};
use aspen_lab::control::{ClientError, UpError};
use aspen_lab::doctor::{self, DoctorError};
use aspen_lab::explore::{self, ExploreError};
use aspen_lab::fabric_check::{self, FabricCheckError};
use aspen_lab::machine::kvm;
use aspen_lab::program::{confine, leash, privileges};
use aspen_lab::rig::{self, RigError};
use aspen_lab::sandbox::{self, Stage};
use aspen_lab::selftest::SelftestError;
use aspen_lab::session::OuterError;
use aspen_lab::verify::VerifyError;
use aspen_lab::{control, image, selftest, session, verify};
use clap::Parser;
use mimalloc::MiMalloc;

/// The node's own: this program can be one.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Something is broken.
const EXIT_FAILED: u8 = 1;
/// There is no verdict.
const EXIT_INVALID: u8 = 2;
/// The host forbids or lacks something.
const EXIT_REFUSED: u8 = 3;
/// The command line or a file is wrong (`EX_USAGE`, sysexits.h).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    if let Some(code) = rig::dispatch() {
        return code;
    }
    match sandbox::dispatch(std::env::args_os().skip(1)) {
        Some(Stage::Finished(code)) => return ExitCode::from(code),
        Some(Stage::Inner(stage)) => return inner(stage),
        None => {}
    }
    let part = std::env::args_os().nth(1).unwrap_or_default();
    let words = || std::env::args_os().skip(2);
    match part.to_str() {
        Some(confine::STAGE) => return confine::stage(words()),
        Some(leash::STAGE) => return leash::stage(words()),
        Some(privileges::STAGE) => return privileges::stage(words()),
        Some(NODE_PART) => {
            let words = std::env::args_os().take(1).chain(words());
            return aspen_node::config::Cli::read(words).map_or_else(|code| code, aspen_node::run::main);
        }
        Some(kvm::TRIAL_PART) => return kvm::trial(),
        Some(control::HOLDER) => return finish(control::run_holder(words().next()), UpError::exit_code),
        _ => {}
    }
    match Cli::try_parse() {
        Ok(cli) => command(&cli.command),
        Err(error) => {
            // --help and --version are no errors. A closed terminal cannot be told anything.
            let _ = error.print();
            if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
        }
    }
}

/// What was typed.
fn command(command: &Command) -> ExitCode {
    let out = &mut std::io::stdout();
    match command {
        Command::Run(args) => finish(session::run_outer(args), OuterError::exit_code),
        Command::Explore(args) => finish(explore::run(args, out), ExploreError::exit_code),
        Command::Up(args) => finish(control::up(args), UpError::exit_code),
        Command::Control(command) => finish(control::run(command, out), ClientError::exit_code),
        Command::Verify(args) => finish(verify::run(args, out), VerifyError::exit_code),
        Command::Selftest(args) => finish(selftest::run(args, out), SelftestError::exit_code),
        Command::Bench(args) => finish(bench::run(args, out), BenchError::exit_code),
        Command::FabricCheck(args) => finish(fabric_check::run(args, out), FabricCheckError::exit_code),
        Command::Image(command) => {
            let done = image::command::run(command, out, &mut std::io::stderr());
            finish(done.map(|()| 0), |_| EXIT_FAILED)
        }
        Command::Rig(args) => finish(rig::run(args), RigError::exit_code),
        Command::Doctor { hold, fix } => {
            finish(doctor::run(*hold, *fix, out).map(|()| 0), DoctorError::exit_code)
        }
    }
}

/// The inner process of a sandbox.
fn inner(stage: sandbox::InnerStage) -> ExitCode {
    let inner = match stage.enter() {
        Ok(inner) => inner,
        // The outer has been told, and tells the user.
        Err(error) => return ExitCode::from(if error.is_refused() { EXIT_REFUSED } else { EXIT_INVALID }),
    };
    let part = inner.arguments.first().cloned().unwrap_or_default();
    if part == doctor::INNER {
        finish(doctor::run_inner(inner).map(|()| 0), |_| EXIT_FAILED)
    } else if part == fabric_check::INNER {
        finish(fabric_check::run_inner(inner), |_| EXIT_INVALID)
    } else if part == control::INNER {
        finish(control::run_inner(inner), |_| EXIT_INVALID)
    } else {
        finish(session::run_inner(inner), |_| EXIT_INVALID)
    }
}

/// The exit code of what was done; an error is told first.
fn finish<E: Error>(done: Result<u8, E>, code: impl FnOnce(&E) -> u8) -> ExitCode {
    ExitCode::from(done.unwrap_or_else(|error| {
        report(&error);
        code(&error)
    }))
}

/// Prints an error, each cause on a line of its own.
fn report(error: &dyn Error) {
    let text = causes(error).replace('\n', "\n  ");
    // Nobody reads: nobody can be told.
    let _ = writeln!(std::io::stderr(), "lab: {text}");
}
