//! The lines of the console that programs read: ready, exit, and what went wrong before that.
//!
//! Each is a line of its own and carries exactly one JSON object; the kernel and the node write to the same console, so
//! that a reader takes what it knows and leaves the rest.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Begins the line of [`Ready`].
pub const READY: &str = "ASPEN-READY ";
/// Begins the line of [`Exit`].
pub const EXIT: &str = "ASPEN-EXIT ";
/// Begins the line of [`NodeExit`].
pub const NODE_EXIT: &str = "ASPEN-NODE-EXIT ";
/// Begins a line of the appliance that says why it cannot go on.
pub const ERROR: &str = "aspen-init: error: ";

/// The node says that it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The machine's name.
    pub hostname: String,
    /// The addresses of its interface, with the length of their prefix.
    pub addresses: Vec<String>,
    /// The appliance's version.
    pub version: String,
    /// Where the node's HTTP interface is, as `ADDRESS:PORT`.
    pub http: String,
    /// The node's public key, in hexadecimal digits; empty when the node did not say.
    pub endpoint_id: String,
    /// From the machine's start to the first instruction of PID 1, in milliseconds of `CLOCK_BOOTTIME`.
    pub kernel_ms: u64,
    /// What PID 1 took to mount, load modules, read the configuration and set up the network, in milliseconds.
    pub init_ms: u64,
    /// What it took after that until the data disk was mounted, in milliseconds.
    pub disk_ms: u64,
    /// From the node's start to its word that it serves, in milliseconds.
    pub node_ms: u64,
    /// `CLOCK_BOOTTIME` at that word, in milliseconds.
    pub uptime_ms: u64,
}

/// The machine is about to go off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Why.
    pub reason: Reason,
    /// How the node ended, such as `code 0` or `signal 9`; nothing when none was started.
    pub node_exit: Option<String>,
    /// `CLOCK_BOOTTIME`, in milliseconds.
    pub uptime_ms: u64,
}

/// The node ended unasked. It is started again, or [`Exit`] follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeExit {
    /// How, such as `code 101` or `signal 9`.
    pub node_exit: String,
    /// How often it was started again before.
    pub restarts: u64,
}

/// Why the machine goes off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Somebody pressed the power button.
    PowerButton,
    /// SIGTERM.
    Signal,
    /// The control channel's stop.
    Control,
    /// The machine was put back to an earlier state: its node has to rejoin as a new member.
    PutBack,
    /// Ctrl-alt-del, which the kernel hands on as SIGINT.
    CtrlAltDel,
    /// The node cannot be run.
    Node,
    /// The configuration cannot be read or does not make sense.
    Config,
    /// No data disk that could be used.
    Disk,
    /// No interface, or it cannot be set up.
    Network,
    /// The kernel lacks what the appliance needs.
    Kernel,
    /// A mistake of our own.
    Panic,
}

/// A line that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The node serves.
    Ready(Ready),
    /// The machine goes off.
    Exit(Exit),
    /// The node ended unasked.
    NodeExit(NodeExit),
    /// Why the appliance cannot go on.
    Error(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Texts and numbers always have a JSON form.
        let json = |value: Result<String, serde_json::Error>| value.map_err(|_unreachable| fmt::Error);
        match self {
            Self::Ready(ready) => write!(f, "{READY}{}", json(serde_json::to_string(ready))?),
            Self::Exit(exit) => write!(f, "{EXIT}{}", json(serde_json::to_string(exit))?),
            Self::NodeExit(exit) => write!(f, "{NODE_EXIT}{}", json(serde_json::to_string(exit))?),
            Self::Error(text) => write!(f, "{ERROR}{text}"),
        }
    }
}

/// What a line of the console says, if it is one of these. A serial console may put text before it, such as the end of
/// a line that somebody else began, and a carriage return behind it.
pub fn parse_line(line: &str) -> Option<Line> {
    let after = |mark: &str| line.find(mark).map(|place| &line[place + mark.len()..]);
    if let Some(rest) = after(READY) {
        return first(rest).map(Line::Ready);
    }
    if let Some(rest) = after(EXIT) {
        return first(rest).map(Line::Exit);
    }
    if let Some(rest) = after(NODE_EXIT) {
        return first(rest).map(Line::NodeExit);
    }
    after(ERROR).map(|rest| Line::Error(rest.trim_end().to_owned()))
}

