//! Takes everything from a program that it does not need: all capabilities, and the sight of every file and message that is not
//! its own.
//!
//! The program is started by the lab's own, in a stage that makes it a mount namespace with a root of its own, lets its
//! capabilities go for good and becomes it. What it may see is bound there at the places where
//! it is outside: system folders, which hold programs and libraries, read-only; the files it is given; the devices it is given.
//! There is no `/proc`: nothing that runs beside it can be seen.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, pivot_root};

use super::privileges::{BecomeError, PrivilegesError, become_program, close_above, fail, give_up};

/// First argument of the stage.
pub const STAGE: &str = "__confined";
/// Ends the words that say what may be seen; the program and its arguments follow.
const END: &str = "--";

/// What every program may see, where it is there: programs, libraries and what they are found by.
const SYSTEM: [&str; 9] = [
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/sbin",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/alternatives",
];
/// Devices that hold nothing.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];
/// Where the new root is put together, whichever is there.
const WORKPLACES: [&str; 3] = ["/tmp", "/run", "/mnt"];

/// What a program may see beside the system's own files. Every path is absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Files and folders that it may read.
    pub reads: Vec<PathBuf>,
    /// Files and folders that it may write.
    pub writes: Vec<PathBuf>,
    /// Devices, where they are there.
    pub devices: Vec<PathBuf>,
}

/// How a path is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Device,
}

impl Access {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Device => "device",
        }
    }
}

impl Confinement {
    /// The words by which the stage learns of it, before those of the program.
    pub(super) fn words(&self) -> Vec<OsString> {
        let lists =
            [(Access::Read, &self.reads), (Access::Write, &self.writes), (Access::Device, &self.devices)];
        let pairs = lists.into_iter().flat_map(|(access, paths)| {
            paths.iter().flat_map(move |path| [OsString::from(access.word()), path.into()])
        });
        pairs.chain([END.into()]).collect()
    }

    /// The same, and what is left of the words.
    fn parse(mut words: impl Iterator<Item = OsString>) -> Option<(Self, Vec<OsString>)> {
        let mut confinement = Self::default();
        loop {
            let word = words.next()?;
            let list = match word.to_str()? {
                END => return Some((confinement, words.collect())),
                word if word == Access::Read.word() => &mut confinement.reads,
                word if word == Access::Write.word() => &mut confinement.writes,
                word if word == Access::Device.word() => &mut confinement.devices,
                _ => return None,
            };
            list.push(words.next()?.into());
        }
    }
}

