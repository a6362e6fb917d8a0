//! A [`Volume`] as a file system of this host, by FUSE.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use rand::Rng;

use super::{Attributes, Inode, Loss, Lost, Volume, VolumeError};

/// How long the kernel may take what it was told for true: nobody else changes anything.
const KNOWN: Duration = Duration::from_hours(1);
/// The unit in which the kernel is told of room, in bytes.
const BLOCK_BYTES: u32 = 4096;

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
#[error("cannot use a file system of our own at {}", .path.display())]
pub struct MountError {
    path: PathBuf,
    source: io::Error,
}

impl MountError {
    pub(crate) fn new(path: &Path, source: io::Error) -> Self {
        Self { path: path.to_owned(), source }
    }
}

/// A volume that is mounted. Dropped, it is gone with all that was on it.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    shared: Arc<Mutex<Shared>>,
    /// `None` only while it has no power.
    session: Option<BackgroundSession>,
}

#[derive(Debug, Default)]
struct Shared {
    volume: Volume,
    /// Nothing is read or written any more.
    is_off: bool,
}

impl Mounted {
    /// Mounts an empty volume over a folder.
    ///
    /// # Errors
    /// This host forbids it, or the folder is not there.
    pub fn new(path: &Path) -> Result<Self, MountError> {
        let mut mounted = Self { path: path.to_owned(), shared: Arc::default(), session: None };
        mounted.power_on()?;
        Ok(mounted)
    }

    /// Takes its power away and gives it back. Whoever has it open has to be dead.
    ///
    /// # Errors
    /// It cannot be mounted again, or is in use.
    pub fn cut(&mut self, loss: Loss, random: &mut impl Rng) -> Result<Lost, MountError> {
        // What the kernel still holds of files that were mapped comes too late.
        self.shared().is_off = true;
        if let Some(session) = self.session.take() {
            match session.umount_and_join() {
                // The kernel was handing over a request, say that a file is closed, when its file system went.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                ended => ended.map_err(|source| self.failed(source))?,
            }
        }
        let gone = self.shared().volume.cut(loss, random);
        self.power_on()?;
        Ok(gone)
    }

    /// Changes how the volume behaves, or asks it something.
    pub fn with<T>(&self, work: impl FnOnce(&mut Volume) -> T) -> T {
        work(&mut self.shared().volume)
    }

    fn power_on(&mut self) -> Result<(), MountError> {
        self.shared().is_off = false;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("aspen-volume".to_owned()), MountOption::NoAtime];
        let files = Files(self.shared.clone());
        let session = fuser::spawn_mount(files, &self.path, &config);
        self.session = Some(session.map_err(|source| self.failed(source))?);
        Ok(())
    }

    fn failed(&self, source: io::Error) -> MountError {
        MountError::new(&self.path, source)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().expect("nothing panics while it holds this lock")
}

/// The kernel's requests, on the volume.
struct Files(Arc<Mutex<Shared>>);

impl Files {
    fn on<T>(&self, work: impl FnOnce(&mut Volume) -> Result<T, VolumeError>) -> Result<T, Errno> {
        let mut shared = lock(&self.0);
        if shared.is_off {
            return Err(Errno::EIO);
        }
        work(&mut shared.volume).map_err(|error| match error {
            VolumeError::NotFound => Errno::ENOENT,
            VolumeError::Exists => Errno::EEXIST,
            VolumeError::NotAFolder => Errno::ENOTDIR,
            VolumeError::IsAFolder => Errno::EISDIR,
            VolumeError::NotEmpty => Errno::ENOTEMPTY,
            VolumeError::Full => Errno::ENOSPC,
            VolumeError::Share => Errno::EDQUOT,
            VolumeError::Failed => Errno::EIO,
        })
    }

