//! Entries as bytes, and what every state machine makes of one besides its outcome: the membership that it sets, and the digest
//! behind it.

use std::borrow::Cow;
use std::io;

use openraft::EntryPayload;

use crate::types::raft_types::{Entry, LogId, StoredMembership};
use crate::types::{Command, EncodedCommand, Outcome};

/// Which payload follows, as postcard numbers the variants of openraft's type.
mod tag {
    pub(super) const BLANK: u8 = 0;
    pub(super) const NORMAL: u8 = 1;
    pub(super) const MEMBERSHIP: u8 = 2;
}

/// The kind of an entry's payload, and its bytes.
fn payload(entry: &Entry) -> (u8, Cow<'_, [u8]>) {
    match &entry.payload {
        EntryPayload::Blank => (tag::BLANK, Cow::default()),
        EntryPayload::Normal(command) => (tag::NORMAL, command.as_bytes().into()),
        EntryPayload::Membership(membership) => (tag::MEMBERSHIP, encode(membership).into()),
    }
}

/// The bytes of an entry in the log, the same on every node: those that postcard makes of it with its command decoded.
pub(crate) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let (tag, payload) = payload(entry);
    let mut bytes = encode(&entry.log_id);
    bytes.push(tag);
    bytes.extend_from_slice(&payload);
    bytes
}

/// The entry that was encoded so. Its command is not looked into: see [`decode_command`].
pub(super) fn decode_entry(bytes: &[u8]) -> io::Result<Entry> {
    let failed = |error| io::Error::other(format!("a log entry does not decode: {error}"));
    let (log_id, rest): (LogId, _) = postcard::take_from_bytes(bytes).map_err(failed)?;
    let (tag, rest): (u8, _) = postcard::take_from_bytes(rest).map_err(failed)?;
    let payload = match tag {
        tag::BLANK => EntryPayload::Blank,
        tag::NORMAL => EntryPayload::Normal(EncodedCommand::from_bytes(rest)),
        tag::MEMBERSHIP => EntryPayload::Membership(postcard::from_bytes(rest).map_err(failed)?),
        _ => return Err(failed(postcard::Error::DeserializeBadEnum)),
    };
    Ok(Entry { log_id, payload })
}

/// The command of an entry, if it has one.
pub(super) fn decode_command(entry: &Entry) -> io::Result<Option<Command>> {
    let EntryPayload::Normal(command) = &entry.payload else { return Ok(None) };
    let index = entry.log_id.index;
    let failed = |error| io::Error::other(format!("the command of entry {index} does not decode: {error}"));
    command.decode().map(Some).map_err(failed)
}

/// About how many bytes an entry takes in memory, which is more than on its way; never less than its command.
pub(crate) fn entry_size(entry: &Entry) -> u64 {
    /// The entry itself, and what its command has beside its bytes: a count of who shares them, and the allocator's share.
    const BESIDES_COMMAND: usize = size_of::<Entry>() + 48;
    let (_, payload) = payload(entry);
    (payload.len() + BESIDES_COMMAND) as u64
}

/// The membership that an entry sets, if it sets one.
pub(super) fn membership_of(entry: &Entry) -> Option<StoredMembership> {
    match &entry.payload {
        EntryPayload::Membership(membership) => {
            Some(StoredMembership::new(Some(entry.log_id), membership.clone()))
        }
        EntryPayload::Blank | EntryPayload::Normal(_) => None,
    }
}

/// The digest after `entry`: BLAKE3 over the one before it, index, term, command and outcome.
pub(super) fn chain(before: &[u8; 32], entry: &Entry, outcome: &Outcome) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(&entry.log_id.index.to_le_bytes());
    hasher.update(&(*entry.log_id.leader_id).to_le_bytes());
    let (tag, payload) = payload(entry);
    hasher.update(&[tag]).update(&payload);
    hasher.update(&encode(outcome));
    *hasher.finalize().as_bytes()
}

/// The bytes of an id, a membership or an outcome, the same on every node.
pub(super) fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("ids, memberships and outcomes always encode")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openraft::testing::blank_ent;

    use super::*;
    use crate::types::raft_types::Membership;
    use crate::types::{EndpointKey, NodeId, NodeInfo, TypeConfig};

    /// A log that was written while commands stood in entries as they are is read by the same bytes.
    #[test]
    fn encoding_is_what_postcard_makes_of_an_entry() {
        let log_id = blank_ent::<TypeConfig>(3, NodeId(1), 700).log_id;
        let check = |payload, decoded: EntryPayload<Command, NodeId, NodeInfo>| {
            let (entry, want) = (Entry { log_id, payload }, encode(&(log_id, decoded)));
            assert_eq!(encode_entry(&entry), want);
            assert_eq!(decode_entry(&want).unwrap(), entry);
        };
        let command = Command::Set { key: "k".into(), value: "v".into() };
        let address = "127.0.0.1:1".parse().unwrap();
        let info = NodeInfo { endpoint_id: EndpointKey([7; 32]), raft: address, http: address };
        let nodes = BTreeMap::from([(NodeId(1), info)]);
        let membership = Membership::new(vec![[NodeId(1)].into()], nodes).unwrap();
        check(EntryPayload::Blank, EntryPayload::Blank);
        check(EntryPayload::Normal((&command).into()), EntryPayload::Normal(command));
        check(EntryPayload::Membership(membership.clone()), EntryPayload::Membership(membership));
    }

    #[test]
    fn entry_of_an_unknown_kind_does_not_decode() {
        let log_id = encode(&blank_ent::<TypeConfig>(3, NodeId(1), 700).log_id);
        for rest in [&[3][..], &[], &[2, 0xff]] {
            assert!(decode_entry(&[&log_id, rest].concat()).is_err());
        }
    }
}
