//! Bounds of `lab up` and of the commands that work on a lab that is up.

use std::time::Duration;

use super::NODES_MAX;
use super::machines::CONSOLE_READ_BYTES;

/// Longest path of a Unix socket, in bytes: `sun_path` less the final NUL (unix(7)).
pub const CONTROL_PATH_BYTES_MAX: usize = 107;
/// Longest line on a control socket, in bytes: the status of the largest cluster, with something done to each of its links,
/// has half of it.
pub const CONTROL_LINE_BYTES_MAX: u64 = 1 << 20;
/// Most connections to a control socket at once: a person has a few terminals, and each `console --follow` keeps one. Further
/// ones wait.
pub const CONTROL_CONNECTIONS_MAX: usize = 32;
/// How long a command tries to reach a lab whose queue of connections is full: one that lives takes them within milliseconds.
pub const CONTROL_CONNECT_MAX: Duration = Duration::from_secs(5);
/// After how long a command that waits for the lab's answer says so. Most answers take milliseconds; how long a node takes to
/// start or to stop depends on the lab's slowdown, and the lab itself keeps the bounds of that.
pub const CONTROL_WORD_AFTER: Duration = Duration::from_secs(5);
/// How long a lab has to say which one it is, when there are several: it answers within milliseconds.
pub const CONTROL_HELLO_MAX: Duration = Duration::from_secs(2);
/// How long a lab that ends waits until its last answers are sent.
pub const CONTROL_FAREWELL_MAX: Duration = Duration::from_secs(1);
/// Most connections to published ports at once, over all nodes. Each takes two descriptors of the usual 1,024. Further ones
/// wait.
pub const PUBLISH_CONNECTIONS_MAX: usize = 256;
/// How long a connection to a published port may carry nothing, either way, while its node runs: then it is closed, so that
/// those that somebody has forgotten do not keep others waiting. A node answers within seconds or says that it cannot.
pub const PUBLISH_IDLE_MAX: Duration = Duration::from_mins(2);
/// How much is passed on at once, in bytes, each way of a connection.
pub const PUBLISH_BLOCK_BYTES: usize = 16 << 10;
/// Operations per second that the machines of a lab are expected to do, over all nodes: what a person and a small script of
/// theirs ask for. Slow machines are given time for so many, not for the load of the scenario, which nobody puts on them.
pub const HAND_RATE: u32 = 50;
/// Most of a console that is shown, in bytes, from its end: more than anybody scrolls through. What follows it is not bounded.
pub const CONSOLE_END_BYTES_MAX: u64 = 4 << 20;
/// Lines of a console that are shown where nobody says how many: some screens.
pub const CONSOLE_LINES_DEFAULT: u32 = 1_000;
/// Most lines of a console that can be asked for: short ones fill [`CONSOLE_END_BYTES_MAX`] with them.
pub const CONSOLE_LINES_MAX: u32 = 1_000_000;
/// How often a console that is followed is looked at.
pub const CONSOLE_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Most rows about links in a table for a person: a screen. The JSON has all of them.
pub const LINK_ROWS_MAX: usize = 40;

const _: () = {
    // An answer that the node may still give is not cut off. Its bound is its own, whatever the lab's slowdown.
    assert!(PUBLISH_IDLE_MAX.as_millis() > 2 * aspen_node::limits::OPERATION_TIMEOUT.as_millis());
    assert!(CONSOLE_END_BYTES_MAX.is_multiple_of(CONSOLE_READ_BYTES as u64), "whole blocks are read");
    // A line about each directed link, of 300 bytes at most, fits.
    assert!(CONTROL_LINE_BYTES_MAX > 300 * NODES_MAX as u64 * (NODES_MAX as u64 - 1));
};
