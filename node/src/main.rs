//! `aspen-node`: words in, exit code out.

use std::process::ExitCode;

use aspen_node::config::Cli;
use clap::Parser;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    aspen_node::run::main(Cli::parse())
}
