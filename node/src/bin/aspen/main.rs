//! `aspen`: the client of a cluster.

mod bench;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "aspen", version = aspen_node::VERSION, about = "The client of an Aspen cluster")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put load on a cluster and measure it
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let Command::Bench(args) = Cli::parse().command;
    match bench::run(&args) {
        Ok(text) => {
            // A closed pipe is no error of ours.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "aspen: {error}");
            ExitCode::FAILURE
        }
    }
}
