//! `lab`.

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use aspen_lab::doctor::{self, DoctorError};
use aspen_lab::sandbox::{self, Inner, Stage};

/// Something is broken.
const EXIT_FAILED: u8 = 1;
/// The host forbids or lacks something.
const EXIT_REFUSED: u8 = 3;
/// What was typed makes no sense (sysexits(3), `EX_USAGE`).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    // First of all: the middle stage must have no other thread.
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match sandbox::dispatch(arguments.clone()) {
        Some(Stage::Finished(code)) => ExitCode::from(code),
        // The outer process says why.
        Some(Stage::Inner(stage)) => stage.enter().map_or(ExitCode::from(EXIT_REFUSED), inner),
        None => outer(&arguments),
    }
}

fn outer(arguments: &[OsString]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let hold = match words[..] {
        ["doctor"] => false,
        ["doctor", doctor::HOLD] => true,
        _ => return usage(),
    };
    match doctor::run(hold, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let refused = matches!(&error, DoctorError::Sandbox(error) if error.is_refused());
            print_error(&error);
            ExitCode::from(if refused { EXIT_REFUSED } else { EXIT_FAILED })
        }
    }
}

fn inner(inner: Inner) -> ExitCode {
    let outcome = doctor::run_inner(inner);
    outcome.map_or_else(
        |error| {
            print_error(&error);
            ExitCode::from(EXIT_FAILED)
        },
        |()| ExitCode::SUCCESS,
    )
}

#[allow(clippy::print_stderr, reason = "main alone prints")]
fn print_error(error: &dyn Error) {
    eprintln!("lab: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
}

#[allow(clippy::print_stderr, reason = "main alone prints")]
fn usage() -> ExitCode {
    eprintln!("usage: lab doctor [--hold]");
    ExitCode::from(EXIT_USAGE)
}
