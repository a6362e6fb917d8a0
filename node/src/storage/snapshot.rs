//! Snapshots: the whole state as of one entry, each in a file of its own. A data directory keeps the newest one.
//!
//! The name of a file is its seal: index and term of the last entry, and a digest of every byte. A file gets its name
//! only when it is complete and on disk, so that a crash at any step leaves the old one or the new one. What the bytes
//! mean is the state machine's business.

mod damage;
mod incoming;
mod whole;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::damage::Damage;
pub use self::damage::SealDigest;
pub use self::incoming::Incoming;
pub use self::whole::DAMAGED;
use super::StorageError;
use crate::failpoint::FailPoint;
use crate::limits::{SNAPSHOT_CHUNK_BYTES, SNAPSHOT_FLUSH_BYTES, SNAPSHOT_REGION_CHUNKS};
use crate::types::raft_types::{LogId, SnapshotMeta};

/// The folder of a data directory that holds them.
pub const SNAPSHOT_DIR: &str = "snapshots";
/// Where one is being built.
const BUILDING: &str = "building";
/// Where one is copied to that lies elsewhere.
const ADOPTED: &str = "adopted";
/// Where one is being received; what is there already is used again.
const INCOMING: &str = "incoming";

/// Digest of a snapshot or of a part of it: BLAKE3.
pub type Digest = [u8; 32];

/// A finished snapshot. It can be read until the last clone is dropped, also after a newer one has taken its place.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    meta: SnapshotMeta,
    seal: Seal,
    content: Content,
    damage: Damage,
}

/// Where the bytes of a snapshot are.
#[derive(Debug, Clone)]
enum Content {
    File(Arc<File>),
    Memory(Arc<[u8]>),
}

impl Content {
    /// Fills `buffer` from `offset` on.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Memory(bytes) => {
                let from = usize::try_from(offset).map_err(io::Error::other)?;
                let part = bytes.get(from..).and_then(|rest| rest.get(..buffer.len()));
                buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    fn bytes(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }
}

/// What identifies the bytes of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 over the BLAKE3 digests of its chunks, in their order.
    pub digest: Digest,
}

/// The snapshots of one data directory. Clones share it.
#[derive(Debug, Clone)]
pub struct SnapshotStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    current: Mutex<Option<SnapshotFile>>,
    /// One becomes the newest at a time.
    entering: Mutex<()>,
    /// One is received at a time.
    turn: Arc<Semaphore>,
}

impl SnapshotFile {
    /// A snapshot that is in memory only.
    pub fn in_memory(meta: SnapshotMeta, bytes: Arc<[u8]>) -> Self {
        let content = Content::Memory(bytes);
        let seal = seal(&content).expect("memory can be read");
        Self::new(meta, seal, content)
    }

    fn new(meta: SnapshotMeta, seal: Seal, content: Content) -> Self {
        Self { meta, seal, content, damage: Damage::default() }
    }

    /// All of its bytes, which have to fit into memory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.seal.bytes).map_err(io::Error::other)?];
        self.content.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// What it covers.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Its size and digest.
    pub fn seal(&self) -> Seal {
        self.seal
    }

    /// The digests of the chunks of a region, in their order; none behind the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn region(&self, region: u64) -> io::Result<Vec<Digest>> {
        region_chunks(self.seal.bytes, region).map(|chunk| Ok(chunk_digest(&self.chunk(chunk)?))).collect()
    }

    /// The bytes of a chunk, numbered from the beginning of the file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn chunk(&self, chunk: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; chunk_bytes(self.seal.bytes, chunk)];
        self.content.read_at(&mut bytes, chunk * u64::from(SNAPSHOT_CHUNK_BYTES))?;
        Ok(bytes)
    }

    /// Copies it to a new file, durably; a file system that can share the blocks does.
    ///
    /// # Errors
    /// The file cannot be read or the other not be written.
    pub fn copy_to(&self, path: &Path) -> io::Result<()> {
        let mut target = File::create(path)?;
        match &self.content {
            Content::File(file) => {
                // The same handle would share its position with everybody who reads this snapshot.
                let source = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
                // Bit by bit, so that others do not wait for all of it when they flush something small.
                while io::copy(&mut (&source).take(SNAPSHOT_FLUSH_BYTES), &mut target)? > 0 {
                    target.sync_data()?;
                }
            }
            Content::Memory(bytes) => target.write_all(bytes)?,
        }
        target.sync_all()
    }
}

