//! A watch, in the words of [`crate::api`].

use std::net::SocketAddr;

use super::{ClusterClient, ClusterClientError};
use crate::api::{WatchEvent, WatchRequest};
use crate::causes::with_causes;
use crate::client::json;
use crate::client::watch::{WatchClient, Watched};
use crate::types::{Revision, VaultName};

/// Changes as they happen. Where a node is lost, another one is asked for what comes next.
#[derive(Debug)]
pub struct ClusterWatch {
    client: WatchClient,
    vault: Option<VaultName>,
    /// The node that tells, or told last.
    node: Option<SocketAddr>,
    /// Whether there is no more.
    has_ended: bool,
}

impl ClusterWatch {
    pub(super) fn new(client: &ClusterClient, request: WatchRequest) -> Self {
        let query = json::watch_query(&request);
        let client = WatchClient::new(client.nodes().to_vec(), client.credentials().clone(), query);
        Self { client, vault: request.interest.vault, node: None, has_ended: false }
    }

    /// Waits for what is next; `None`: it was to end, and has. [`WatchEvent::Begun`] comes first, and again whenever another node goes
    /// on: nothing is missed or told twice in between. [`WatchEvent::Progress`] comes last, of a watch that
    /// [`ends`](WatchRequest::ends).
    ///
    /// # Errors
    /// [`ClusterClientError::Watch`]: the watch is over. [`ClusterClientError::Strange`]: what a node tells cannot be read.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, ClusterClientError> {
        while !self.has_ended {
            match self.client.next().await? {
                Watched::By(node) => {
                    self.node = Some(node);
                    return Ok(Some(WatchEvent::Begun { revision: self.last_told() }));
                }
                Watched::Changed(data) => return self.changed(&data).map(Some),
                Watched::Ended => {
                    self.has_ended = true;
                    return Ok(Some(WatchEvent::Progress { revision: self.last_told() }));
                }
                Watched::Lost { .. } => {}
            }
        }
        Ok(None)
    }

    /// The last revision of which everything was told: another watch goes on with the next one.
    pub fn last_told(&self) -> Revision {
        Revision(self.client.next_revision().map_or(0, |next| next.saturating_sub(1)))
    }

    fn changed(&self, data: &str) -> Result<WatchEvent, ClusterClientError> {
        let revised = json::changes(self.vault.as_ref(), data);
        revised.map(WatchEvent::Changed).map_err(|error| ClusterClientError::Strange {
            node: self.node.expect("who tells was said before"),
            reason: with_causes(&error),
            changes: false,
        })
    }
}
