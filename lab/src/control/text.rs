//! What a person reads about a lab: tables and sentences. Pure.

use std::fmt::Write as _;

use super::protocol::{LinkStatus, LinksDone, NodeRole, NodeStatus, Phase, Power, Status};
use crate::check::counted;
use crate::limits::control::LINK_ROWS_MAX;
use crate::observations::Role;

/// Where the last column of a table goes on as far as it likes.
const GAP: &str = "  ";

/// What is said when the cluster serves.
pub(super) fn welcome(status: &Status) -> String {
    let leader = status.nodes.iter().find(|node| node.role == Some(NodeRole::Known(Role::Leader)));
    let leader = leader.map_or(String::new(), |node| {
        format!(", {} leads term {}", node.name, node.term.unwrap_or_default())
    });
    let (count, after) = (status.nodes.len(), age(status.up_ms));
    let verb = if count == 1 { "serves" } else { "serve" };
    let nodes = counted(count as u64, "node");
    let mut text = format!("\n{}: {nodes} {verb} after {after}{leader}\n\n", status.scenario);
    let rows = status.nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.url.clone().unwrap_or_else(|| format!("{} inside the lab", node.address)),
        ]
    });
    text += &table(&[], rows.collect());
    match status.nodes.first().and_then(|node| node.url.as_ref()) {
        Some(url) => {
            let body = r#"{"command":{"Set":{"key":"greeting","value":"hello"}}}"#;
            let _ = write!(text, "\n  curl {url}/kv/write -d '{body}'\n");
        }
        None => {
            text +=
                "\nThe nodes cannot be reached from the host: start the lab with --publish 8080 for that.\n";
        }
    }
    let lab = format!(" --lab {}", status.name);
    let _ = write!(
        text,
        "\nFrom another terminal (with{lab}, if several labs are up):\n\n  cargo lab status\n  cargo lab cut leader\n  \
         cargo lab heal\n  cargo lab kill n1\n  cargo lab down\n"
    );
    text.replace("kill n1", &format!("kill {}", status.nodes.first().map_or("n1", |node| &node.name)))
}

/// A whole lab.
pub(super) fn status(status: &Status) -> String {
    let phase = match status.phase {
        Phase::Calibrating => "calibrating",
        Phase::Booting => "booting",
        Phase::Serving => "up",
        Phase::Stopping => "stopping",
    };
    let Status { name, driver, slowdown, seed, pid, up_ms, .. } = status;
    let slowdown = slowdown.as_deref().filter(|slowdown| *slowdown != "1");
    let slowdown = slowdown.map_or(String::new(), |slowdown| format!(", slowdown {slowdown}"));
    let age = age(*up_ms);
    let mut text =
        format!("{name}: {phase} for {age} (driver {driver}{slowdown}, seed {seed}, process {pid})\n");
    let _ = write!(text, "run directory: {}\n\n", status.directory.display());
    let head = ["NODE", "STATE", "ROLE", "TERM", "APPLIED", "ADDRESS", "URL"];
    text += &table(&head, status.nodes.iter().map(node_row).collect());
    text.push('\n');
    text + &links(&status.links)
}

/// What was done to links, and what is in force now.
pub(super) fn links_done(done: &LinksDone) -> String {
    let LinksDone { text, took_us, links: now } = done;
    format!(
        "{text}, in force after {:.1} ms\n\n{}",
        f64::from(u32::try_from(*took_us).unwrap_or(u32::MAX)) / 1e3,
        links(now)
    )
}

