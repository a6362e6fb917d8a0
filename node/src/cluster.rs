//! Who a node is, whether it may still be that, and how it finds its cluster.

pub mod discovery;
pub mod identity;
pub mod joining;
pub mod labels;
pub mod metadata;
pub mod remains;
pub mod retired;
pub mod reunion;
pub mod ticket;

fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data in memory always encodes")
}
