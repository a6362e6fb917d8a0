//! What is under test: how an operation becomes a request, and what an answer means.

pub mod aspen;
