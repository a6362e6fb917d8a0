//! Aspen: a replicated key-value node. Raft by openraft, its log in redb, its state in SQLite, its RPC by irpc
//! over iroh's QUIC, and an HTTP interface.
//!
//! Read the modules in this order; each names only those above it:
//!
//! 1. [`limits`], [`host`], [`types`], [`causes`], [`plant`], [`private`], [`tls`]: the bounds, what it runs on, the words, errors as
//!    texts, bugs planted on purpose, what only its owner may read, and certificates.
//! 2. [`api`]: what a node can be asked, and how it refuses.
//! 3. [`state`]: what a command does. Pure.
//! 4. [`watch`]: the last changes of the state, and who follows them.
//! 5. [`storage`]: the log and the state machine on disk.
//! 6. [`deterministic`]: the traits of [`api`] in memory, without Raft.
//! 7. [`network`]: how Raft's messages travel, and who may send them.
//! 8. [`raft`]: the traits of [`api`], implemented over openraft.
//! 9. [`cluster`]: the node's identity, and how it finds its cluster.
//! 10. [`backup`]: the whole state as one file, and a new cluster made of it.
//! 11. [`config`], [`http`], [`builder`]: from words to a running node.
//! 12. [`client`]: the other side of [`http`].
//! 13. [`simulation`]: nodes on machines that are none.
//!
//! Invariants of a node:
//!
//! - What was acknowledged is durable on a quorum: the log is flushed before an entry counts.
//! - A linearizable read is confirmed by a quorum after it arrived, or it is an error.
//! - Applying an entry never fails for what the entry says: bad input is an [`types::Outcome`].
//! - Every operation ends within [`limits::OPERATION_TIMEOUT`]; a backup, which takes as long as its bytes do, within bounds of its own.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails says where"))]

pub mod api;
pub mod backup;
pub mod builder;
pub mod causes;
pub mod client;
pub mod cluster;
pub mod config;
pub mod deterministic;
pub mod failpoint;
pub mod host;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod network;
pub mod plant;
pub mod private;
pub mod raft;
pub mod run;
pub mod simulation;
pub mod state;
pub mod storage;
pub mod tls;
pub mod types;
pub mod watch;

/// The version that a lab compares with its own.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version, and whether bugs are planted in this build: what `--version` prints behind the program's name.
pub const BUILD: &str = if cfg!(feature = "planted-bugs") {
    concat!(env!("CARGO_PKG_VERSION"), " (planted bugs)")
} else {
    VERSION
};
