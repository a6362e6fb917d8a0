//! `aspen-init`: the first program of the appliance, and the only one besides the node.
//!
//! It is no program for a running system: to anything but process 1 it says its version, and no more.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails says where"))]

mod pid1;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        if std::env::args().skip(1).eq(["--version"]) {
            let text = concat!("aspen-init ", env!("CARGO_PKG_VERSION"), "\n");
            let written = std::io::stdout().write_all(text.as_bytes());
            return if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        let text = "aspen-init: this is process 1 of the appliance, and nothing to start by hand\n";
        // Nobody reads: nobody can be told.
        let _ = std::io::stderr().write_all(text.as_bytes());
        return ExitCode::from(64);
    }
    pid1::run()
}
