//! Files and folders, and changes of their names.

use std::collections::BTreeMap;

use super::folder::{Folder, NameChange, Names};
use super::sectors::Content;
use super::{Inode, VolumeError};

/// What a file or a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Whether it is a folder.
    pub is_folder: bool,
    /// The length of a file, in bytes.
    pub bytes: u64,
    /// Permissions.
    pub mode: u16,
}

/// What there is of it.
#[derive(Debug)]
pub(super) enum Node {
    File(Content),
    Folder(Folder),
}

/// A file or a folder.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) node: Node,
    pub(super) mode: u16,
    /// How often it is open.
    pub(super) opened: u32,
}

impl Entry {
    pub(super) fn bytes(&self) -> u64 {
        match &self.node {
            Node::File(content) => content.len(),
            Node::Folder(_) => 0,
        }
    }

    pub(super) fn durable_bytes(&self) -> u64 {
        match &self.node {
            Node::File(content) => content.durable_len(),
            Node::Folder(_) => 0,
        }
    }
}

/// Changes names, those of `names` in each folder.
pub(super) fn apply(
    entries: &mut BTreeMap<Inode, Entry>,
    change: &NameChange,
    names: fn(&mut Folder) -> &mut Names,
) -> Result<(), VolumeError> {
    match change {
        NameChange::Put { parent, name, inode } => {
            names_of(entries, *parent, names)?.insert(name.clone(), *inode);
        }
        NameChange::Remove { parent, name } => {
            names_of(entries, *parent, names)?.remove(name);
        }
        NameChange::Move { inode, from, to } => {
            names_of(entries, from.0, names)?.remove(&from.1);
            names_of(entries, to.0, names)?.insert(to.1.clone(), *inode);
        }
    }
    Ok(())
}

fn names_of(
    entries: &mut BTreeMap<Inode, Entry>,
    folder: Inode,
    names: fn(&mut Folder) -> &mut Names,
) -> Result<&mut Names, VolumeError> {
    match entries.get_mut(&folder).map(|entry| &mut entry.node) {
        Some(Node::Folder(folder)) => Ok(names(folder)),
        Some(Node::File(_)) => Err(VolumeError::NotAFolder),
        None => Err(VolumeError::NotFound),
    }
}
