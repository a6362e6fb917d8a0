//! Keys, vaults and leases, as [`KeyValueStore`](crate::api::KeyValueStore) has them.

use super::{Answered, ClusterClient, ClusterClientError, ClusterWatch, unbounded};
use crate::api::{
    LeaseList, ReadRequest, ReadResult, ScanRequest, ScanResult, VaultList, WatchRequest, WriteResult,
    check_command, check_vault,
};
use crate::client::json::{self, Request};
use crate::types::{Command, Key, LeaseId};

/// All pages of a scan, one after the other.
#[derive(Debug)]
pub struct ClusterPages<'a> {
    client: &'a mut ClusterClient,
    /// The next one; `None`: there are no more.
    next: Option<ScanRequest>,
}

impl ClusterPages<'_> {
    /// The next page, which is as of a revision of its own; `None`: there are no more.
    ///
    /// # Errors
    /// As [`ClusterClient::scan`]; the same page can be asked for again.
    pub async fn next(&mut self) -> Result<Option<ScanResult>, ClusterClientError> {
        let Some(request) = &self.next else { return Ok(None) };
        let page = self.client.scan(request.clone()).await?;
        let last = page.entries.last().filter(|_| page.is_truncated);
        self.next = last.map(|(key, _)| ScanRequest { after: Some(key.clone()), ..request.clone() });
        Ok(Some(page))
    }
}

impl ClusterClient {
    /// The record under a key, if there is one.
    ///
    /// # Errors
    /// As [`Self::request`]: a read that nobody confirms as it was asked for is an error, never old data. `vault_not_found`, of a vault
    /// that is not there.
    pub async fn read(&mut self, request: ReadRequest) -> Result<ReadResult, ClusterClientError> {
        match self.send(&json::read_request(&request)).await {
            Ok(answered) => answered.checked(json::read(&request, &answered.answer.body)),
            Err(error) => error.refusal().and_then(|refusal| json::missing(&request, refusal)).ok_or(error),
        }
    }

    /// Does a command, and waits until it is applied. What it did there is its outcome, also where that is nothing:
    /// [`Outcome::NotSwapped`](crate::types::Outcome::NotSwapped), say, or
    /// [`Outcome::LeaseNotFound`](crate::types::Outcome::LeaseNotFound).
    ///
    /// # Errors
    /// As [`Self::request`], and [`ClusterClientError::BadRequest`] for a command that breaks a bound. Where the error
    /// [`is_unknown`](ClusterClientError::is_unknown), it may have been done, or may be yet; otherwise nothing was.
    pub async fn write(&mut self, command: Command) -> Result<WriteResult, ClusterClientError> {
        check_command(&command)?;
        match self.send(&json::write(&command)).await {
            Ok(answered) => answered.checked(json::outcome(&command, &answered.answer.body)),
            Err(error) => error.refusal().and_then(|refusal| json::refused(&command, refusal)).ok_or(error),
        }
    }

    /// Removes a key, as [`Self::write`] of [`Command::Delete`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn delete(&mut self, key: Key) -> Result<WriteResult, ClusterClientError> {
        self.write(Command::Delete { key }).await
    }

    /// A page of records, in the order of their keys. The next one is what the same request finds `after` the last key of this one. Of
    /// [`ScanDetail::Keys`](crate::api::ScanDetail::Keys) nodes tell the keys only: what stands beside them is a record of version 0, which no key has.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn scan(&mut self, request: ScanRequest) -> Result<ScanResult, ClusterClientError> {
        let answered = self.send(&json::scan_request(&request)).await?;
        answered.checked(json::page(&request, &answered.answer.body))
    }

    /// All pages of a scan, each of at most its `limit` of entries. Of [`ScanDetail::Count`](crate::api::ScanDetail::Count) there is one.
    pub fn pages(&mut self, request: ScanRequest) -> ClusterPages<'_> {
        ClusterPages { client: self, next: Some(request) }
    }

    /// The vaults that there are, read linearizably.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn vaults(&mut self) -> Result<VaultList, ClusterClientError> {
        let answered = self.answered("GET", "/vaults", "").await?;
        answered.checked(json::vaults(&answered.answer.body))
    }

    /// Has a lease live for its whole time from when this was asked; that time, in milliseconds.
    ///
    /// # Errors
    /// As [`Self::request`]; `lease_not_found`, where it has ended or its end is under way.
    pub async fn keep_lease(&mut self, lease: LeaseId) -> Result<u64, ClusterClientError> {
        let kept: Kept = self.request_json("POST", &format!("/lease/{lease}/keep"), "").await?;
        Ok(kept.ttl_ms)
    }

    /// The leases that there are, read linearizably. How long they live yet is known if it is the leader that is asked.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn leases(&mut self) -> Result<LeaseList, ClusterClientError> {
        self.request_json("GET", "/leases", "").await
    }

    /// Changes as they happen: every one once, in their order, whichever nodes are lost meanwhile. It has connections of its own.
    ///
    /// # Errors
    /// [`ClusterClientError::BadRequest`]: the age of a watch cannot be bounded, and a vault's name has its bounds. Everything else is
    /// said by [`ClusterWatch::next`].
    pub fn watch(&self, request: WatchRequest) -> Result<ClusterWatch, ClusterClientError> {
        unbounded(request.consistency)?;
        request.interest.vault.as_ref().map_or(Ok(()), check_vault)?;
        Ok(ClusterWatch::new(self, request))
    }

    async fn send(&mut self, request: &Request) -> Result<Answered, ClusterClientError> {
        self.answered(request.method, &request.path, request.body()).await
    }
}

/// An answer to who keeps a lease alive.
#[derive(serde::Deserialize)]
struct Kept {
    ttl_ms: u64,
}