impl SnapshotStore {
    /// Opens the snapshots in a folder, which is made if it is missing. `read_meta` says what a file covers.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(
        dir: &Path,
        read_meta: impl FnOnce(&Path) -> Result<SnapshotMeta, StorageError>,
    ) -> Result<Self, StorageError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StorageError::Io { path, source }
        };
        fs::create_dir_all(dir).map_err(io(dir))?;
        let above = dir.parent().unwrap_or(dir);
        sync_dir(above).map_err(io(above))?;
        let Files { finished: mut found, others } = files(dir).map_err(io(dir))?;
        // What a crash has left of a build; what it has left of a transfer is used again.
        for path in others.iter().filter(|path| path.file_name().is_none_or(|name| name != INCOMING)) {
            fs::remove_file(path).map_err(io(path))?;
        }
        let newest = found.pop();
        for (.., path) in found {
            fs::remove_file(&path).map_err(io(&path))?;
        }
        let current = newest.map(|(_, digest, path)| {
            let file = File::open(&path).map_err(io(&path))?;
            let bytes = file.metadata().map_err(io(&path))?.len();
            let seal = Seal { bytes, digest };
            match read_meta(&path) {
                Ok(meta) => Ok(Some(SnapshotFile::new(meta, seal, Content::File(Arc::new(file))))),
                Err(error) => {
                    // The state itself is elsewhere: another one can be made of it.
                    tracing::error!(%error, path = %path.display(), "the snapshot cannot be read and is removed");
                    fs::remove_file(&path).map_err(io(&path))?;
                    Ok(None)
                }
            }
        });
        let inner = Inner {
            dir: dir.to_owned(),
            current: Mutex::new(current.transpose()?.flatten()),
            entering: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The newest snapshot.
    pub fn current(&self) -> Option<SnapshotFile> {
        self.lock().clone()
    }

    /// Where a snapshot of this folder is.
    pub fn path(&self, snapshot: &SnapshotFile) -> PathBuf {
        self.0.dir.join(name(snapshot.meta.last_log_id, &snapshot.seal.digest))
    }

    /// Where to build one. What was there is gone.
    ///
    /// # Errors
    /// What was there cannot be removed.
    pub fn building(&self) -> io::Result<PathBuf> {
        let path = self.0.dir.join(BUILDING);
        remove_if_there(&path)?;
        Ok(path)
    }

    /// Makes the complete file at `path` the newest snapshot, durably, unless there is a newer one.
    ///
    /// # Errors
    /// The file cannot be read, flushed or renamed. The one before stays.
    pub fn publish(&self, path: &Path, meta: SnapshotMeta) -> io::Result<SnapshotFile> {
        let content = Content::File(Arc::new(File::open(path)?));
        let seal = seal(&content)?;
        self.enter(path, SnapshotFile::new(meta, seal, content))
    }

    /// Takes over a finished snapshot, by a copy if it lies in another folder, unless there is one that is as new.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn adopt(&self, snapshot: SnapshotFile) -> io::Result<()> {
        let is_as_new = |current: &SnapshotFile| current.meta.last_log_id >= snapshot.meta.last_log_id;
        if self.current().is_some_and(|current| current.damage().is_none() && is_as_new(&current)) {
            return Ok(());
        }
        let path = self.0.dir.join(ADOPTED);
        snapshot.copy_to(&path)?;
        let content = Content::File(Arc::new(File::open(&path)?));
        self.enter(&path, SnapshotFile::new(snapshot.meta, snapshot.seal, content)).map(drop)
    }

    /// Bytes on the disk of a transfer that has not come to its end, and may go on.
    pub fn received_bytes(&self) -> u64 {
        // `st_blocks` counts in units of 512 bytes, whatever the file system does (stat(2)).
        fs::metadata(self.0.dir.join(INCOMING)).map_or(0, |file| file.blocks().saturating_mul(512))
    }

    /// Prepares to receive a snapshot. Its chunks are looked for in `bases` first.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] while another one is received, or the file cannot be made.
    pub fn receive(&self, meta: SnapshotMeta, seal: Seal, mut bases: Vec<Arc<File>>) -> io::Result<Incoming> {
        let turn = self.0.turn.clone().try_acquire_owned();
        let turn: OwnedSemaphorePermit = turn
            .map_err(|_| io::Error::new(io::ErrorKind::WouldBlock, "another snapshot is being received"))?;
        if let Some(Content::File(file)) = self.current().map(|current| current.content) {
            bases.push(file);
        }
        Incoming::open(self.clone(), self.0.dir.join(INCOMING), meta, seal, bases, turn)
    }

    /// Gives a complete file its name.
    fn enter(&self, path: &Path, snapshot: SnapshotFile) -> io::Result<SnapshotFile> {
        if let Content::File(file) = &snapshot.content {
            file.sync_all()?;
        }
        FailPoint::SnapshotFlushed.pass();
        // One after the other; whoever asks for the present one does not wait for the disk.
        let _turn = self.0.entering.lock().expect("nothing panics while it holds this lock");
        let current = self.current();
        let is_newer = |there: &SnapshotFile| there.meta.last_log_id > snapshot.meta.last_log_id;
        if let Some(newer) = current.filter(|there| there.damage().is_none() && is_newer(there)) {
            fs::remove_file(path)?;
            return Ok(newer);
        }
        let name = name(snapshot.meta.last_log_id, &snapshot.seal.digest);
        fs::rename(path, self.0.dir.join(&name))?;
        sync_dir(&self.0.dir)?;
        FailPoint::SnapshotNamed.pass();
        let before = self.lock().replace(snapshot.clone());
        if let Some(before) = before {
            let old = self::name(before.meta.last_log_id, &before.seal.digest);
            if old != name {
                remove_if_there(&self.0.dir.join(old))?;
            }
        }
        Ok(snapshot)
    }

    fn lock(&self) -> MutexGuard<'_, Option<SnapshotFile>> {
        self.0.current.lock().expect("nothing panics while it holds this lock")
    }
}

