//! `aspen-node`: words in, exit code out.

use std::process::ExitCode;

use aspen_node::config::Cli;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    Cli::read(std::env::args_os()).map_or_else(|code| code, aspen_node::run::main)
}
