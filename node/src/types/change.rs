//! What commands change, for those who follow it.

use super::{Key, KeyRange, Record, Revision, VaultName};

/// What happened to a key, or to a vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// In this vault; `None`: in none.
    pub vault: Option<VaultName>,
    /// What.
    pub kind: ChangeKind,
}

/// One of the things that happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// A key was written.
    Put {
        /// The key.
        key: Key,
        /// What it holds now.
        record: Record,
        /// What it held before.
        previous: Previous,
    },
    /// A key was removed.
    Deleted {
        /// The key.
        key: Key,
        /// What it held before.
        previous: Previous,
    },
    /// The vault was removed with all its keys.
    VaultDeleted,
}

/// What a key held before a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Previous {
    /// Nobody had asked for it then, or it was too large.
    #[default]
    NotNoted,
    /// Nothing: it was not there.
    Absent,
    /// This.
    Record(Record),
}

impl Previous {
    /// What it was, if it is known.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Record(record) => Some(record),
            Self::NotNoted | Self::Absent => None,
        }
    }
}

impl Change {
    /// The key, unless it is the whole vault.
    pub fn key(&self) -> Option<&Key> {
        match &self.kind {
            ChangeKind::Put { key, .. } | ChangeKind::Deleted { key, .. } => Some(key),
            ChangeKind::VaultDeleted => None,
        }
    }
}

/// The changes that one entry made, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revised {
    /// The entry.
    pub revision: Revision,
    /// At least one.
    pub changes: Vec<Change>,
}

/// Which changes somebody follows.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interest {
    /// Those in this vault, whether or not it is there yet; `None`: in none.
    pub vault: Option<VaultName>,
    /// Of these keys.
    pub range: KeyRange,
}

impl Interest {
    /// Whether a change is one of them.
    pub fn includes(&self, change: &Change) -> bool {
        let is_here = self.vault == change.vault;
        is_here && change.key().is_none_or(|key| self.range.contains(&key.0))
    }
}
