//! Reads, writes and scans: where they go, and what they end in.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{ReadPolicy, ServerState};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::RaftNode;
use super::freshness::whole_ms;
use super::lease::own_ns;
use crate::api::{
    Answer, ApiError, ConfirmedBy, Consistency, KeyValueStore, LeaderHint, LeaseList, ReadRequest,
    ReadResult, ScanRequest, ScanResult, TimeoutOutcome, VaultList, WatchRequest, WatchStream, WriteResult,
    check_command, check_key, check_limit, check_max_staleness, check_range, check_vault,
};
use crate::limits::{LEADER_RETRY, LEADER_WAIT, OPERATION_TIMEOUT, OPERATIONS_IN_FLIGHT_MAX};
use crate::network::rpc::{Confirmed, KeepLease, ReadIndex};
use crate::network::{Peer, TransportError};
use crate::plant::Plant;
use crate::storage::space::DiskFull;
use crate::types::{Command, EncodedCommand, LeaseId, NodeId, NodeInfo, Outcome, Revision};

/// Why a read may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fresh {
    /// Who says that what it will see is not too old.
    confirmed_by: ConfirmedBy,
    /// How old it may be, where that is bounded.
    staleness_ms: Option<u64>,
}

impl Fresh {
    fn by(confirmed_by: ConfirmedBy) -> Self {
        Self { confirmed_by, staleness_ms: None }
    }
}

impl KeyValueStore for RaftNode {
    fn read(&self, request: ReadRequest) -> Answer<'_, ReadResult> {
        async move {
            check_key(&request.key)?;
            check_max_staleness(request.consistency)?;
            request.vault.as_ref().map_or(Ok(()), check_vault)?;
            let _permit = self.admit()?;
            bounded(TimeoutOutcome::NothingWritten, async {
                let Fresh { confirmed_by, staleness_ms } = self.make_fresh(request.consistency).await?;
                let found = self.inner.readers.read(request.vault, request.key).await?;
                Ok(ReadResult { confirmed_by, staleness_ms, ..found })
            })
            .await
        }
        .boxed()
    }

    fn write(&self, command: Command) -> Answer<'_, WriteResult> {
        async move {
            check_command(&command)?;
            let _permit = self.admit()?;
            bounded(TimeoutOutcome::Unknown, self.write_somewhere(&(&command).into())).await
        }
        .boxed()
    }

    fn scan(&self, request: ScanRequest) -> Answer<'_, ScanResult> {
        async move {
            check_limit(request.limit)?;
            check_max_staleness(request.consistency)?;
            check_range(&request.range)?;
            request.vault.as_ref().map_or(Ok(()), check_vault)?;
            let _permit = self.admit()?;
            bounded(TimeoutOutcome::NothingWritten, async {
                let Fresh { confirmed_by, staleness_ms } = self.make_fresh(request.consistency).await?;
                let found = self.inner.readers.scan(request).await?;
                Ok(ScanResult { confirmed_by, staleness_ms, ..found })
            })
            .await
        }
        .boxed()
    }

    fn vaults(&self, consistency: Consistency) -> Answer<'_, VaultList> {
        async move {
            let _permit = self.admit()?;
            bounded(TimeoutOutcome::NothingWritten, async {
                self.make_fresh(consistency).await?;
                self.inner.readers.vaults().await
            })
            .await
        }
        .boxed()
    }

    fn keep_lease(&self, lease: LeaseId) -> Answer<'_, u64> {
        async move {
            let _permit = self.admit()?;
            let kept = bounded(TimeoutOutcome::NothingWritten, self.keep_lease_somewhere(lease)).await?;
            Ok(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX))
        }
        .boxed()
    }

    fn leases(&self, consistency: Consistency) -> Answer<'_, LeaseList> {
        async move {
            let _permit = self.admit()?;
            let mut list = bounded(TimeoutOutcome::NothingWritten, async {
                self.make_fresh(consistency).await?;
                self.inner.readers.leases().await
            })
            .await?;
            for info in &mut list.leases {
                let left = self.lease_left(info.lease);
                info.left_ms = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            }
            Ok(list)
        }
        .boxed()
    }

    fn watch(&self, request: WatchRequest) -> Answer<'_, WatchStream> {
        self.follow(request).boxed()
    }
}

