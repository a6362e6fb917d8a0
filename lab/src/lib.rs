//! Aspen's lab: boots clusters from scenario files, breaks them on purpose and judges what they did.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails says where"))]

pub mod doctor;
pub mod fabric;
pub mod limits;
pub mod link;
pub mod machine;
pub mod program;
pub mod sandbox;