/// What could not be done, and the system's answer.
#[derive(Debug, thiserror::Error)]
enum ConfineError {
    #[error("these are not the words of a confined program")]
    Words,
    #[error("cannot {doing} {}", .path.display())]
    Path { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {doing}")]
    Process { doing: &'static str, source: io::Error },
    #[error(transparent)]
    Privileges(#[from] PrivilegesError),
    #[error(transparent)]
    Become(BecomeError),
}

/// The stage: becomes the program that the words (without the program's own name and the stage's) name. It comes back only to
/// say on its error output why it could not.
pub fn stage(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    close_above(words.next());
    let Err(error) = become_confined(words);
    fail(&error)
}

fn become_confined(words: impl Iterator<Item = OsString>) -> Result<std::convert::Infallible, ConfineError> {
    let (confinement, command) = Confinement::parse(words).ok_or(ConfineError::Words)?;
    let program = command.first().ok_or(ConfineError::Words)?;
    let folder = std::env::current_dir()
        .map_err(|source| ConfineError::Process { doing: "find the working folder", source })?;
    change_root(&confinement, Path::new(program), &folder)?;
    give_up(&[])?;
    Err(ConfineError::Become(become_program(command.into_iter())))
}

fn process<E: Into<io::Error>>(doing: &'static str) -> impl Fn(E) -> ConfineError {
    move |error| ConfineError::Process { doing, source: error.into() }
}

fn path_error<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl Fn(E) -> ConfineError {
    let path = path.to_owned();
    move |error| ConfineError::Path { doing, path: path.clone(), source: error.into() }
}

/// Something outside, held before the new root may hide it.
struct Source {
    path: PathBuf,
    file: File,
    access: Access,
    is_folder: bool,
}

impl Source {
    /// `None` where there is no such thing.
    fn open(path: &Path, access: Access) -> Result<Option<Self>, ConfineError> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(path_error("open", path)(error)),
        };
        let is_folder = file.metadata().map_err(path_error("look at", path))?.is_dir();
        Ok(Some(Self { path: path.to_owned(), file, access, is_folder }))
    }
}

fn change_root(confinement: &Confinement, program: &Path, folder: &Path) -> Result<(), ConfineError> {
    let nothing: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC)
        .map_err(process("make namespaces of mounts and of messages"))?;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .map_err(process("keep mounts to itself"))?;
    let (sources, links) = sources(confinement, program)?;
    let workplace = WORKPLACES.iter().map(Path::new).find(|path| path.is_dir());
    let workplace = workplace.ok_or_else(|| {
        process::<io::Error>("find a folder to put a root together in")(io::ErrorKind::NotFound.into())
    })?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), workplace, Some("tmpfs"), flags, Some("mode=755,size=1m"))
        .map_err(path_error("mount a tmpfs on", workplace))?;
    for (path, target) in links {
        let inside = inside(workplace, &path)?;
        symlink(target, &inside).map_err(path_error("link", &path))?;
    }
    for source in &sources {
        bind(workplace, source)?;
    }
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags;
    mount(nothing, workplace, nothing, read_only, nothing)
        .map_err(path_error("make read-only", workplace))?;
    // The new root and the old one at one place (pivot_root(2)): what is there then is let go.
    chdir(workplace).map_err(path_error("enter", workplace))?;
    pivot_root(".", ".").map_err(process("change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(process("let the old root go"))?;
    chdir(folder).map_err(path_error("enter", folder))
}

/// What is bound, folders before what is in them, and links of the root folder with where they lead.
#[allow(clippy::type_complexity, reason = "two lists")]
fn sources(
    confinement: &Confinement,
    program: &Path,
) -> Result<(Vec<Source>, Vec<(PathBuf, PathBuf)>), ConfineError> {
    let mut links = Vec::new();
    let mut wanted: Vec<(PathBuf, Access)> = Vec::new();
    for path in SYSTEM.map(PathBuf::from) {
        match fs::read_link(&path) {
            Ok(target) => links.push((path, target)),
            Err(_no_link) => wanted.push((path, Access::Read)),
        }
    }
    let real = fs::canonicalize(program).map_err(path_error("find", program))?;
    let is_of_system = |path: &Path| SYSTEM.iter().any(|folder| path.starts_with(folder));
    let programs = [program.to_owned(), real].into_iter().filter(|path| !is_of_system(path));
    wanted.extend(programs.map(|path| (path, Access::Read)));
    wanted.extend(DEVICES.map(|path| (path.into(), Access::Device)));
    wanted.extend(confinement.devices.iter().map(|path| (path.clone(), Access::Device)));
    let missing = |path: &Path| path_error::<io::Error>("find", path)(io::ErrorKind::NotFound.into());
    let mut sources = Vec::new();
    for (path, access) in wanted {
        sources.extend(Source::open(&path, access)?);
    }
    for (paths, access) in [(&confinement.reads, Access::Read), (&confinement.writes, Access::Write)] {
        for path in paths {
            sources.push(Source::open(path, access)?.ok_or_else(|| missing(path))?);
        }
    }
    sources.sort_by_key(|source| source.path.components().count());
    sources.dedup_by(|one, other| one.path == other.path);
    Ok((sources, links))
}

/// The place of a path in the new root, with the folders above it.
fn inside(root: &Path, path: &Path) -> Result<PathBuf, ConfineError> {
    let place = root.join(path.strip_prefix("/").unwrap_or(path));
    let above = place.parent().unwrap_or(root);
    DirBuilder::new().recursive(true).mode(0o755).create(above).map_err(path_error("make", above))?;
    Ok(place)
}

fn bind(root: &Path, source: &Source) -> Result<(), ConfineError> {
    let Source { path, file, access, is_folder } = source;
    let nothing: Option<&str> = None;
    let place = inside(root, path)?;
    if *is_folder {
        DirBuilder::new().recursive(true).create(&place).map_err(path_error("make", path))?;
    } else if !place.exists() {
        File::create(&place).map_err(path_error("make", path))?;
    }
    let outside = format!("/proc/self/fd/{}", file.as_raw_fd());
    mount(Some(outside.as_str()), &place, nothing, MsFlags::MS_BIND, nothing)
        .map_err(path_error("bind", path))?;
    let mut flags = kept_flags(&place).map_err(path_error("look at", path))? | MsFlags::MS_NOSUID;
    flags.set(MsFlags::MS_RDONLY, *access == Access::Read || flags.contains(MsFlags::MS_RDONLY));
    flags.set(MsFlags::MS_NODEV, *access != Access::Device || flags.contains(MsFlags::MS_NODEV));
    mount(nothing, &place, nothing, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, nothing)
        .map_err(path_error("restrict", path))
}

/// The flags of a mount, which a namespace of less privilege may not take off.
fn kept_flags(path: &Path) -> nix::Result<MsFlags> {
    let found = statvfs(path)?.flags();
    let pairs = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let kept = pairs.into_iter().filter(|(flag, _)| found.contains(*flag));
    Ok(kept.fold(MsFlags::empty(), |flags, (_, flag)| flags | flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_as_they_were_meant() {
        let confinement = Confinement {
            reads: vec!["/k".into(), "/i".into()],
            writes: vec!["/home of one".into()],
            devices: vec!["/dev/kvm".into()],
        };
        let words = confinement.words().into_iter().chain(["/bin/a".into(), "--".into()]);
        let command: Vec<OsString> = vec!["/bin/a".into(), "--".into()];
        assert_eq!(Confinement::parse(words), Some((confinement, command)));
        assert_eq!(Confinement::parse(["see".into(), "/k".into()].into_iter()), None);
        assert_eq!(Confinement::parse(["read".into()].into_iter()), None);
    }
}
