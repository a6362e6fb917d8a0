//! What each fuzz target does with an input, whatever its bytes are. The end-to-end tests do the same with the seeds in
//! `corpus/`, so that this is built and tried with every run of the tests.
//!
//! Each module has a function `run`, which panics where the code under test breaks its word, and says whether the input was
//! understood: that of a seed has to be.

pub mod command;
pub mod config;
pub mod http;
pub mod rpc;
pub mod scenario;
pub mod ticket;
