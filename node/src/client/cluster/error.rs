//! Why a cluster has not done what it was asked, and whether it may have done it all the same.

use std::net::SocketAddr;

use crate::api::{BadRequest, LeaderHint};
use crate::client::watch::WatchError;
use crate::client::{ClientError, HttpAnswer};

/// Why there is no answer that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClusterClientError {
    /// No node could be reached; nothing was asked.
    #[error("no node can be reached:\n{}", .0.iter().map(|reason| format!("  {reason}")).collect::<Vec<_>>().join("\n"))]
    Unreachable(Vec<String>),
    /// A node was asked and has not answered.
    #[error("{error}{}", if *changes { ": whether something was written is not known" } else { "" })]
    Lost {
        /// How it was lost.
        error: ClientError,
        /// Whether something was asked to be written.
        changes: bool,
    },
    /// A node refuses, or something between it and us does.
    #[error(transparent)]
    Refused(Box<ClusterRefusal>),
    /// An answer that is none.
    #[error("the answer of {node} is none of an Aspen node: {reason}")]
    Strange {
        /// Whose it is.
        node: SocketAddr,
        /// What is wrong with it.
        reason: String,
        /// Whether something was asked to be written.
        changes: bool,
    },
    /// What every node would refuse, so that nobody was asked.
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    /// A watch that is over.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

/// What a node says instead of doing what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ClusterRefusal {
    /// The status code.
    pub status: u16,
    /// One of the codes of docs/http.md; `None`: it is not a node that answers, but something between it and us.
    pub code: Option<String>,
    /// For people, with what to do where there is something to do.
    pub message: String,
    /// Who leads instead, where that is the reason.
    pub leader: Option<LeaderHint>,
    /// Whether something may have been written all the same, or may be yet.
    pub is_unknown: bool,
    /// All of it: some codes carry more.
    pub answer: HttpAnswer,
}

impl ClusterRefusal {
    /// Whether it is a node that refuses, with this code.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    pub(in crate::client) fn new(answer: HttpAnswer, changes: bool) -> Self {
        let code = answer.code();
        Self {
            status: answer.status,
            message: answer.message(),
            leader: serde_json::from_value(answer.error()["leader"].clone()).ok(),
            // Without a code nobody says what has become of it.
            is_unknown: changes && (code.is_none() || answer.status == UNKNOWN_OUTCOME),
            code,
            answer,
        }
    }
}

/// The status that leaves open what has become of a write (docs/http.md, "Unknown outcomes").
const UNKNOWN_OUTCOME: u16 = 504;

impl ClusterClientError {
    pub(super) fn refused(answer: HttpAnswer, changes: bool) -> Self {
        Self::Refused(Box::new(ClusterRefusal::new(answer, changes)))
    }

    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&ClusterRefusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The code of docs/http.md with which a node refuses.
    pub fn code(&self) -> Option<&str> {
        self.refusal()?.code.as_deref()
    }

    /// Whether something may have been written all the same, or may be yet: then it must not be asked again blindly.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Lost { changes, .. } | Self::Strange { changes, .. } => *changes,
            Self::Refused(refusal) => refusal.is_unknown,
            Self::Unreachable(_) | Self::BadRequest(_) | Self::Watch(_) => false,
        }
    }
}

/// Of a request that changes nothing.
impl From<ClientError> for ClusterClientError {
    fn from(error: ClientError) -> Self {
        match error {
            // Nothing was sent.
            ClientError::Connect { .. } => Self::Unreachable(vec![error.to_string()]),
            ClientError::Lost { .. } => Self::Lost { error, changes: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn refusal(status: u16, body: &'static str, changes: bool) -> ClusterRefusal {
        ClusterRefusal::new(HttpAnswer { status, body: body.into() }, changes)
    }

    #[test]
    fn refusal_says_who_leads_and_what_may_have_been_written() {
        let refused = refusal(
            503,
            r#"{"error":{"code":"not_leader","leader":{"http":"127.0.0.1:8002","id":2},"message":"ask it"}}"#,
            true,
        );
        let leader = LeaderHint { id: NodeId(2), http: Some("127.0.0.1:8002".to_owned()) };
        assert_eq!((refused.leader.clone(), refused.is_unknown), (Some(leader), false));
        assert_eq!((refused.to_string().as_str(), refused.is("not_leader")), ("ask it", true));
        let nobody = r#"{"error":{"code":"not_leader","leader":null,"message":"try again"}}"#;
        assert_eq!(refusal(503, nobody, true).leader, None);
        let late = r#"{"error":{"code":"timeout","message":"not finished"}}"#;
        assert!(refusal(504, late, true).is_unknown);
        assert!(!refusal(504, late, false).is_unknown);
        // Something in between: nobody says whether the node was asked.
        for body in ["<html>", r#""gone""#, "[1]", r#"{"error":"gone"}"#] {
            let gateway = refusal(502, body, true);
            assert_eq!((gateway.code.as_deref(), gateway.is_unknown), (None, true));
            assert_eq!((gateway.leader.as_ref(), gateway.to_string().as_str()), (None, "status 502"));
        }
    }

    #[test]
    fn what_was_not_sent_was_not_written() {
        let address = ([127, 0, 0, 1], 8001).into();
        let check = |error: ClusterClientError, is_unknown, want: &str| {
            assert_eq!((error.is_unknown(), error.to_string().as_str()), (is_unknown, want));
        };
        let reason = || "refused".to_owned();
        check(
            ClientError::Connect { address, reason: reason() }.into(),
            false,
            "no node can be reached:\n  cannot connect to 127.0.0.1:8001: refused",
        );
        let lost = || ClientError::Lost { address, reason: reason() };
        check(
            ClusterClientError::Lost { error: lost(), changes: true },
            true,
            "no answer from 127.0.0.1:8001: refused: whether something was written is not known",
        );
        check(lost().into(), false, "no answer from 127.0.0.1:8001: refused");
        check(BadRequest::KeyEmpty.into(), false, "the key is empty, 1 to 1024 bytes are allowed");
    }
}