/// The newest snapshot in a folder, which need not be there.
///
/// # Errors
/// The folder cannot be read.
pub fn newest_in(dir: &Path) -> io::Result<Option<PathBuf>> {
    match files(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        files => Ok(files?.finished.pop().map(|(.., path)| path)),
    }
}

/// The files of a folder.
#[derive(Debug, Default)]
struct Files {
    /// Finished snapshots, the newest last: up to which entry, their digests and where they are.
    finished: Vec<(u64, Digest, PathBuf)>,
    others: Vec<PathBuf>,
}

fn files(dir: &Path) -> io::Result<Files> {
    let mut files = Files::default();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.file_name().and_then(|name| parse_name(name.to_str()?)) {
            Some((index, digest)) => files.finished.push((index, digest, path)),
            None => files.others.push(path),
        }
    }
    files.finished.sort_unstable();
    Ok(files)
}

/// Checks every byte of the snapshot at `path` against the digest in its name.
///
/// # Errors
/// The file cannot be read, or its name is none of a snapshot.
pub fn is_intact(path: &Path) -> io::Result<bool> {
    let name = path.file_name().and_then(|name| parse_name(name.to_str()?));
    let (_, digest) = name.ok_or_else(|| io::Error::other("this is not the name of a snapshot"))?;
    Ok(seal(&Content::File(Arc::new(File::open(path)?)))?.digest == digest)
}

/// Makes the names in a folder durable.
///
/// # Errors
/// The folder cannot be opened or flushed.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes a file, unless there is none.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Size and digest of what is to be a snapshot. Holds one chunk in memory.
fn seal(content: &Content) -> io::Result<Seal> {
    let bytes = content.bytes()?;
    let mut digest = SealDigest::default();
    let mut buffer = vec![0; SNAPSHOT_CHUNK_BYTES as usize];
    for chunk in 0..chunk_count(bytes) {
        let part = &mut buffer[..chunk_bytes(bytes, chunk)];
        content.read_at(part, chunk * u64::from(SNAPSHOT_CHUNK_BYTES))?;
        digest.add(&chunk_digest(part));
    }
    Ok(Seal { bytes, digest: digest.finish() })
}

fn chunk_digest(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

fn chunk_count(bytes: u64) -> u64 {
    bytes.div_ceil(u64::from(SNAPSHOT_CHUNK_BYTES))
}

/// The chunks of a region of a file of `bytes`.
fn region_chunks(bytes: u64, region: u64) -> std::ops::Range<u64> {
    let chunks = u64::from(SNAPSHOT_REGION_CHUNKS);
    let count = chunk_count(bytes);
    (region * chunks).min(count)..((region + 1) * chunks).min(count)
}

/// How many regions a file of `bytes` has.
pub fn region_count(bytes: u64) -> u64 {
    chunk_count(bytes).div_ceil(u64::from(SNAPSHOT_REGION_CHUNKS))
}

/// The length of a chunk: only the last one is shorter than the others.
fn chunk_bytes(bytes: u64, chunk: u64) -> usize {
    let left = bytes.saturating_sub(chunk * u64::from(SNAPSHOT_CHUNK_BYTES));
    usize::try_from(left.min(u64::from(SNAPSHOT_CHUNK_BYTES))).expect("a chunk fits into memory")
}

/// `INDEX-TERM-DIGEST`; a snapshot of no entry at all is at 0 in term 0.
fn name(last: Option<LogId>, digest: &Digest) -> String {
    let (index, term) = last.map_or((0, 0), |last| (last.index, *last.leader_id));
    format!("{index}-{term}-{}", data_encoding::HEXLOWER.encode(digest))
}

fn parse_name(name: &str) -> Option<(u64, Digest)> {
    let (index, rest) = name.split_once('-')?;
    let (term, digest) = rest.split_once('-')?;
    term.parse::<u64>().ok()?;
    let digest = data_encoding::HEXLOWER.decode(digest.as_bytes()).ok()?;
    Some((index.parse().ok()?, digest.try_into().ok()?))
}

#[cfg(test)]
mod tests;
