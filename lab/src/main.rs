//! `lab`: words in, exit code out. The first thing that happens is the question which stage of the sandbox this process
//! is: the middle one must have a single thread.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use aspen_lab::cli::{Cli, Command, NODE_PART};
use aspen_lab::doctor::{self, DoctorError};
use aspen_lab::runner::causes;
use aspen_lab::sandbox::{self, Stage};
use aspen_lab::{control, image, selftest, session, verify};
use clap::Parser;

/// Something is broken.
const EXIT_FAILED: u8 = 1;
/// There is no verdict.
const EXIT_INVALID: u8 = 2;
/// The host forbids or lacks something.
const EXIT_REFUSED: u8 = 3;
/// The command line or a file is wrong (`EX_USAGE`, sysexits.h).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    match sandbox::dispatch(std::env::args_os().skip(1)) {
        Some(Stage::Finished(code)) => return ExitCode::from(code),
        Some(Stage::Inner(stage)) => return inner(stage),
        None => {}
    }
    if std::env::args_os().nth(1).is_some_and(|part| part == NODE_PART) {
        let words = std::env::args_os().enumerate().filter(|(place, _)| *place != 1).map(|(_, word)| word);
        return aspen_node::run::main(aspen_node::config::Cli::parse_from(words));
    }
    if std::env::args_os().nth(1).is_some_and(|part| part == control::HOLDER) {
        return control::run_holder(std::env::args_os().nth(2)).map_or_else(
            |error| {
                report(&error);
                ExitCode::from(error.exit_code())
            },
            ExitCode::from,
        );
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version are no errors. A closed terminal cannot be told anything.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match &cli.command {
        Command::Run(args) => session::run_outer(args).map_or_else(
            |error| {
                report(&error);
                ExitCode::from(error.exit_code())
            },
            ExitCode::from,
        ),
        Command::Up(args) => control::up(args).map_or_else(
            |error| {
                report(&error);
                ExitCode::from(error.exit_code())
            },
            ExitCode::from,
        ),
        Command::Control(command) => control::run(command, &mut std::io::stdout()).map_or_else(
            |error| {
                report(&error);
                ExitCode::from(error.exit_code())
            },
            ExitCode::from,
        ),
        Command::Verify(args) => verify::run(args, &mut std::io::stdout().lock()).map_or_else(
            |error| {
                report(&error);
                ExitCode::from(error.exit_code())
            },
            ExitCode::from,
        ),
        Command::Selftest(args) => selftest::run(args, &mut std::io::stdout()).map_or_else(
            |error| {
                report(&error);
                ExitCode::from(error.exit_code())
            },
            ExitCode::from,
        ),
        Command::Image(command) => {
            image::command::run(command, &mut std::io::stdout().lock(), &mut std::io::stderr()).map_or_else(
                |error| {
                    report(&error);
                    ExitCode::from(EXIT_FAILED)
                },
                |()| ExitCode::SUCCESS,
            )
        }
        Command::Doctor { hold } => doctor::run(*hold, &mut std::io::stdout().lock()).map_or_else(
            |error| {
                report(&error);
                let is_refused = matches!(&error, DoctorError::Sandbox(error) if error.is_refused());
                ExitCode::from(if is_refused { EXIT_REFUSED } else { EXIT_FAILED })
            },
            |()| ExitCode::SUCCESS,
        ),
    }
}

fn inner(stage: sandbox::InnerStage) -> ExitCode {
    match stage.enter() {
        Err(error) => {
            // The outer has been told, and tells the user.
            ExitCode::from(if error.is_refused() { EXIT_REFUSED } else { EXIT_INVALID })
        }
        Ok(inner) if inner.arguments.first().is_some_and(|part| part == doctor::INNER) => {
            doctor::run_inner(inner).map_or_else(
                |error| {
                    report(&error);
                    ExitCode::from(EXIT_FAILED)
                },
                |()| ExitCode::SUCCESS,
            )
        }
        Ok(inner) if inner.arguments.first().is_some_and(|part| part == control::INNER) => {
            control::run_inner(inner).map_or_else(
                |error| {
                    report(&error);
                    ExitCode::from(EXIT_INVALID)
                },
                ExitCode::from,
            )
        }
        Ok(inner) => session::run_inner(inner).map_or_else(
            |error| {
                report(&error);
                ExitCode::from(EXIT_INVALID)
            },
            ExitCode::from,
        ),
    }
}

/// Prints an error, each cause on a line of its own.
fn report(error: &dyn Error) {
    let text = causes(error).replace('\n', "\n  ");
    // Nobody reads: nobody can be told.
    let _ = writeln!(std::io::stderr(), "lab: {text}");
}
