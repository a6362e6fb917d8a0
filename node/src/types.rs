//! The words that every other module uses: ids, keys, commands, outcomes, and openraft's `TypeConfig`.
//!
//! It does nothing: no I/O, no checks beyond the shape of a value.

mod change;
mod label;

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::change::{Change, ChangeKind, Interest, Previous, Revised};
pub use self::label::{Label, LabelError};
use crate::limits::COMMAND_DEPTH_MAX;

/// A member's number in the cluster, 1 and up. Chosen by the operator, never reused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The public key of a node's endpoint, by which its peers know it: 32 bytes, 64 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey(pub [u8; 32]);

/// Why a text is no [`EndpointKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an endpoint id has 64 hexadecimal digits")]
pub struct EndpointKeyError;

impl std::str::FromStr for EndpointKey {
    type Err = EndpointKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes =
            data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| EndpointKeyError)?;
        bytes.try_into().map(Self).map_err(|_| EndpointKeyError)
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for EndpointKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EndpointKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the cluster's membership says of a node: who it is and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The public key that the node proves when it connects.
    pub endpoint_id: EndpointKey,
    /// UDP address of Raft's RPC.
    pub raft: SocketAddr,
    /// TCP address of the HTTP interface.
    pub http: SocketAddr,
}

impl NodeInfo {
    /// Whether it is this node that others reach at its HTTP address: on another machine one of loopback is somebody else's.
    pub fn has_own_http(&self) -> bool {
        self.raft.ip().is_loopback() || !self.http.ip().is_loopback()
    }
}

/// A byte string that travels as bytes, not as a list of numbers.
macro_rules! byte_string {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Vec<u8>);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{}\"", self.0.escape_ascii())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.as_bytes().to_vec())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_byte_buf(ByteBuf).map(Self)
            }
        }
    };
}

byte_string! {
    /// A key: 1 to [`KEY_BYTES_MAX`](crate::limits::KEY_BYTES_MAX) bytes, ordered bytewise.
    Key
}

byte_string! {
    /// A value: at most [`VALUE_BYTES_MAX`](crate::limits::VALUE_BYTES_MAX) bytes.
    Value
}

byte_string! {
    /// A part of a snapshot's file on its way to another node: at most
    /// [`SNAPSHOT_CHUNK_BYTES`](crate::limits::SNAPSHOT_CHUNK_BYTES).
    ChunkBytes
}

/// Reads the bytes of a key or a value without going through a sequence of integers.
struct ByteBuf;

impl serde::de::Visitor<'_> for ByteBuf {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }
}

/// A point in the history of the cluster: the index of a log entry. Index 0 founds the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a lease: the revision that granted it, so that it is never another's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key's value, and when it came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The value.
    pub value: Value,
    /// The entry that created the key, after it was last absent.
    pub create_revision: Revision,
    /// The entry that last wrote it.
    pub mod_revision: Revision,
    /// How often it was written since it was created, 1 and up.
    pub version: u64,
    /// The lease with which it ends; `None`: it stays.
    pub lease: Option<LeaseId>,
}

/// The keys that begin with `prefix`, from `start` and before `end`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    /// Every key begins with it; empty: any key.
    pub prefix: Key,
    /// First key, inclusive; empty: from the beginning.
    pub start: Key,
    /// Last key, exclusive; empty: to the end.
    pub end: Key,
}

impl KeyRange {
    /// The least key that may be in it.
    pub fn first(&self) -> &Key {
        (&self.start).max(&self.prefix)
    }

    /// The range of one key.
    pub fn of_key(key: &Key) -> Self {
        let end = Key([key.0.as_slice(), &[0]].concat());
        Self { start: key.clone(), end, ..Self::default() }
    }

    /// Whether a key is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        *key >= *self.first().0 && !self.is_behind(key)
    }

    /// Whether a key is neither in it nor before it.
    pub fn is_behind(&self, key: &[u8]) -> bool {
        let is_past_end = !self.end.0.is_empty() && *key >= *self.end.0;
        is_past_end || (!key.starts_with(&self.prefix.0) && *key > *self.prefix.0)
    }
}

/// The name of a key space of its own: 1 to [`VAULT_NAME_BYTES_MAX`](crate::limits::VAULT_NAME_BYTES_MAX) of `A-Z`, `a-z`,
/// `0-9`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VaultName(pub String);