fn node_row(node: &NodeStatus) -> Vec<String> {
    let absent = || "-".to_owned();
    let number = |number: Option<u64>| number.map_or_else(absent, |number| number.to_string());
    let state = match node.state {
        Power::Running => "running",
        Power::Paused => "paused",
        Power::Down => "down",
    };
    let role = match node.role {
        None => "-",
        Some(NodeRole::Unreachable(_)) => "unreachable",
        Some(NodeRole::Known(Role::Leader)) => "leader",
        Some(NodeRole::Known(Role::Follower)) => "follower",
        Some(NodeRole::Known(Role::Candidate)) => "candidate",
        Some(NodeRole::Known(Role::Learner)) => "learner",
        Some(NodeRole::Known(Role::Shutdown)) => "stopping",
    };
    vec![
        node.name.clone(),
        state.to_owned(),
        role.to_owned(),
        number(node.term),
        number(node.applied_index),
        node.address.clone(),
        node.url.clone().unwrap_or_else(absent),
    ]
}

/// The links that are not perfect; those that are alike in both directions share a row.
fn links(links: &[LinkStatus]) -> String {
    if links.is_empty() {
        return "every link is perfect\n".to_owned();
    }
    let mut rows = Vec::new();
    for link in links {
        let back =
            links.iter().find(|back| back.from == link.to && back.to == link.from && is_alike(link, back));
        match back {
            // It stands where the first of the two is.
            Some(back) if back.from < link.from => {}
            Some(back) => rows.push(link_row(link, "<->", back.frames_dropped)),
            None => rows.push(link_row(link, "->", 0)),
        }
    }
    let left_out = rows.len().saturating_sub(LINK_ROWS_MAX);
    rows.truncate(LINK_ROWS_MAX);
    let mut text = table(&["LINK", "NOW", "BY", "SINCE", "FRAMES DROPPED"], rows);
    if left_out > 0 {
        let _ = writeln!(text, "and {left_out} more: `lab status --json` has all of them");
    }
    text
}

/// Whether a link and the way back are treated alike, by one command.
fn is_alike(link: &LinkStatus, back: &LinkStatus) -> bool {
    let what = |link: &LinkStatus| (link.is_cut, link.effect, link.is_by_hand, link.in_force_ms);
    what(link) == what(back)
}

fn link_row(link: &LinkStatus, arrow: &str, dropped_back: u64) -> Vec<String> {
    vec![
        format!("{} {arrow} {}", link.from, link.to),
        if link.is_cut { "cut".to_owned() } else { link.effect.to_string() },
        if link.is_by_hand { "hand" } else { "scenario" }.to_owned(),
        age(link.in_force_ms),
        (link.frames_dropped + dropped_back).to_string(),
    ]
}

/// `2m 5s`.
fn age(ms: u64) -> String {
    let seconds = ms / 1_000;
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, _) => format!("{}.{}s", seconds, ms % 1_000 / 100),
        (0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (hours, minutes, _) => format!("{hours}h {minutes}m"),
    }
}

