//! The load: seeded clients that call, and write down every call and every answer.

pub mod client;
pub mod register;