impl RaftNode {
    /// Counts an operation in, or refuses it.
    pub(super) fn admit(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        if self.is_removed() {
            return Err(ApiError::Removed);
        }
        let full = ApiError::TooManyOperations { limit: OPERATIONS_IN_FLIGHT_MAX };
        self.inner.permits.try_acquire().map_err(|_| full)
    }

    /// Proposes a command on this node, which has to lead. Ends with openraft's answer, or when the node stops.
    pub(super) async fn propose(&self, command: EncodedCommand) -> Result<WriteResult, ApiError> {
        if self.leads() {
            self.inner.space.check().map_err(|full| self.disk_full(full))?;
        }
        if Plant::AckBeforeQuorum.is_on()
            && matches!(command.decode(), Ok(Command::Set { .. }))
            && self.leads()
        {
            return self.acknowledge_early(command).await;
        }
        self.inner.proposals.propose(command).await
    }

    /// `Plant::AckBeforeQuorum`: the answer to a set, given as soon as this node's own log has it.
    async fn acknowledge_early(&self, command: EncodedCommand) -> Result<WriteResult, ApiError> {
        let raft = &self.inner.raft;
        let proposed = raft.client_write_ff(command, None).await;
        proposed.map_err(|_| ApiError::LeaderLost)?;
        // It waits behind the proposal: when it is answered, the entry was taken, or this node no longer led.
        match raft.with_raft_state(|state| state.server_state).await {
            Ok(ServerState::Leader) => Ok(WriteResult {
                revision: Revision(self.metrics().last_log_index.unwrap_or_default()),
                outcome: Outcome::Written,
            }),
            Ok(_) | Err(_) => Err(ApiError::LeaderLost),
        }
    }

    /// Proposes here or at the leader, and again while nothing has been proposed yet.
    async fn write_somewhere(&self, command: &EncodedCommand) -> Result<WriteResult, ApiError> {
        let (give_up, deadline) = (Instant::now() + LEADER_WAIT, Instant::now() + OPERATION_TIMEOUT);
        loop {
            let refused = match self.leader() {
                Some(leader) if leader.id != self.inner.id => {
                    let within = deadline.saturating_duration_since(Instant::now());
                    let forwarded = self.inner.transport.forward(&leader, command.clone(), within);
                    // A leader that is deposed meanwhile may be dead, and may have taken the write along.
                    let answer = tokio::select! {
                        biased;
                        answer = forwarded => answer,
                        () = self.deposed(leader.id) => return Err(ApiError::LeaderLost),
                    };
                    match answer {
                        Ok(Err(refused @ ApiError::NotLeader { .. })) => refused,
                        Ok(answer) => return answer,
                        Err(TransportError::Unreachable { .. }) => {
                            not_leader(Some(leader.id), Some(&leader.info))
                        }
                        Err(TransportError::Timeout { .. }) => {
                            return Err(timed_out(TimeoutOutcome::Unknown));
                        }
                        Err(_) => return Err(ApiError::LeaderLost),
                    }
                }
                // Without a known leader openraft says so itself.
                _ => match self.propose(command.clone()).await {
                    Err(refused @ ApiError::NotLeader { .. }) => refused,
                    answer => return answer,
                },
            };
            self.await_leader(give_up, refused).await?;
        }
    }

