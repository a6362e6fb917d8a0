//! The end-to-end tests: real binaries, real namespaces, real verdicts.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod lab;
mod runs;
mod sandbox;
