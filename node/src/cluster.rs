//! Who a node is, and whether it may still be that.

pub mod identity;
pub mod retired;