    /// Makes sure that a read from now on sees what its consistency asks for; by what it does.
    pub(super) async fn make_fresh(&self, consistency: Consistency) -> Result<Fresh, ApiError> {
        let may_use_lease = consistency == Consistency::Lease;
        if consistency == Consistency::Stale || (Plant::StaleRead.is_on() && self.leads()) {
            return Ok(Fresh::by(ConfirmedBy::Nobody));
        }
        if let Consistency::Bounded(max) = consistency {
            let age =
                if Plant::BoundUnchecked.is_on() { Duration::ZERO } else { self.prove_no_older(max).await? };
            return Ok(Fresh { confirmed_by: ConfirmedBy::Quorum, staleness_ms: Some(whole_ms(age)) });
        }
        if Plant::LeaseUnchecked.is_on() && may_use_lease && self.leads() {
            return Ok(Fresh::by(ConfirmedBy::Lease));
        }
        let confirmed = self.confirm_somewhere(may_use_lease).await?;
        self.await_applied(confirmed.index).await?;
        Ok(Fresh::by(confirmed.by))
    }

    /// The index that a read must have applied, asked for here or at the leader.
    pub(super) async fn confirm_somewhere(&self, may_use_lease: bool) -> Result<Confirmed, ApiError> {
        let there = |leader: Peer, within| {
            let request = ReadIndex { may_use_lease };
            async move { self.inner.transport.read_index(&leader, request, within).await }.boxed()
        };
        self.ask_leader(there, || self.confirm_leadership(may_use_lease).boxed()).await
    }

    /// Keeps a lease alive, here or at the leader; its time to live.
    async fn keep_lease_somewhere(&self, lease: LeaseId) -> Result<Duration, ApiError> {
        let there = |leader: Peer, within| {
            async move { self.inner.transport.keep_lease(&leader, KeepLease(lease), within).await }.boxed()
        };
        self.ask_leader(there, || self.keep_lease_here(lease).boxed()).await
    }

