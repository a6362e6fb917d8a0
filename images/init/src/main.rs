//! `aspen-init`: the first program of the appliance, and the only one besides the node.
//!
//! It is no program for a running system: it refuses to be anything but process 1.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails says where"))]

mod pid1;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        let text = "aspen-init: this is process 1 of the appliance, and nothing to start by hand\n";
        // Nobody reads: nobody can be told.
        let _ = std::io::stderr().write_all(text.as_bytes());
        return ExitCode::from(64);
    }
    pid1::run()
}
