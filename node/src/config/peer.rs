//! `--peer`, as it is written.

use std::fmt;
use std::str::FromStr;

use crate::types::{EndpointKey, NodeId, NodeInfo};

/// One `--peer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerArg {
    pub(super) id: NodeId,
    pub(super) info: NodeInfo,
}

/// Why a `--peer` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerArgError {
    /// A part that is no `name=value`.
    #[error("`{0}` is not of the form name=value")]
    NoPair(String),
    /// A name that a peer does not have.
    #[error("a peer has no `{0}`: id, endpoint_id, raft and http are needed")]
    UnknownName(String),
    /// A name that is missing.
    #[error("`{0}` is missing: id, endpoint_id, raft and http are needed")]
    MissingName(&'static str),
    /// A value that cannot be read.
    #[error("{name} is `{value}`: {reason}")]
    Value {
        /// The name.
        name: &'static str,
        /// What was given.
        value: String,
        /// Why it is refused.
        reason: String,
    },
}

impl FromStr for PeerArg {
    type Err = PeerArgError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let [mut id, mut endpoint_id, mut raft, mut http] = [None; 4];
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(|| PeerArgError::NoPair(part.to_owned()))?;
            match name {
                "id" => id = Some(value),
                "endpoint_id" => endpoint_id = Some(value),
                "raft" => raft = Some(value),
                "http" => http = Some(value),
                _ => return Err(PeerArgError::UnknownName(name.to_owned())),
            }
        }
        Ok(Self {
            id: NodeId(parse_part("id", id)?),
            info: NodeInfo {
                endpoint_id: parse_part::<EndpointKey>("endpoint_id", endpoint_id)?,
                raft: parse_part("raft", raft)?,
                http: parse_part("http", http)?,
            },
        })
    }
}

fn parse_part<T: FromStr<Err: fmt::Display>>(
    name: &'static str,
    value: Option<&str>,
) -> Result<T, PeerArgError> {
    let value = value.ok_or(PeerArgError::MissingName(name))?;
    value.parse().map_err(|error: T::Err| PeerArgError::Value {
        name,
        value: value.to_owned(),
        reason: error.to_string(),
    })
}