impl fmt::Display for VaultName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client asks the state machine to do. The order of the variants is part of the log's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Writes a value.
    Set {
        /// The key.
        key: Key,
        /// Its new value.
        value: Value,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Key,
    },
    /// Writes a value if the key's present one is the expected one.
    CompareAndSwap {
        /// The key.
        key: Key,
        /// What it must hold; `None`: it must be absent.
        expected: Option<Value>,
        /// Its new value.
        value: Value,
    },
    /// Writes values, at once.
    SetMulti {
        /// Keys and their new values, 1 to [`KEYS_PER_COMMAND_MAX`](crate::limits::KEYS_PER_COMMAND_MAX).
        pairs: Vec<(Key, Value)>,
    },
    /// Removes keys, at once.
    DeleteMulti {
        /// The keys, 1 to [`KEYS_PER_COMMAND_MAX`](crate::limits::KEYS_PER_COMMAND_MAX).
        keys: Vec<Key>,
    },
    /// Does one thing or another, at once.
    Transaction(Transaction),
    /// The same in a vault, which is made if something is written into it.
    InVault {
        /// Which one.
        vault: VaultName,
        /// Any command but this one and those on vaults.
        command: Box<Command>,
    },
    /// Makes a vault, unless there is one.
    CreateVault {
        /// Its name.
        vault: VaultName,
    },
    /// Removes a vault with all its keys.
    DeleteVault {
        /// Its name.
        vault: VaultName,
    },
    /// Makes a lease, which has to be kept alive.
    GrantLease {
        /// How long it lives without that, in milliseconds.
        ttl_ms: u64,
    },
    /// Ends a lease, and removes the keys that end with it.
    RevokeLease {
        /// Which one.
        lease: LeaseId,
    },
    /// What the command writes ends with a lease.
    WithLease {
        /// Which one.
        lease: LeaseId,
        /// Any command that writes keys, in a vault or in none.
        command: Box<Command>,
    },
}

/// Operations that depend on what keys hold: all of `success` if every comparison holds, otherwise all of `failure`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// What must hold; none: `success`. At most [`TRANSACTION_OPERATIONS_MAX`](crate::limits::TRANSACTION_OPERATIONS_MAX),
    /// and as many of each of the others.
    pub compare: Vec<Compare>,
    /// Done in this order; each sees what those before it have written.
    pub success: Vec<Operation>,
    /// The same, otherwise.
    pub failure: Vec<Operation>,
}

/// One comparison of a [`Transaction`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The key.
    pub key: Key,
    /// How what it has stands to `operand`.
    pub relation: Relation,
    /// What it is compared with.
    pub operand: Operand,
}

/// How one thing stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// It is the same.
    Equal,
    /// It is another.
    NotEqual,
    /// It is less: values bytewise.
    Less,
    /// It is greater: values bytewise.
    Greater,
}

/// What of a key is compared, and with what. An absent key has no value, and the numbers 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operand {
    /// Its value. An absent key's is not equal to any.
    Value(Value),
    /// How often it was written since it was created.
    Version(u64),
    /// The entry that created it.
    CreateRevision(Revision),
    /// The entry that last wrote it.
    ModRevision(Revision),
    /// Whether it is there.
    Exists(bool),
}

/// One operation of a [`Transaction`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Writes a value.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Value,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Key,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: Key,
    },
    /// Reads the first keys of a range.
    Range {
        /// Which keys.
        range: KeyRange,
        /// How many at most, 1 to [`SCAN_LIMIT_MAX`](crate::limits::SCAN_LIMIT_MAX).
        limit: u32,
    },
}

/// A command as it is proposed, sent and stored: encoded by postcard, once. Clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedCommand(Bytes);

impl EncodedCommand {
    /// Takes over bytes that were stored; see [`Self::decode`].
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }

    /// The bytes, the same on every node.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What the command does, where that is known before it is applied: a value that the front door has let in is written,
    /// whatever the key holds.
    pub fn certain_outcome(&self) -> Option<Outcome> {
        /// As postcard numbers [`Command::Set`].
        const SET: u8 = 0;
        (self.0.first() == Some(&SET)).then_some(Outcome::Written)
    }

    /// The command.
    ///
    /// # Errors
    /// The bytes are none that a node has encoded.
    pub fn decode(&self) -> Result<Command, postcard::Error> {
        self.check_depth()?;
        postcard::from_bytes(&self.0)
    }

    /// Refuses vaults in vaults in vaults, and leases likewise: each costs a peer two bytes, and us a piece of the stack.
    fn check_depth(&self) -> Result<(), postcard::Error> {
        /// As postcard numbers [`Command::InVault`] and [`Command::WithLease`].
        const IN_VAULT: u32 = 6;
        const WITH_LEASE: u32 = 11;
        let mut rest = self.as_bytes();
        for _ in 0..=COMMAND_DEPTH_MAX {
            let (kind, inner) = postcard::take_from_bytes::<u32>(rest)?;
            rest = match kind {
                IN_VAULT => postcard::take_from_bytes::<&str>(inner)?.1,
                WITH_LEASE => postcard::take_from_bytes::<u64>(inner)?.1,
                _ => return Ok(()),
            };
        }
        Err(postcard::Error::DeserializeBadEncoding)
    }
}