/// Rows below a head, each column as wide as it has to be.
fn table(head: &[&str], mut rows: Vec<Vec<String>>) -> String {
    if !head.is_empty() {
        rows.insert(0, head.iter().map(|cell| (*cell).to_owned()).collect());
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join(GAP);
        let _ = writeln!(text, "{GAP}{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Unreachable;
    use crate::scenario::LinkEffect;

    fn link(from: &str, to: &str, is_cut: bool, in_force_ms: u64, frames_dropped: u64) -> LinkStatus {
        let effect =
            LinkEffect { latency_ms: 40, jitter_ms: 5, loss_per_million: 10_000, ..LinkEffect::default() };
        let (from, to) = (from.to_owned(), to.to_owned());
        LinkStatus { from, to, is_cut, effect, is_by_hand: is_cut, in_force_ms, frames: 9, frames_dropped }
    }

    fn node(name: &str, state: Power, role: Option<NodeRole>) -> NodeStatus {
        NodeStatus {
            name: name.to_owned(),
            state,
            role,
            term: role.map(|_| 12),
            applied_index: role.map(|_| 3),
            address: "10.1.2.10:20000".to_owned(),
            url: (name == "n1").then(|| "http://127.0.0.1:8080".to_owned()),
            console: "/r/nodes/n1/console.log".into(),
        }
    }

    fn lab() -> Status {
        Status {
            name: "three-nodes-1".to_owned(),
            scenario: "three-nodes".to_owned(),
            directory: "/r/three-nodes-1".into(),
            pid: 77,
            seed: 1,
            driver: "process".to_owned(),
            slowdown: Some("1".to_owned()),
            phase: Phase::Serving,
            up_ms: 125_400,
            nodes: vec![
                node("n1", Power::Running, Some(NodeRole::Known(Role::Leader))),
                node("n2", Power::Running, Some(NodeRole::Unreachable(Unreachable::Unreachable))),
                node("n10", Power::Down, None),
            ],
            links: vec![],
        }
    }

    #[test]
    fn status_shows_every_node_in_a_column_as_wide_as_needed() {
        let want = "\
three-nodes-1: up for 2m 5s (driver process, seed 1, process 77)
run directory: /r/three-nodes-1

  NODE  STATE    ROLE         TERM  APPLIED  ADDRESS          URL
  n1    running  leader       12    3        10.1.2.10:20000  http://127.0.0.1:8080
  n2    running  unreachable  12    3        10.1.2.10:20000  -
  n10   down     -            -     -        10.1.2.10:20000  -

every link is perfect
";
        assert_eq!(status(&lab()), want);
        let slow = Status { driver: "qemu with tcg".to_owned(), slowdown: Some("2.5".to_owned()), ..lab() };
        let first = "three-nodes-1: up for 2m 5s (driver qemu with tcg, slowdown 2.5, seed 1, process 77)\n";
        assert!(status(&slow).starts_with(first), "{}", status(&slow));
        let early = Status { phase: Phase::Calibrating, slowdown: None, up_ms: 3_000, ..slow };
        let first = "three-nodes-1: calibrating for 3.0s (driver qemu with tcg, seed 1, process 77)\n";
        assert!(status(&early).starts_with(first), "{}", status(&early));
    }

    #[test]
    fn links_that_are_alike_both_ways_share_a_row() {
        let list = [
            link("n1", "n2", true, 3_400, 20),
            link("n1", "n3", false, 4_000_000, 0),
            link("n2", "n1", true, 3_400, 22),
            link("n3", "n1", false, 4_000_001, 1),
        ];
        let want = "
  LINK       NOW                     BY        SINCE  FRAMES DROPPED
  n1 <-> n2  cut                     hand      3.4s   42
  n1 -> n3   40 ms ± 5 ms, 1 % loss  scenario  1h 6m  0
  n3 -> n1   40 ms ± 5 ms, 1 % loss  scenario  1h 6m  1
";
        assert_eq!(format!("\n{}", links(&list)), want);
    }

    #[test]
    fn links_that_nobody_would_read_are_counted() {
        let list: Vec<LinkStatus> =
            (0..LINK_ROWS_MAX + 5).map(|number| link("n1", &format!("m{number}"), true, 0, 0)).collect();
        let text = links(&list);
        assert!(text.ends_with("\nand 5 more: `lab status --json` has all of them\n"), "{text}");
        assert_eq!(text.lines().count(), LINK_ROWS_MAX + 2);
    }

    #[test]
    fn welcome_has_a_line_to_paste_or_says_how_to_get_one() {
        let text = welcome(&lab());
        assert!(text.starts_with("\nthree-nodes: 3 nodes serve after 2m 5s, n1 leads term 12\n\n"), "{text}");
        let curl = "\n  curl http://127.0.0.1:8080/kv/write -d '{\"command\":{\"Set\":{\"key\":\"greeting\",\"value\":\"hello\"}}}'\n";
        assert!(text.contains(curl), "{text}");
        let mut without = lab();
        for node in &mut without.nodes {
            node.url = None;
        }
        assert!(welcome(&without).contains("start the lab with --publish 8080"), "{}", welcome(&without));
    }
}
