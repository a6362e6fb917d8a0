//! `aspen-node-planted`: the node with its planted bugs, beside the sound one and under a name that cannot be mistaken.

use std::process::ExitCode;

use aspen_node::config::Cli;
use clap::Parser;

fn main() -> ExitCode {
    aspen_node::run::main(Cli::parse())
}