impl From<&Command> for EncodedCommand {
    fn from(command: &Command) -> Self {
        Self(postcard::to_stdvec(command).expect("commands always encode").into())
    }
}

impl fmt::Display for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decode() {
            Ok(command) => command.fmt(f),
            Err(error) => write!(f, "{} bytes that are no command: {error}", self.0.len()),
        }
    }
}

impl fmt::Debug for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for EncodedCommand {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for EncodedCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(ByteBuf).map(|bytes| Self(bytes.into()))
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set { key, value } => write!(f, "set {key:?}, {} bytes", value.0.len()),
            Self::Delete { key } => write!(f, "delete {key:?}"),
            Self::CompareAndSwap { key, value, .. } => {
                write!(f, "compare-and-swap {key:?}, {} bytes", value.0.len())
            }
            Self::SetMulti { pairs } => write!(f, "set {} keys", pairs.len()),
            Self::DeleteMulti { keys } => write!(f, "delete {} keys", keys.len()),
            Self::Transaction(Transaction { compare, success, failure }) => {
                write!(f, "transaction of {}, {} and {}", compare.len(), success.len(), failure.len())
            }
            Self::InVault { vault, command } => write!(f, "in vault {vault}: {command}"),
            Self::CreateVault { vault } => write!(f, "create vault {vault}"),
            Self::DeleteVault { vault } => write!(f, "delete vault {vault}"),
            Self::GrantLease { ttl_ms } => write!(f, "grant a lease of {ttl_ms} ms"),
            Self::RevokeLease { lease } => write!(f, "revoke lease {lease}"),
            Self::WithLease { lease, command } => write!(f, "with lease {lease}: {command}"),
        }
    }
}

/// What a command did. The order of the variants is part of the state digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing for a client: a leader's first entry or a change of members.
    None,
    /// The values were written.
    Written,
    /// The key or vault was removed, or was not there.
    Deleted {
        /// Whether it was there.
        existed: bool,
    },
    /// The expected value was found and replaced.
    Swapped,
    /// Another value, or none, was found; nothing was changed.
    NotSwapped {
        /// What the key holds.
        actual: Option<Value>,
    },
    /// The command breaks a bound that a client's front door should have refused.
    Refused,
    /// The keys were removed, as far as they were there.
    DeletedMulti {
        /// How many were there.
        existed_count: u32,
    },
    /// One branch of a transaction was done.
    Transaction {
        /// Whether every comparison held.
        succeeded: bool,
        /// What each of the branch's operations did.
        results: Vec<OperationResult>,
    },
    /// A transaction would have answered more than fits into an answer; nothing was changed.
    AnswerTooLarge,
    /// The vault is there.
    VaultReady {
        /// Whether it was made by this command.
        is_new: bool,
    },
    /// There are as many vaults as there may be; nothing was changed.
    TooManyVaults,
    /// The lease is granted; its number is that of this entry.
    LeaseGranted,
    /// There are as many leases as there may be; nothing was changed.
    TooManyLeases,
    /// The lease and its keys are no more.
    LeaseEnded {
        /// Whether there was one.
        existed: bool,
        /// How many keys ended with it.
        key_count: u32,
    },
    /// There is no such lease, so nothing was changed: it was never granted, or has ended.
    LeaseNotFound,
    /// As many keys end with the lease as may; nothing was changed.
    LeaseFull,
}

