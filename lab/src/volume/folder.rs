//! The names in a folder, as they are and as they are on the disk.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::Inode;

/// Names, and what stands under them.
pub(super) type Names = BTreeMap<OsString, Inode>;

/// A folder.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// What programs see.
    pub(super) now: Names,
    /// What a power cut leaves.
    pub(super) durable: Names,
}

/// A change of names.
#[derive(Debug, Clone)]
pub(super) enum NameChange {
    Put { parent: Inode, name: OsString, inode: Inode },
    Remove { parent: Inode, name: OsString },
    Move { inode: Inode, from: (Inode, OsString), to: (Inode, OsString) },
}

impl NameChange {
    /// Whether it concerns this folder.
    pub(super) fn is_in(&self, folder: Inode) -> bool {
        match self {
            Self::Put { parent, .. } | Self::Remove { parent, .. } => *parent == folder,
            Self::Move { from, to, .. } => from.0 == folder || to.0 == folder,
        }
    }

    /// What it gives a name to.
    pub(super) fn inode(&self) -> Option<&Inode> {
        match self {
            Self::Put { inode, .. } | Self::Move { inode, .. } => Some(inode),
            Self::Remove { .. } => None,
        }
    }
}
