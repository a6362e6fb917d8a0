//! Aspen's lab: boots clusters from scenario files, breaks them on purpose and judges what they did.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails says where"))]

pub mod bench;
pub mod causes;
pub mod check;
pub mod cli;
pub mod cluster;
mod connect;
pub mod control;
pub mod doctor;
pub mod explore;
pub mod fabric;
pub mod fabric_check;
pub mod history;
pub mod image;
pub mod limits;
pub mod link;
pub mod machine;
pub mod memory;
pub mod observations;
pub mod plan;
pub mod pressure;
pub mod program;
pub mod report;
pub mod rig;
pub mod runner;
pub mod sandbox;
pub mod scenario;
mod scratch;
pub mod selftest;
pub mod session;
pub mod target;
mod trials;
pub mod verify;
pub mod volume;
pub mod workload;

#[cfg(test)]
#[path = "../../tests/it/host.rs"]
#[allow(dead_code, reason = "the end-to-end tests, whose file it is, ask for more")]
mod host;