/// What an [`Operation`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationResult {
    /// The value was written.
    Written,
    /// The key was removed, or was not there.
    Deleted {
        /// Whether it was there.
        existed: bool,
    },
    /// What was read.
    Got(Option<Record>),
    /// What was found.
    Found {
        /// The first keys, in their order.
        entries: Vec<(Key, Record)>,
        /// Whether more follow.
        is_truncated: bool,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

openraft::declare_raft_types!(
    /// openraft's types as Aspen uses them. `leader_id_std` allows one leader in a term, as the Raft thesis has it.
    pub TypeConfig:
        D = EncodedCommand,
        R = Outcome,
        NodeId = NodeId,
        Node = NodeInfo,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>,
        AsyncRuntime = crate::host::AspenRuntime,
);

/// The names of openraft's types at [`TypeConfig`].
pub mod raft_types {
    use super::{NodeId, NodeInfo, TypeConfig};

    /// A log entry.
    pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
    /// Term and index of an entry.
    pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
    /// Term and candidate that a node has voted for.
    pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
    /// Who votes and who learns.
    pub type Membership = openraft::Membership<NodeId, NodeInfo>;
    /// A membership and the entry that set it.
    pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
    /// What a snapshot covers.
    pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
    /// A snapshot with its data.
    pub type Snapshot<D> = openraft::type_config::alias::SnapshotOf<TypeConfig, D>;
    /// What openraft says of itself.
    pub type Metrics = openraft::RaftMetrics<TypeConfig>;
    /// Request of the AppendEntries RPC.
    pub type AppendEntriesRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
    /// Answer of the AppendEntries RPC.
    pub type AppendEntriesResponse = openraft::raft::AppendEntriesResponse<TypeConfig>;
    /// Answer to one AppendEntries of a stream of them.
    pub type StreamAppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
    /// Request of the Vote and PreVote RPCs.
    pub type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
    /// Answer of the Vote and PreVote RPCs.
    pub type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
    /// Request to stand for election at once.
    pub type TransferLeaderRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
    /// Answer to it.
    pub type TransferLeaderResponse = openraft::raft::TransferLeaderResponse<TypeConfig>;
    /// Answer to a snapshot.
    pub type SnapshotResponse = openraft::raft::SnapshotResponse<TypeConfig>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_key_reads_what_it_prints() {
        let key = EndpointKey([0xa5; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!("a5".parse::<EndpointKey>(), Err(EndpointKeyError));
    }

    /// An answer that is given early must be the one that is given later.
    #[test]
    fn only_a_plain_set_has_a_certain_outcome() {
        let (key, value) = (Key::from("k"), Value::from("v"));
        let vault = VaultName("v".to_owned());
        let certain = |command: &Command| EncodedCommand::from(command).certain_outcome();
        let set = Command::Set { key: key.clone(), value: value.clone() };
        assert_eq!(certain(&set), Some(Outcome::Written));
        for other in [
            Command::Delete { key: key.clone() },
            Command::CompareAndSwap { key: key.clone(), expected: None, value: value.clone() },
            Command::SetMulti { pairs: vec![(key.clone(), value)] },
            Command::DeleteMulti { keys: vec![key] },
            Command::Transaction(Transaction::default()),
            Command::InVault { vault: vault.clone(), command: Box::new(set.clone()) },
            Command::CreateVault { vault: vault.clone() },
            Command::DeleteVault { vault },
            Command::GrantLease { ttl_ms: 1_000 },
            Command::RevokeLease { lease: LeaseId(1) },
            Command::WithLease { lease: LeaseId(1), command: Box::new(set) },
        ] {
            assert_eq!(certain(&other), None, "{other}");
        }
    }

    fn around(depth: u32, wrap: fn(Box<Command>) -> Command) -> Command {
        (0..depth).fold(Command::Delete { key: Key::from("k") }, |command, _| wrap(Box::new(command)))
    }

    #[test]
    fn command_is_read_with_few_vaults_and_leases_around_it() {
        let in_vault = |command| Command::InVault { vault: VaultName("v".to_owned()), command };
        let with_lease = |command| Command::WithLease { lease: LeaseId(1 << 40), command };
        for wrap in [in_vault, with_lease] {
            for depth in 0..=COMMAND_DEPTH_MAX {
                let command = around(depth, wrap);
                assert_eq!(EncodedCommand::from(&command).decode(), Ok(command));
            }
            let error = Err(postcard::Error::DeserializeBadEncoding);
            assert_eq!(EncodedCommand::from(&around(COMMAND_DEPTH_MAX + 1, wrap)).decode(), error);
        }
    }

    /// Found by fuzzing: a peer's 200 kB were enough to end a node, whose stack they filled.
    #[test]
    fn a_hundred_thousand_vaults_or_leases_are_refused() {
        // postcard reads a number in more bytes than it needs, too.
        for wrapper in [&[6, 0][..], &[11, 0], &[0x86, 0, 0]] {
            let wrapped = EncodedCommand::from_bytes(&wrapper.repeat(100_000));
            assert_eq!(wrapped.decode(), Err(postcard::Error::DeserializeBadEncoding));
        }
    }

    #[test]
    fn key_is_encoded_as_length_and_bytes() {
        assert_eq!(postcard::to_stdvec(&Key::from("ab")).unwrap(), [2, b'a', b'b']);
        let back: Key = postcard::from_bytes(&[2, b'a', b'b']).unwrap();
        assert_eq!(back, Key::from("ab"));
    }
}
