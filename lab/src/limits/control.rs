//! Bounds of `lab up` and of the commands that work on a lab that is up.

use std::time::Duration;

use super::{KILL_WAIT_MAX, NODE_STOP_MAX, NODES_MAX, RESTART_WAIT_MAX};

/// Longest path of a Unix socket, in bytes: `sun_path` less the final NUL (unix(7)).
pub const CONTROL_PATH_BYTES_MAX: usize = 107;
/// Longest line on a control socket, in bytes: the status of the largest cluster, with something done to each of its links,
/// has half of it.
pub const CONTROL_LINE_BYTES_MAX: u64 = 1 << 20;
/// Most connections to a control socket at once: a person has a few terminals, and each `console --follow` keeps one. Further
/// ones wait.
pub const CONTROL_CONNECTIONS_MAX: usize = 32;
/// How long a command waits for the lab's answer: a node that was started has [`RESTART_WAIT_MAX`] to answer, and nodes that
/// stop have [`NODE_STOP_MAX`].
pub const CONTROL_ANSWER_MAX: Duration = Duration::from_mins(2);
/// How long a lab has to say which one it is, when there are several: it answers within milliseconds.
pub const CONTROL_HELLO_MAX: Duration = Duration::from_secs(2);
/// How long a lab that ends waits until its last answers are sent.
pub const CONTROL_FAREWELL_MAX: Duration = Duration::from_secs(1);
/// Most connections to published ports at once, over all nodes. Each takes two descriptors of the usual 1,024. Further ones
/// wait.
pub const PUBLISH_CONNECTIONS_MAX: usize = 256;
/// Operations per second that the machines of a lab are expected to do, over all nodes: what a person and a small script of
/// theirs ask for. Slow machines are given time for so many, not for the load of the scenario, which nobody puts on them.
pub const HAND_RATE: u32 = 50;
/// How often a console that is followed is looked at.
pub const CONSOLE_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Most rows about links in a table for a person: a screen. The JSON has all of them.
pub const LINK_ROWS_MAX: usize = 40;

const _: () = {
    assert!(CONTROL_ANSWER_MAX.as_millis() > RESTART_WAIT_MAX.as_millis() + KILL_WAIT_MAX.as_millis());
    assert!(CONTROL_ANSWER_MAX.as_millis() > NODE_STOP_MAX.as_millis() + CONTROL_FAREWELL_MAX.as_millis());
    // A line about each directed link, of 300 bytes at most, fits.
    assert!(CONTROL_LINE_BYTES_MAX > 300 * NODES_MAX as u64 * (NODES_MAX as u64 - 1));
};
