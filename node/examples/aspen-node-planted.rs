//! `aspen-node-planted`: the node with its planted bugs, beside the sound one and under a name that cannot be mistaken.

use std::process::ExitCode;

use aspen_node::config::Cli;

fn main() -> ExitCode {
    Cli::read(std::env::args_os()).map_or_else(|code| code, aspen_node::run::main)
}
