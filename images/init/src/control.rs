//! The control channel: what a lab asks a running appliance, and what it answers.
//!
//! Both are JSON, one object a line: `{"id":7,"do":"health"}`, answered by `{"id":7,"ok":{…}}` or
//! `{"id":7,"error":"…"}`. An answer bears the number of its request; requests are answered one after the other, but for
//! probes, which take their time. It says nothing of how the lines travel.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A question or an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the asker, and repeated in the answer.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub order: Order,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    /// How the node is: answered by [`Health`].
    Health,
    /// Sets the clock: answered by [`Done`].
    SetClock {
        /// Milliseconds since 1970-01-01 UTC.
        unix_ms: i64,
    },
    /// Moves the clock: answered by [`Done`].
    StepClock {
        /// By so many milliseconds, back when negative.
        by_ms: i64,
    },
    /// Lets the clocks run fast, or slow when negative: answered by [`Done`]. All of them but `CLOCK_MONOTONIC_RAW`, and with
    /// them every timer.
    DriftClock {
        /// By how many parts per million, at most [`crate::limits::DRIFT_PER_MILLION_MAX`] either way; 0 is as before.
        per_million: i32,
    },
    /// Sets the clock, lets all clocks run as they should, and leaves them to the appliance, which follows the hypervisor's
    /// where there is one: answered by [`Done`].
    MendClock {
        /// Milliseconds since 1970-01-01 UTC.
        unix_ms: i64,
    },
    /// Sends a TCP SYN: answered by [`Probed`].
    Probe {
        /// Where to.
        to: SocketAddr,
        /// How long the answer is waited for, in milliseconds, 1 to [`crate::limits::PROBE_MS_MAX`].
        within_ms: u64,
    },
    /// Says that the machine was put back to an earlier state, memory or disk. The node ends at once and never runs again on
    /// this disk, which is answered by [`Done`]; then the machine goes off.
    PutBack,
    /// Writes 1 MiB to the data disk that nobody flushes: answered by [`Done`] when the disk has it. Then, or before, the machine
    /// loses its power.
    WriteUnflushed {
        /// What is written, again and again: another one each time.
        word: u32,
    },
    /// Stops the node and goes off: answered by [`Done`] before that.
    Stop,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// The request's number; 0 when the line was no request.
    pub id: u64,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome<T>,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<T> {
    /// It was done.
    Ok(T),
    /// It was not, and why.
    Error(String),
}

/// How the node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What it does.
    pub node: NodeState,
    /// Its process; nothing when there is none.
    pub node_pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u64,
    /// `CLOCK_BOOTTIME`, in milliseconds.
    pub uptime_ms: u64,
    /// The clock, in milliseconds since 1970-01-01 UTC.
    pub clock_ms: i64,
}

/// What the node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It runs.
    Running,
    /// It ended unasked and will be started again.
    Restarting,
    /// It was stopped, or was not started yet.
    Stopped,
}

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probed {
    /// A SYN-ACK or a RST came back after so many microseconds (RFC 9293, 3.5).
    AnsweredUs(u64),
    /// Nothing came back in time; always true.
    Unanswered(bool),
}

/// Nothing more to say than that it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: PartialEq + std::fmt::Debug + Serialize + for<'de> Deserialize<'de>>(value: T, json: &str) {
        assert_eq!(serde_json::to_string(&value).unwrap(), json);
        assert_eq!(serde_json::from_str::<T>(json).unwrap(), value);
    }

    #[test]
    fn requests_are_as_documented() {
        check(Request { id: 7, order: Order::Health }, r#"{"id":7,"do":"health"}"#);
        check(
            Request { id: 8, order: Order::SetClock { unix_ms: 1_700_000_000_000 } },
            r#"{"id":8,"do":"set_clock","unix_ms":1700000000000}"#,
        );
        check(
            Request { id: 9, order: Order::StepClock { by_ms: -5 } },
            r#"{"id":9,"do":"step_clock","by_ms":-5}"#,
        );
        let to = "10.0.0.2:7001".parse().unwrap();
        check(
            Request { id: 10, order: Order::Probe { to, within_ms: 500 } },
            r#"{"id":10,"do":"probe","to":"10.0.0.2:7001","within_ms":500}"#,
        );
        check(Request { id: 11, order: Order::Stop }, r#"{"id":11,"do":"stop"}"#);
        check(
            Request { id: 14, order: Order::MendClock { unix_ms: 1_700_000_000_000 } },
            r#"{"id":14,"do":"mend_clock","unix_ms":1700000000000}"#,
        );
        check(Request { id: 12, order: Order::PutBack }, r#"{"id":12,"do":"put_back"}"#);
        check(
            Request { id: 15, order: Order::WriteUnflushed { word: 7 } },
            r#"{"id":15,"do":"write_unflushed","word":7}"#,
        );
        check(
            Request { id: 13, order: Order::DriftClock { per_million: -500 } },
            r#"{"id":13,"do":"drift_clock","per_million":-500}"#,
        );
        let unknown = serde_json::from_str::<Request>(r#"{"id":7,"do":"dance"}"#).unwrap_err().to_string();
        assert!(unknown.starts_with("unknown variant `dance`, expected one of `health`"), "{unknown}");
    }

    #[test]
    fn answers_are_as_documented() {
        let health = Health {
            node: NodeState::Restarting,
            node_pid: None,
            restarts: 2,
            uptime_ms: 1500,
            clock_ms: 1_700_000_000_000,
        };
        check(
            Answer { id: 7, outcome: Outcome::Ok(health) },
            r#"{"id":7,"ok":{"node":"restarting","node_pid":null,"restarts":2,"uptime_ms":1500,"clock_ms":1700000000000}}"#,
        );
        check(Answer { id: 8, outcome: Outcome::Ok(Done {}) }, r#"{"id":8,"ok":{}}"#);
        check(
            Answer { id: 9, outcome: Outcome::Ok(Probed::AnsweredUs(40)) },
            r#"{"id":9,"ok":{"answered_us":40}}"#,
        );
        check(
            Answer { id: 9, outcome: Outcome::Ok(Probed::Unanswered(true)) },
            r#"{"id":9,"ok":{"unanswered":true}}"#,
        );
        check(
            Answer::<Done> { id: 0, outcome: Outcome::Error("no request".to_owned()) },
            r#"{"id":0,"error":"no request"}"#,
        );
    }
}
