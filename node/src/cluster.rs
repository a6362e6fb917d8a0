//! Who a node is.

pub mod identity;
