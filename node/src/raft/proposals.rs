//! Many writes become few proposals: what is written while earlier proposals are under way waits and is proposed together.
//!
//! A proposal has a price whatever it holds: a commit of each member's log, a message to each peer, a transaction of each
//! state. So at most [`PROPOSALS_AHEAD_MAX`] are under way, and the next one takes along all that has come meanwhile. A lone
//! client is proposed at once; where a quorum is far away, nothing waits longer than [`PROPOSAL_WAIT_MAX`] for company.

use std::sync::Arc;

use futures::StreamExt;
use openraft::Raft;
use openraft::errors::ClientWriteError;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::operations::not_leader;
use crate::api::{ApiError, WriteResult};
use crate::host::hosted;
use crate::limits::{
    OPERATIONS_IN_FLIGHT_MAX, PROPOSAL_BYTES_MAX, PROPOSAL_COMMANDS_MAX, PROPOSAL_WAIT_MAX,
    PROPOSALS_AHEAD_MAX,
};
use crate::storage::sqlite::SqliteStateMachine;
use crate::types::{EncodedCommand, Revision, TypeConfig};

type Written = openraft::raft::WriteResult<TypeConfig>;
type Answer = oneshot::Sender<Result<WriteResult, ApiError>>;

/// A command that waits to be proposed.
#[derive(Debug)]
struct Waiting {
    command: EncodedCommand,
    answer: Answer,
}

/// Where commands are handed in. The last one that is dropped ends the proposer.
#[derive(Debug, Clone)]
pub(super) struct Proposals(mpsc::Sender<Waiting>);

/// Proposes what is handed in.
pub(super) struct Proposer {
    raft: Raft<TypeConfig, SqliteStateMachine>,
    waiting: mpsc::Receiver<Waiting>,
    /// The first command that did not fit into the proposal before.
    left: Option<Waiting>,
}

impl Proposals {
    /// Proposes a command, and returns what came of it.
    ///
    /// # Errors
    /// [`ApiError::NotLeader`] where nothing was proposed, [`ApiError::LeaderLost`] where that is not known.
    pub(super) async fn propose(&self, command: EncodedCommand) -> Result<WriteResult, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Waiting { command, answer }).await.map_err(|_| ApiError::LeaderLost)?;
        answered.await.map_err(|_| ApiError::LeaderLost)?
    }

    /// Returns once nothing can be proposed any more.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// A proposer and the way to it.
pub(super) fn proposals(raft: Raft<TypeConfig, SqliteStateMachine>) -> (Proposals, Proposer) {
    let (sender, waiting) = mpsc::channel(OPERATIONS_IN_FLIGHT_MAX as usize);
    (Proposals(sender), Proposer { raft, waiting, left: None })
}

impl Proposer {
    /// Works until nothing more can be handed in.
    pub(super) async fn run(mut self) {
        let ahead = Arc::new(Semaphore::new(PROPOSALS_AHEAD_MAX as usize));
        let mut under_way = JoinSet::new();
        while let Some(first) = self.next().await {
            while under_way.try_join_next().is_some() {}
            // Closed never; late, it is proposed beyond the bound.
            let permit = timeout(PROPOSAL_WAIT_MAX, ahead.clone().acquire_owned()).await.ok();
            let (commands, answers) = self.gather(first);
            if commands.is_empty() {
                continue;
            }
            match self.raft.client_write_many(commands).await {
                Ok(results) => {
                    under_way.spawn(hosted(async move {
                        // In the order of the commands; where they end early, Raft has stopped.
                        let mut answered = results.zip(futures::stream::iter(answers));
                        while let Some((Ok(result), answer)) = answered.next().await {
                            // Whoever has given up waiting is not told.
                            let _ = answer.send(answer_to(result));
                        }
                        drop(permit);
                    }));
                }
                // Raft has stopped, and those who wait see that nobody answers.
                Err(_) => return,
            }
        }
    }

    async fn next(&mut self) -> Option<Waiting> {
        match self.left.take() {
            Some(left) => Some(left),
            None => self.waiting.recv().await,
        }
    }

    /// What goes into one proposal: `first` and what waits behind it.
    fn gather(&mut self, first: Waiting) -> (Vec<EncodedCommand>, Vec<Answer>) {
        let mut bytes = 0;
        let (mut commands, mut answers) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(Waiting { command, answer }) = next.take() {
            // Whoever has given up has been told that the outcome is not known: nothing is the best one.
            if answer.is_closed() {
                next = self.waiting.try_recv().ok();
                continue;
            }
            bytes += command.as_bytes().len();
            if !commands.is_empty() && bytes > PROPOSAL_BYTES_MAX as usize {
                self.left = Some(Waiting { command, answer });
                break;
            }
            commands.push(command);
            answers.push(answer);
            if commands.len() < PROPOSAL_COMMANDS_MAX as usize {
                next = self.waiting.try_recv().ok();
            }
        }
        (commands, answers)
    }
}

fn answer_to(result: Written) -> Result<WriteResult, ApiError> {
    match result {
        Ok(written) => {
            Ok(WriteResult { revision: Revision(written.log_id.index), outcome: written.response })
        }
        Err(ClientWriteError::ForwardToLeader(forward)) => {
            Err(not_leader(forward.leader_id, forward.leader_node.as_ref()))
        }
        // Another leader's log has displaced the entry here, and it may live on elsewhere.
        Err(ClientWriteError::LogEntryDiscarded(_)) => Err(ApiError::LeaderLost),
        Err(
            error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
        ) => unreachable!("a command changes no members and has no precondition: {error}"),
    }
}