    /// Something that is looked up or made, and what it is.
    fn found(
        &self,
        request: &Request,
        work: impl FnOnce(&mut Volume) -> Result<Inode, VolumeError>,
    ) -> Result<FileAttr, Errno> {
        let found = self.on(|volume| {
            let inode = work(volume)?;
            Ok((inode, volume.attributes(inode)?))
        });
        found.map(|(inode, attributes)| attr(request, inode, attributes))
    }
}

fn attr(request: &Request, inode: Inode, attributes: Attributes) -> FileAttr {
    let Attributes { is_folder, bytes, mode } = attributes;
    FileAttr {
        ino: INodeNo(inode.0),
        size: bytes,
        blocks: bytes.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if is_folder { FileType::Directory } else { FileType::RegularFile },
        perm: mode,
        nlink: 1,
        uid: request.uid(),
        gid: request.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Permissions, without the kind of file.
fn mode_of(mode: u32, umask: u32) -> u16 {
    u16::try_from(mode & !umask & 0o7777).unwrap_or_default()
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(reply: ReplyEntry, found: Result<FileAttr, Errno>) {
    match found {
        Ok(attr) => reply.entry(&KNOWN, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn attributes(reply: ReplyAttr, found: Result<FileAttr, Errno>) {
    match found {
        Ok(attr) => reply.attr(&KNOWN, &attr),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Files {
    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.found(request, |volume| volume.lookup(Inode(parent.0), name)));
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        attributes(reply, self.found(request, |_| Ok(Inode(ino.0))));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.found(request, |volume| {
            if let Some(mode) = mode {
                volume.set_mode(Inode(ino.0), mode_of(mode, 0))?;
            }
            if let Some(size) = size {
                volume.set_len(Inode(ino.0), size)?;
            }
            Ok(Inode(ino.0))
        });
        attributes(reply, set);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let mode = mode_of(mode, umask);
        entry(reply, self.found(request, |volume| volume.create_folder(Inode(parent.0), name, mode)));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.on(|volume| volume.remove(Inode(parent.0), name)));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, name, reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((Inode(parent.0), name), (Inode(newparent.0), newname));
        answer(reply, self.on(|volume| volume.rename(from, to)));
    }

    fn link(&self, request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        entry(reply, self.found(request, |volume| volume.link(Inode(ino.0), Inode(newparent.0), newname)));
    }

    fn open(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.on(|volume| volume.open(Inode(ino.0))) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let created = self.found(request, |volume| {
            let inode = volume.create(Inode(parent.0), name, mode_of(mode, umask))?;
            volume.open(inode)?;
            Ok(inode)
        });
        match created {
            Ok(attr) => reply.created(&KNOWN, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.on(|volume| volume.read(Inode(ino.0), offset, size).map(<[u8]>::to_vec)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.on(|volume| volume.write(Inode(ino.0), offset, data)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.0).volume.close(Inode(ino.0));
        reply.ok();
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        answer(reply, self.on(|volume| volume.sync(Inode(ino.0))));
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.fsync(request, ino, fh, datasync, reply);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.on(|volume| {
            let entries = volume.list(Inode(ino.0))?;
            let kind = |inode| Ok::<_, VolumeError>((inode, volume.attributes(inode)?.is_folder));
            entries.into_iter().map(|(name, inode)| Ok((name, kind(inode)?))).collect::<Result<Vec<_>, _>>()
        });
        let entries = match listed {
            Ok(entries) => entries,
            Err(error) => return reply.error(error),
        };
        for (next, (name, (inode, is_folder))) in
            (1..).zip(entries).skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
            let kind = if is_folder { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(inode.0), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let shared = lock(&self.0);
        let blocks = |bytes: u64| bytes / u64::from(BLOCK_BYTES);
        let (all, used) = (shared.volume.capacity(), shared.volume.used());
        let free = blocks(all.saturating_sub(used));
        // Names cost nothing.
        reply.statfs(blocks(all), free, free, u64::MAX, u64::MAX, BLOCK_BYTES, 255, BLOCK_BYTES);
    }
}
