//! A small disk with files on it that can lose its power: what was not synced is lost then, or any part of it, torn at the
//! size of a sector.
//!
//! It is stricter than most disks are. Of the sectors that were written since the last sync of their file each keeps what
//! it had, what it was given last, or anything in between, whatever became of the others; so does the length of the file. Names
//! that were made, moved or removed since the last sync of their folder come about in their order, up to any of them. What
//! POSIX promises of fsync(2) is kept, and no more.
//!
//! A sync can be made to fail. Then it is as on Linux (<https://wiki.postgresql.org/wiki/Fsync_Errors>): programs see what they have
//! written, but the system takes it for synced. The next sync succeeds, and the power cut shows that the disk never had it. Only
//! what is written once more has another chance.

mod entry;
mod folder;
mod mount;
mod sectors;
mod syncs;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use rand::{Rng, RngExt};

pub use self::entry::Attributes;
use self::entry::{Entry, Node, apply};
use self::folder::{Folder, NameChange};
pub use self::mount::{MountError, Mounted};
use self::sectors::Content;
pub(crate) use self::sectors::{SECTOR_BYTES, Sector, Unsynced};
use self::syncs::Syncs;

/// The number of a file or a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode(pub u64);

/// The folder that holds all others.
pub const ROOT: Inode = Inode(1);

/// Why an operation is refused, as the kernel wants to hear it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// ENOENT.
    #[error("there is no such file or folder")]
    NotFound,
    /// EEXIST.
    #[error("there is one already")]
    Exists,
    /// ENOTDIR.
    #[error("this is no folder")]
    NotAFolder,
    /// EISDIR.
    #[error("this is a folder")]
    IsAFolder,
    /// ENOTEMPTY.
    #[error("the folder is not empty")]
    NotEmpty,
    /// ENOSPC.
    #[error("there is no room")]
    Full,
    /// EDQUOT.
    #[error("there is no room for this user")]
    Share,
    /// EIO.
    #[error("the disk has failed")]
    Failed,
}

/// What a power cut takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Everything that was not synced.
    All,
    /// Nothing: everything has reached the disk just in time.
    Nothing,
    /// Each sector by chance, kept with this probability in percent.
    Some(u8),
}

impl Loss {
    /// One in four takes everything, one in eight nothing, the others a part.
    pub fn draw(random: &mut impl Rng) -> Self {
        match random.random_range(0..8) {
            0 | 1 => Self::All,
            2 => Self::Nothing,
            _ => Self::Some(random.random_range(1..100)),
        }
    }

    /// With which probability each sector keeps what it was given last, in percent.
    pub(crate) fn kept_percent(self) -> u8 {
        match self {
            Self::All => 0,
            Self::Nothing => 100,
            Self::Some(percent) => percent,
        }
    }

    /// One in three takes everything, the others a part: losing nothing is no power cut, as far as anybody can see.
    pub(crate) fn draw_felt(random: &mut impl Rng) -> Self {
        if random.random_range(0..3) == 0 { Self::All } else { Self::Some(random.random_range(1..100)) }
    }
}

/// What a power cut has taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Sectors that were written and not synced, and have another content now.
    pub sectors: u64,
    /// Names that were made, moved or removed, and are as they were.
    pub names: u64,
    /// What the disk had been asked since its power had come.
    pub asked: Asked,
}

/// What a disk was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// To write something.
    pub writes: u64,
    /// To keep what was written.
    pub syncs: u64,
}

/// The disk.
#[derive(Debug)]
pub struct Volume {
    entries: BTreeMap<Inode, Entry>,
    next: u64,
    /// Changes of names that no sync of a folder has made durable, the oldest first.
    changes: Vec<NameChange>,
    /// Bytes that files may have.
    capacity: u64,
    /// How many of them its user may have, of which the file system says nothing.
    share: u64,
    syncs: Syncs,
    /// Since its power came.
    asked: Asked,
}

/// More than anybody needs here.
const CAPACITY_DEFAULT: u64 = 64 << 30;

impl Default for Volume {
    fn default() -> Self {
        let root = Entry { node: Node::Folder(Folder::default()), mode: 0o700, opened: 0 };
        Self {
            entries: [(ROOT, root)].into(),
            next: ROOT.0 + 1,
            changes: Vec::new(),
            capacity: CAPACITY_DEFAULT,
            share: u64::MAX,
            syncs: Syncs::default(),
            asked: Asked::default(),
        }
    }
}

impl Volume {
    /// How many bytes files may have. Where they have more already, none is lost, and none can be added.
    pub fn set_capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    /// The same for a user's share of the disk.
    pub fn set_share(&mut self, bytes: u64) {
        self.share = bytes;
    }

    /// How many bytes files may have.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// How many bytes files have.
    pub fn used(&self) -> u64 {
        self.entries.values().map(Entry::bytes).sum()
    }

    /// From now on the sync of a file fails, or no longer does. What was to be synced is lost.
    pub fn fail_syncs(&mut self, fail: bool) {
        self.syncs.fail = fail;
    }

    /// The next sync of this file fails, and none after it. What was to be synced is lost.
    pub fn fail_next_sync(&mut self, file: Inode) {
        self.syncs.fail_once.insert(file);
    }

