//! What a lab is, whether its machines are there or not yet: what can be said of it before a node has said anything.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::links::millis;
use super::protocol::{LinkStatus, NodeStatus, Phase, Power, Status};
use super::publish;
use crate::plan::{NodeIndex, Plan};

/// What does not change while a lab is up.
#[derive(Debug, Clone)]
pub(super) struct About {
    /// The run directory.
    pub(super) directory: PathBuf,
    /// The process that the user can end.
    pub(super) pid: u32,
    /// What runs the nodes.
    pub(super) driver: String,
    /// How many times slower than planned it goes; nothing as long as that is being measured.
    pub(super) slowdown: Option<String>,
    /// The port of the first node on the host.
    pub(super) publish: Option<u16>,
}

impl About {
    /// A node that does not run.
    pub(super) fn node(&self, plan: &Plan, node: NodeIndex) -> NodeStatus {
        let planned = &plan.nodes[node.position()];
        let port = self.publish.map(|first| publish::port(first, node.position()));
        NodeStatus {
            name: planned.name.clone(),
            state: Power::Down,
            role: None,
            term: None,
            applied_index: None,
            address: planned.http_address().to_string(),
            url: port.map(|port| format!("http://127.0.0.1:{port}")),
            console: self.directory.join("nodes").join(&planned.name).join("console.log"),
        }
    }

    /// A whole lab.
    pub(super) fn status(
        &self,
        plan: &Plan,
        phase: Phase,
        up: Duration,
        nodes: Vec<NodeStatus>,
        links: Vec<LinkStatus>,
    ) -> Status {
        Status {
            name: self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            scenario: plan.scenario.clone(),
            directory: self.directory.clone(),
            pid: self.pid,
            seed: plan.seed,
            driver: self.driver.clone(),
            slowdown: self.slowdown.clone(),
            phase,
            up_ms: millis(up),
            nodes,
            links,
        }
    }
}

/// A lab whose machines are still being made, or measured, which takes a minute where they are emulated.
#[derive(Debug)]
pub(super) struct Prospect {
    about: About,
    plan: Arc<Plan>,
    began: Instant,
}

impl Prospect {
    /// A lab that begins now.
    pub(super) fn new(about: About, plan: Arc<Plan>) -> Self {
        Self { about, plan, began: Instant::now() }
    }

    /// How it is: no node runs.
    pub(super) fn status(&self, is_ending: bool) -> Status {
        let nodes = self.plan.node_indexes().map(|node| self.about.node(&self.plan, node)).collect();
        let phase = if is_ending { Phase::Stopping } else { Phase::Calibrating };
        self.about.status(&self.plan, phase, self.began.elapsed(), nodes, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn lab_without_machines_names_its_nodes_and_says_how_far_it_is() {
        let text = "name: early\nabout: Early.\nnodes: { count: 2 }\nchecks: [raft]\n";
        let plan = Arc::new(Plan::new(&Scenario::parse("early.yaml", text).unwrap(), 1));
        let about = About {
            directory: "/r/early-1".into(),
            pid: 7,
            driver: "qemu with tcg".to_owned(),
            slowdown: None,
            publish: Some(8_080),
        };
        let prospect = Prospect::new(about, plan);
        let status = prospect.status(false);
        let said = (status.name.as_str(), status.phase, status.pid, status.slowdown);
        assert_eq!(said, ("early-1", Phase::Calibrating, 7, None));
        let nodes: Vec<_> =
            status.nodes.iter().map(|node| (node.name.as_str(), node.state, node.url.as_deref())).collect();
        let url = |port| format!("http://127.0.0.1:{port}");
        let (first, second) = (url(8_080), url(8_081));
        assert_eq!(
            nodes,
            [("n1", Power::Down, Some(first.as_str())), ("n2", Power::Down, Some(second.as_str()))]
        );
        assert_eq!(prospect.status(true).phase, Phase::Stopping);
    }
}
