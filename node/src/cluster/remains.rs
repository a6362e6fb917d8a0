//! What a stopped node has kept besides Raft's files: its key, what it knows of its cluster, and marks that forbid it to run.

use std::path::Path;

use super::identity::{IDENTITY_FILE, Identity};
use super::metadata::{METADATA_FILE, MetadataError, MetadataStore, unix_s};
use super::retired::check_not_retired;
use crate::causes::with_causes;
use crate::network::Peer;
use crate::storage::RESTORING_FILE;
use crate::storage::log::LOG_FILE;
use crate::types::{EndpointKey, NodeId};

/// What was found: lines of what there is, and of what is wrong and what to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Which node it is, as its cluster has told it.
    pub id: Option<NodeId>,
    /// What there is.
    pub seen: Vec<String>,
    /// What is wrong.
    pub faults: Vec<String>,
}

impl Remains {
    /// Looks at a data directory, and changes nothing in it.
    ///
    /// # Errors
    /// The node runs, or its files are of a later version: that is no fault of theirs.
    pub fn look(data_dir: &Path) -> Result<Self, MetadataError> {
        let mut remains = Self::default();
        let has_log = data_dir.join(LOG_FILE).exists();
        let is_restoring = data_dir.join(RESTORING_FILE).exists();
        if let Err(error) = check_not_retired(data_dir)
            && !is_restoring
        {
            remains.faults.push(error.to_string());
        }
        let metadata = match MetadataStore::inspect(data_dir) {
            Ok(metadata) => metadata,
            Err(error @ (MetadataError::InUse { .. } | MetadataError::Format { .. })) => return Err(error),
            Err(error) => {
                remains.faults.push(with_causes(&error));
                None
            }
        };
        let has_key = data_dir.join(IDENTITY_FILE).exists();
        if !has_key && !has_log && metadata.is_none() && remains.faults.is_empty() && !is_restoring {
            remains
                .faults
                .push(format!("there is no node in {}: name its data directory", data_dir.display()));
            return Ok(remains);
        }
        let key = match Identity::load(data_dir) {
            Ok(identity) => Some(identity.endpoint_id()),
            Err(error) => {
                remains.faults.push(with_causes(&error));
                None
            }
        };
        remains.seen.extend(key.map(|key| format!("key: {key}")));
        if let Some(metadata) = metadata
            && let Err(error) = remains.members(&metadata, key, has_log)
        {
            remains.faults.push(with_causes(&error));
        }
        Ok(remains)
    }

    /// Compares which node its cluster has told it that it is with whose log there is.
    pub fn compare(&mut self, log: Option<NodeId>) {
        if let (Some(told), Some(found)) = (self.id, log)
            && told != found
        {
            self.faults.push(format!(
                "{METADATA_FILE} is that of node {told}, {LOG_FILE} that of node {found}: put that one's own back which is not from here"
            ));
        }
    }

    fn members(
        &mut self,
        metadata: &MetadataStore,
        key: Option<EndpointKey>,
        has_log: bool,
    ) -> Result<(), MetadataError> {
        let other = metadata.own_key()?.filter(|before| key.is_some_and(|key| key != *before));
        if let Some(before) = other {
            self.faults.push(format!(
                "{IDENTITY_FILE} is another one than it was: the node had key {before}, put that back"
            ));
        }
        let (own, nodes) = (metadata.own_id()?, metadata.nodes()?);
        self.id = own;
        metadata.starts()?;
        let run = metadata.last_run()?;
        self.seen.extend(run.map(|run| format!("last run: {}", run.ended(unix_s()))));
        let own = own.map_or_else(String::new, |id| format!(", which has let it in as node {id}"));
        self.seen.push(format!("cluster: {} other members are known{own}", nodes.len()));
        let (last_seen, now) = (metadata.last_seen()?, unix_s());
        for Peer { id, info } in nodes {
            let seen = last_seen.get(&info.endpoint_id).map(|seen| now.saturating_sub(*seen));
            let seen = seen.map_or("not seen yet".to_owned(), |ago| format!("seen {ago} s ago"));
            self.seen.push(format!("  node {id} at {}, {seen}", info.raft));
        }
        if !has_log && metadata.has_had_log()? {
            self.faults.push(format!(
                "{LOG_FILE} is gone, and with it what the node has promised: remove it from its cluster, remove the data directory and rejoin \
                 as a new member"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_of_another_node_is_found() {
        let of = |told: Option<u64>, log: Option<u64>| {
            let mut remains = Remains { id: told.map(NodeId), ..Remains::default() };
            remains.compare(log.map(NodeId));
            remains.faults
        };
        for fits in [of(None, Some(3)), of(Some(3), None), of(Some(3), Some(3))] {
            assert!(fits.is_empty(), "{fits:?}");
        }
        let want = "cluster.redb is that of node 7, log.redb that of node 3: put that one's own back which is not from here";
        assert_eq!(of(Some(7), Some(3)), [want]);
    }
}