    /// Asks the leader, or this node if that is the one, and again while nobody leads: what is asked may be asked twice.
    async fn ask_leader<'a, T>(
        &'a self,
        there: impl Fn(Peer, Duration) -> BoxFuture<'a, Result<Result<T, ApiError>, TransportError>> + Send,
        here: impl Fn() -> BoxFuture<'a, Result<T, ApiError>> + Send,
    ) -> Result<T, ApiError> {
        let (give_up, deadline) = (Instant::now() + LEADER_WAIT, Instant::now() + OPERATION_TIMEOUT);
        loop {
            let refused = match self.leader() {
                Some(leader) if leader.id != self.inner.id => {
                    let within = deadline.saturating_duration_since(Instant::now());
                    let answer = tokio::select! {
                        biased;
                        answer = there(leader.clone(), within) => answer,
                        () = self.deposed(leader.id) => continue,
                    };
                    match answer {
                        Ok(Err(refused @ (ApiError::NotLeader { .. } | ApiError::NoQuorum))) => refused,
                        Ok(answer) => return answer,
                        Err(_) => not_leader(Some(leader.id), Some(&leader.info)),
                    }
                }
                _ => match here().await {
                    Err(refused @ (ApiError::NotLeader { .. } | ApiError::NoQuorum)) => refused,
                    answer => return answer,
                },
            };
            self.await_leader(give_up, refused).await?;
        }
    }

    /// Makes sure that this node leads, by its lease or by asking a quorum (Raft thesis 6.4); the index that a read must
    /// have applied.
    pub(super) async fn confirm_leadership(&self, may_use_lease: bool) -> Result<Confirmed, ApiError> {
        if may_use_lease && let Some(age_max) = self.inner.leases.age_max() {
            let recent = LinearizerOption::new(Some(age_max), false).with_wait_timeout(Duration::ZERO);
            let asked_ns = own_ns();
            match self.read_index_of(recent).await {
                // Both only now: what happens before openraft has looked would not be seen otherwise.
                Ok(index) if self.votes_everywhere().await? && self.inner.leases.has_true_time(asked_ns) => {
                    return Ok(Confirmed { index, by: ConfirmedBy::Lease });
                }
                Ok(_) | Err(ApiError::NoQuorum) => {}
                Err(error) => return Err(error),
            }
        }
        let index = self.read_index_of(ReadPolicy::ReadIndex.into()).await?;
        Ok(Confirmed { index, by: ConfirmedBy::Quorum })
    }

    /// Whether this node votes in every configuration that counts. Whoever is left as the only voter elects itself at once,
    /// whatever it has promised, so a leader that is to leave has no lease.
    async fn votes_everywhere(&self) -> Result<bool, ApiError> {
        let id = self.inner.id;
        let votes = self.inner.raft.with_raft_state(move |state| {
            state.membership_state.effective().get_joint_config().iter().all(|voters| voters.contains(&id))
        });
        votes.await.map_err(|fatal| Self::stopping(&fatal))
    }

    /// The index that a read must have applied, if a quorum's word is as recent as `option` wants.
    async fn read_index_of(&self, option: LinearizerOption) -> Result<u64, ApiError> {
        match self.inner.raft.get_read_linearizer(option).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().log_id().index),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(not_leader(forward.leader_id, forward.leader_node.as_ref()))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ApiError::NoQuorum),
            Err(RaftError::Fatal(fatal)) => Err(Self::stopping(&fatal)),
        }
    }

    /// Returns once the state machine has applied `index`.
    pub(super) async fn await_applied(&self, index: u64) -> Result<(), ApiError> {
        let mut applied = self.inner.raft.watch_apply_progress();
        let reached = applied.wait_until(|applied| applied.is_some_and(|applied| applied.index >= index));
        reached.await.map(drop).map_err(|_| ApiError::Stopping { reason: "raft stopped".to_owned() })
    }

    /// Waits before another try: until somebody else leads, or for a moment. Past `give_up` the refusal stands.
    async fn await_leader(&self, give_up: Instant, refused: ApiError) -> Result<(), ApiError> {
        let pause: Duration = LEADER_RETRY.min(give_up.saturating_duration_since(Instant::now()));
        if pause.is_zero() {
            return Err(refused);
        }
        let before = self.leader().map(|leader| leader.id);
        let mut metrics = self.inner.raft.server_metrics();
        let changed = async {
            while metrics.changed().await.is_ok() {
                if metrics.borrow_watched().current_leader != before {
                    return;
                }
            }
            // Raft has stopped: only the pause ends.
            std::future::pending::<()>().await;
        };
        // Either way it is time for another try.
        let _ = tokio::time::timeout(pause, changed).await;
        Ok(())
    }

    /// Returns once this node no longer takes `leader` for the leader.
    async fn deposed(&self, leader: NodeId) {
        let mut metrics = self.inner.raft.server_metrics();
        while metrics.borrow_watched().current_leader == Some(leader) {
            if metrics.changed().await.is_err() {
                // Raft has stopped: nobody will be deposed any more.
                return std::future::pending().await;
            }
        }
    }

    /// Too little room on this node's disk.
    pub(super) fn disk_full(&self, DiskFull { left, needed }: DiskFull) -> ApiError {
        ApiError::DiskFull { node: self.inner.id, left, needed }
    }

    /// Whether this node believes that it leads.
    fn leads(&self) -> bool {
        self.inner.raft.server_metrics().borrow_watched().state == ServerState::Leader
    }

    /// Who leads, as far as this node knows.
    pub(super) fn leader(&self) -> Option<Peer> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        let info = metrics.membership_config.membership().get_node(&id)?.clone();
        Some(Peer { id, info })
    }
}

/// Ends an operation that takes too long.
pub(super) async fn bounded<T>(
    outcome: TimeoutOutcome,
    operation: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let done = tokio::time::timeout(OPERATION_TIMEOUT, operation).await;
    done.unwrap_or_else(|_| Err(timed_out(outcome)))
}

pub(super) fn not_leader(id: Option<NodeId>, info: Option<&NodeInfo>) -> ApiError {
    let http = info.map(|info| info.http.to_string());
    ApiError::NotLeader { leader: id.map(|id| LeaderHint { id, http }) }
}

fn timed_out(outcome: TimeoutOutcome) -> ApiError {
    let within_ms = u64::try_from(OPERATION_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    ApiError::Timeout { within_ms, outcome }
}