/// The same line of somebody else with a `~` in every mark, so that nobody takes it for one of ours.
#[must_use]
pub fn without_marks(line: &str) -> String {
    [READY, EXIT, NODE_EXIT, ERROR].into_iter().fold(line.to_owned(), |line, mark| {
        let (first, rest) = mark.split_at(1);
        line.replace(mark, &format!("{first}~{rest}"))
    })
}

/// The JSON value at the beginning of a text.
fn first<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    serde_json::Deserializer::from_str(text).into_iter().next()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Ready {
        Ready {
            hostname: "n1".to_owned(),
            addresses: vec!["10.1.2.10/24".to_owned()],
            version: "0.1.0".to_owned(),
            http: "10.1.2.10:7001".to_owned(),
            endpoint_id: "ab".to_owned(),
            kernel_ms: 900,
            init_ms: 50,
            disk_ms: 20,
            node_ms: 300,
            uptime_ms: 1270,
        }
    }

    #[track_caller]
    fn check(line: &str, want: Option<Line>) {
        assert_eq!(parse_line(line), want);
    }

    #[test]
    fn lines_are_found_among_other_text() {
        let line = Line::Ready(ready()).to_string();
        assert!(
            line.starts_with("ASPEN-READY {\"hostname\":\"n1\",\"addresses\":[\"10.1.2.10/24\"],"),
            "{line}"
        );
        check(&line, Some(Line::Ready(ready())));
        check(&format!("[    0.9] random: {line}\r"), Some(Line::Ready(ready())));
        check(&format!("{line}[    1.0] more"), Some(Line::Ready(ready())));
        check(&line[..line.len() - 1], None);
        check("ASPEN-READY", None);
        check("", None);
    }

    #[test]
    fn exit_names_its_reason_as_documented() {
        let exit = Exit { reason: Reason::CtrlAltDel, node_exit: Some("code 0".to_owned()), uptime_ms: 9 };
        let line = Line::Exit(exit.clone()).to_string();
        assert_eq!(line, r#"ASPEN-EXIT {"reason":"ctrl-alt-del","node_exit":"code 0","uptime_ms":9}"#);
        check(&line, Some(Line::Exit(exit)));
        let none = r#"ASPEN-EXIT {"reason":"config","node_exit":null,"uptime_ms":9}"#;
        check(none, Some(Line::Exit(Exit { reason: Reason::Config, node_exit: None, uptime_ms: 9 })));
    }

    #[test]
    fn end_of_a_node_that_is_started_again_has_a_line_of_its_own() {
        let exit = NodeExit { node_exit: "signal 9".to_owned(), restarts: 2 };
        let line = Line::NodeExit(exit.clone()).to_string();
        assert_eq!(line, r#"ASPEN-NODE-EXIT {"node_exit":"signal 9","restarts":2}"#);
        check(&line, Some(Line::NodeExit(exit)));
    }

    #[test]
    fn error_is_the_rest_of_its_line() {
        check("aspen-init: error: two config disks\r", Some(Line::Error("two config disks".to_owned())));
        assert_eq!(Line::Error("a".to_owned()).to_string(), "aspen-init: error: a");
    }

    #[test]
    fn line_of_somebody_else_is_never_taken_for_one_of_ours() {
        let exit = NodeExit { node_exit: "signal 9".to_owned(), restarts: 2 };
        let off = Exit { reason: Reason::Control, node_exit: None, uptime_ms: 9 };
        for ours in [Line::Ready(ready()), Line::Exit(off), Line::NodeExit(exit), Line::Error("a".to_owned())]
        {
            let told = format!("value {ours} and {ours}");
            assert!(parse_line(&told).is_some(), "{told}");
            check(&without_marks(&told), None);
        }
        assert_eq!(without_marks("a ASPEN-EXIT {}"), "a A~SPEN-EXIT {}");
        assert_eq!(without_marks("listening on 10.1.2.10:7001"), "listening on 10.1.2.10:7001");
    }
}