    /// How many bytes files may have once they are synced: a write is taken, and it is the sync that finds no room, and loses what it
    /// was to keep. So do file systems that look for room late: over a network, with quotas, or on a thin disk.
    pub fn set_synced_capacity(&mut self, bytes: u64) {
        self.syncs.bytes_max = bytes;
    }

    /// How many bytes files have on the disk.
    pub fn used_synced(&self) -> u64 {
        self.entries.values().map(Entry::durable_bytes).sum()
    }

    /// What stands under a name.
    ///
    /// # Errors
    /// Nothing does.
    pub fn lookup(&self, parent: Inode, name: &OsStr) -> Result<Inode, VolumeError> {
        self.folder(parent)?.now.get(name).copied().ok_or(VolumeError::NotFound)
    }

    /// What it is.
    ///
    /// # Errors
    /// There is none.
    pub fn attributes(&self, inode: Inode) -> Result<Attributes, VolumeError> {
        let entry = self.entry(inode)?;
        let is_folder = matches!(entry.node, Node::Folder(_));
        Ok(Attributes { is_folder, bytes: entry.bytes(), mode: entry.mode })
    }

    /// What is in a folder, by name.
    ///
    /// # Errors
    /// It is none.
    pub fn list(&self, folder: Inode) -> Result<Vec<(OsString, Inode)>, VolumeError> {
        Ok(self.folder(folder)?.now.iter().map(|(name, inode)| (name.clone(), *inode)).collect())
    }

    /// Makes an empty file.
    ///
    /// # Errors
    /// The name is taken, or its folder is none.
    pub fn create(&mut self, parent: Inode, name: &OsStr, mode: u16) -> Result<Inode, VolumeError> {
        self.add(parent, name, mode, Node::File(Content::default()))
    }

