//! What the appliance and those who build or boot it have to agree on: where things are, what a configuration says, and
//! what is said over console and control channel.
//!
//! The lab uses this library to build images and to drive the machines that run them.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails says where"))]

pub mod blocks;
pub mod config;
pub mod control;
pub mod layout;
pub mod limits;
pub mod modules;
pub mod ports;
pub mod report;
pub mod texts;
