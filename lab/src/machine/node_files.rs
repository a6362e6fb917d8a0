//! What a machine is told about its node, whatever the driver: the node's own configuration, its key and its neighbours, all
//! from the plan.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aspen_node::cluster::identity::Identity;
use aspen_node::cluster::ticket::AspenClusterTicket;
use aspen_node::network::secret::ClusterSecrets;
use aspen_node::types::NodeInfo;
use data_encoding::HEXLOWER;

use super::cluster::SetUpError;
use crate::cluster::pace::Pace;
use crate::plan::{Plan, PlannedJoins, PlannedNode};

/// What a process keeps, in its home.
pub(super) const DATA: &str = "data";
/// The cluster's secret, in the folder of private files.
pub(super) const SECRET_FILE: &str = "secret";

/// The node's directory with its key and node.toml; the path of the latter.
pub(super) fn write_node_files(
    plan: &Plan,
    node: &PlannedNode,
    pace: Pace,
    home: &Path,
) -> Result<PathBuf, SetUpError> {
    let data = home.join(DATA);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&data);
    made.map_err(|source| SetUpError::Io { path: data.clone(), source })?;
    Identity::from_secret(node.secret_key_seed.0).store(&data)?;
    let private = home.join("private");
    if let Some(secret) = cluster_secret(plan) {
        let path = private.join(SECRET_FILE);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&private);
        let written = made.and_then(|()| {
            let mut options = fs::OpenOptions::new();
            let mut to = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            to.write_all(secret.as_bytes())
        });
        written.map_err(|source| SetUpError::Io { path, source })?;
    }
    let config = home.join("node.toml");
    // Where this host stands still, so do all nodes; and what stops one of them does not stop the host's clock.
    let text = format!("lease_clock = \"own\"\n{}", node_toml(plan, node, &data, &private, pace));
    fs::write(&config, text).map_err(|source| SetUpError::Io { path: config.clone(), source })?;
    Ok(config)
}

/// What the nodes of a cluster know, where they join it by themselves.
pub(super) fn cluster_secret(plan: &Plan) -> Option<String> {
    plan.joins.map(secret)
}

fn secret(joins: PlannedJoins) -> String {
    HEXLOWER.encode(&joins.secret.0)
}

/// The text of node.toml. Raft's times are those of the wall. Private files are in this folder, as the node sees it.
pub(super) fn node_toml(plan: &Plan, node: &PlannedNode, data: &Path, private: &Path, pace: Pace) -> String {
    use std::fmt::Write;
    let real_ms = |planned_ms| pace.to_real(Duration::from_millis(planned_ms)).as_millis();
    let mut text = format!(
        "id = {}\ndata_dir = {}\nraft_listen = \"{}\"\nhttp_listen = \"{}\"\nhttp_insecure = true\nrestart_on_failure = false\n\
         heartbeat_ms = {}\nelection_ms_min = {}\nelection_ms_max = {}\n",
        node.raft_id,
        // JSON's strings are TOML's, too.
        serde_json::Value::from(data.to_string_lossy()),
        node.raft_address(),
        node.http_address(),
        real_ms(plan.raft.heartbeat_ms),
        real_ms(plan.raft.election_ms_min),
        real_ms(plan.raft.election_ms_max),
    );
    // Writing to a String cannot fail.
    if let Some(entries) = plan.raft.snapshot_entries {
        let _ = writeln!(text, "snapshot_entries = {entries}");
    }
    if let Some(after_ms) = plan.raft.replace_after_ms {
        let _ = writeln!(text, "replace_after_s = {}", real_ms(after_ms).div_ceil(1_000));
    }
    if let Some(zone) = &node.zone {
        let _ = writeln!(text, "region = \"{zone}\"");
    }
    if !plan.preferred_zones.is_empty() {
        let _ = writeln!(text, "preferred_regions = [\"{}\"]", plan.preferred_zones.join("\", \""));
    }
    if let Some(joins) = plan.joins {
        let secret = serde_json::Value::from(private.join(SECRET_FILE).to_string_lossy());
        let founder = &plan.nodes[0];
        let way = if node == founder {
            format!("bootstrap = true\ntarget_voters = {}", joins.voters)
        } else {
            format!("ticket = \"{}\"", ticket(joins, founder))
        };
        let _ = writeln!(text, "secret_file = {secret}\n{way}");
        return text;
    }
    for peer in &plan.nodes {
        let NodeInfo { endpoint_id, raft, http } = node_info(peer);
        let _ = write!(
            text,
            "\n[[peers]]\nid = {}\nendpoint_id = \"{endpoint_id}\"\nraft = \"{raft}\"\nhttp = \"{http}\"\n",
            peer.raft_id,
        );
    }
    text
}

/// Who a node will be.
pub(super) fn node_info(node: &PlannedNode) -> NodeInfo {
    NodeInfo {
        endpoint_id: Identity::from_secret(node.secret_key_seed.0).endpoint_id(),
        raft: node.raft_address(),
        http: node.http_address(),
    }
}

/// What the founder's cluster will be found by.
fn ticket(joins: PlannedJoins, founder: &PlannedNode) -> AspenClusterTicket {
    let secrets = ClusterSecrets::parse(secret(joins), "the plan").expect("64 digits are a secret");
    AspenClusterTicket::new(secrets.first().cluster_id(), [node_info(founder)])
}