    /// Makes an empty folder.
    ///
    /// # Errors
    /// The name is taken, or its folder is none.
    pub fn create_folder(&mut self, parent: Inode, name: &OsStr, mode: u16) -> Result<Inode, VolumeError> {
        self.add(parent, name, mode, Node::Folder(Folder::default()))
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    /// The name is taken, or there is no such file.
    pub fn link(&mut self, file: Inode, parent: Inode, name: &OsStr) -> Result<Inode, VolumeError> {
        self.content(file)?;
        if self.folder(parent)?.now.contains_key(name) {
            return Err(VolumeError::Exists);
        }
        self.change(NameChange::Put { parent, name: name.to_owned(), inode: file })?;
        Ok(file)
    }

    /// Removes the name of a file, or an empty folder.
    ///
    /// # Errors
    /// There is none, or the folder is not empty.
    pub fn remove(&mut self, parent: Inode, name: &OsStr) -> Result<(), VolumeError> {
        let inode = self.lookup(parent, name)?;
        if let Node::Folder(folder) = &self.entry(inode)?.node
            && !folder.now.is_empty()
        {
            return Err(VolumeError::NotEmpty);
        }
        self.change(NameChange::Remove { parent, name: name.to_owned() })?;
        self.collect();
        Ok(())
    }

    /// Gives something another name; what has that name already is replaced.
    ///
    /// # Errors
    /// There is no such name, or a folder would be replaced that is not empty.
    pub fn rename(&mut self, from: (Inode, &OsStr), to: (Inode, &OsStr)) -> Result<(), VolumeError> {
        let inode = self.lookup(from.0, from.1)?;
        if let Ok(replaced) = self.lookup(to.0, to.1)
            && let Node::Folder(folder) = &self.entry(replaced)?.node
            && !folder.now.is_empty()
        {
            return Err(VolumeError::NotEmpty);
        }
        let place = |(parent, name): (Inode, &OsStr)| (parent, name.to_owned());
        self.change(NameChange::Move { inode, from: place(from), to: place(to) })?;
        self.collect();
        Ok(())
    }

    /// Reads; fewer bytes at the end of the file.
    ///
    /// # Errors
    /// It is no file.
    pub fn read(&self, file: Inode, offset: u64, length: u32) -> Result<&[u8], VolumeError> {
        match &self.entry(file)?.node {
            Node::File(content) => Ok(content.read(offset, length)),
            Node::Folder(_) => Err(VolumeError::IsAFolder),
        }
    }

    /// Writes.
    ///
    /// # Errors
    /// It is no file.
    pub fn write(&mut self, file: Inode, offset: u64, bytes: &[u8]) -> Result<(), VolumeError> {
        let end = offset.saturating_add(bytes.len() as u64);
        self.asked.writes += 1;
        self.check_room(file, end)?;
        self.content(file)?.write(offset, bytes);
        Ok(())
    }

    /// Cuts a file off, or makes it longer with zeros.
    ///
    /// # Errors
    /// It is no file.
    pub fn set_len(&mut self, file: Inode, bytes: u64) -> Result<(), VolumeError> {
        self.check_room(file, bytes)?;
        self.content(file)?.set_len(bytes);
        Ok(())
    }

    /// Sets permissions, at once and for good.
    ///
    /// # Errors
    /// There is none.
    pub fn set_mode(&mut self, inode: Inode, mode: u16) -> Result<(), VolumeError> {
        self.entry_mut(inode)?.mode = mode;
        Ok(())
    }

    /// Counts it as open: what is open stays, also without a name.
    ///
    /// # Errors
    /// There is none.
    pub fn open(&mut self, inode: Inode) -> Result<(), VolumeError> {
        self.entry_mut(inode)?.opened += 1;
        Ok(())
    }

    /// The opposite of [`Self::open`].
    pub fn close(&mut self, inode: Inode) {
        if let Some(entry) = self.entries.get_mut(&inode) {
            entry.opened = entry.opened.saturating_sub(1);
        }
        self.collect();
    }

    /// Makes what a file holds durable, or the names of a folder.
    ///
    /// # Errors
    /// There is none, or the disk does not take it, which is lost then.
    pub fn sync(&mut self, inode: Inode) -> Result<(), VolumeError> {
        self.asked.syncs += 1;
        let used = self.used_synced();
        let entry = self.entries.get_mut(&inode).ok_or(VolumeError::NotFound)?;
        match &mut entry.node {
            Node::File(content) => {
                let more = content.more();
                self.syncs.check(inode, more, used + more).inspect_err(|_| content.fail_sync())?;
                content.sync();
            }
            Node::Folder(_) => {
                let (durable, rest) =
                    std::mem::take(&mut self.changes).into_iter().partition(|change| change.is_in(inode));
                self.changes = rest;
                self.make_durable(durable);
                self.collect();
            }
        }
        Ok(())
    }

    /// Loses its power: what was not synced is lost as `loss` says, and nothing is open any more.
    pub fn cut(&mut self, loss: Loss, random: &mut impl Rng) -> Lost {
        let changes = std::mem::take(&mut self.changes);
        let count = changes.len();
        let kept = match loss {
            Loss::All => 0,
            Loss::Nothing => count,
            Loss::Some(_) => random.random_range(0..=count),
        };
        let asked = std::mem::take(&mut self.asked);
        let mut gone = Lost { sectors: 0, names: (count - kept) as u64, asked };
        self.make_durable(changes.into_iter().take(kept).collect());
        for entry in self.entries.values_mut() {
            entry.opened = 0;
            match &mut entry.node {
                Node::File(content) => gone.sectors += content.cut(loss, random),
                Node::Folder(folder) => folder.now = folder.durable.clone(),
            }
        }
        self.collect();
        gone
    }

    /// Whether a file may become so long.
    fn check_room(&self, file: Inode, bytes: u64) -> Result<(), VolumeError> {
        let more = bytes.saturating_sub(self.entry(file)?.bytes());
        let then = self.used() + more;
        match more {
            0 => Ok(()),
            _ if then > self.capacity => Err(VolumeError::Full),
            _ if then > self.share => Err(VolumeError::Share),
            _ => Ok(()),
        }
    }

    fn add(&mut self, parent: Inode, name: &OsStr, mode: u16, node: Node) -> Result<Inode, VolumeError> {
        if self.folder(parent)?.now.contains_key(name) {
            return Err(VolumeError::Exists);
        }
        let inode = Inode(self.next);
        self.next += 1;
        self.entries.insert(inode, Entry { node, mode, opened: 0 });
        self.change(NameChange::Put { parent, name: name.to_owned(), inode })?;
        Ok(inode)
    }

    fn change(&mut self, change: NameChange) -> Result<(), VolumeError> {
        apply(&mut self.entries, &change, |folder| &mut folder.now)?;
        self.changes.push(change);
        Ok(())
    }

    fn make_durable(&mut self, changes: Vec<NameChange>) {
        for change in changes {
            // A folder that is gone has no names.
            let _ = apply(&mut self.entries, &change, |folder| &mut folder.durable);
        }
    }

    /// Forgets what nobody can reach any more.
    fn collect(&mut self) {
        let mut reached: BTreeSet<Inode> = BTreeSet::from([ROOT]);
        for entry in self.entries.values() {
            if let Node::Folder(folder) = &entry.node {
                reached.extend(folder.now.values().chain(folder.durable.values()));
            }
        }
        reached.extend(self.changes.iter().filter_map(NameChange::inode));
        self.entries.retain(|inode, entry| entry.opened > 0 || reached.contains(inode));
    }

    fn entry(&self, inode: Inode) -> Result<&Entry, VolumeError> {
        self.entries.get(&inode).ok_or(VolumeError::NotFound)
    }

    fn entry_mut(&mut self, inode: Inode) -> Result<&mut Entry, VolumeError> {
        self.entries.get_mut(&inode).ok_or(VolumeError::NotFound)
    }

    fn folder(&self, inode: Inode) -> Result<&Folder, VolumeError> {
        match &self.entry(inode)?.node {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(VolumeError::NotAFolder),
        }
    }

    fn content(&mut self, inode: Inode) -> Result<&mut Content, VolumeError> {
        match &mut self.entry_mut(inode)?.node {
            Node::File(content) => Ok(content),
            Node::Folder(_) => Err(VolumeError::IsAFolder),
        }
    }
}
