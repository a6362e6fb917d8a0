//! The control socket: where it is, who may open it, and which labs are up.
//!
//! Every lab has a Unix socket in one directory of its user's own. It is there as long as the lab; what a killed lab has
//! left is noticed, since nobody listens on it, and removed.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::UnixAddr;
use nix::unistd::geteuid;

use crate::connect::connect;
use crate::limits::control::{CONTROL_CONNECT_MAX, CONTROL_PATH_BYTES_MAX};

/// Where the system keeps what a user's programs need while they run (XDG Base Directory Specification).
const RUNTIME_VARIABLE: &str = "XDG_RUNTIME_DIR";

/// How the name of a control socket ends.
const SUFFIX: &str = ".sock";

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Longer than the kernel takes.
    #[error(
        "the control socket would be {} ({} bytes), at most {CONTROL_PATH_BYTES_MAX} bytes are allowed: set \
         {RUNTIME_VARIABLE} to a directory with a shorter path",
        .0.display(), .0.as_os_str().len()
    )]
    Long(PathBuf),
    /// Somebody else could put a socket there.
    #[error(
        "{} is not a directory that only you can open (owner {owner}, mode {mode:o}): remove it, or set \
         {RUNTIME_VARIABLE} to a directory of your own",
        path.display()
    )]
    NotOwn {
        /// Which one.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// What it is, and who may do what with it.
        mode: u32,
    },
    /// The kernel refuses.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io { path, source }
}

/// The directory of the user's control sockets, made if it is not there.
///
/// # Errors
/// It cannot be made, or is not the user's own.
pub(super) fn directory() -> Result<PathBuf, SocketError> {
    let user = geteuid().as_raw();
    // Some ways to become another user leave the variable behind, and not the directory.
    let runtime = std::env::var_os(RUNTIME_VARIABLE).map(PathBuf::from);
    let runtime = runtime.filter(|path| path.is_absolute() && path.is_dir());
    own_directory(place(runtime, &std::env::temp_dir(), user), user)
}

fn place(runtime: Option<PathBuf>, temporary: &Path, user: u32) -> PathBuf {
    match runtime {
        Some(runtime) => runtime.join("aspen"),
        // The temporary directory is everybody's.
        None => temporary.join(format!("aspen-{user}")),
    }
}

fn own_directory(path: PathBuf, user: u32) -> Result<PathBuf, SocketError> {
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&path)(error)),
        _ => {}
    }
    // A link that somebody has put there is not followed.
    let found = fs::symlink_metadata(&path).map_err(failed(&path))?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        return Err(SocketError::NotOwn { path, owner: found.uid(), mode: found.mode() & 0o7777 });
    }
    Ok(path)
}

/// Makes the control socket of a lab and listens on it.
///
/// # Errors
/// [`SocketError`].
pub(super) fn listen(directory: &Path, name: &str) -> Result<(UnixListener, PathBuf), SocketError> {
    let path = directory.join(format!("{name}{SUFFIX}"));
    // Under this name it is not found before somebody listens, so that nobody takes it for a dead one.
    let early = directory.join(format!("{name}.new"));
    if path.as_os_str().len() > CONTROL_PATH_BYTES_MAX {
        return Err(SocketError::Long(path));
    }
    // What another process of this number has left.
    let _not_there = fs::remove_file(&early);
    let listener = UnixListener::bind(&early).map_err(failed(&early))?;
    fs::set_permissions(&early, Permissions::from_mode(0o600)).map_err(failed(&early))?;
    fs::rename(&early, &path).map_err(failed(&path))?;
    Ok((listener, path))
}

/// Opens a control socket; nothing if nobody listens any more, and then the socket is removed.
///
/// # Errors
/// [`SocketError::Io`].
pub(super) fn open(path: &Path) -> Result<Option<UnixStream>, SocketError> {
    let connected = UnixAddr::new(path).map_err(io::Error::from);
    match connected.and_then(|address| connect(&address, CONTROL_CONNECT_MAX)) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            // Somebody else may have removed it by now.
            let _removed_already = fs::remove_file(path);
            Ok(None)
        }
        Err(source) => Err(SocketError::Io { path: path.to_owned(), source }),
    }
}

/// The control sockets on which somebody listens, by name. One that does not let us in is no reason to miss the others.
///
/// # Errors
/// [`SocketError`].
pub(super) fn open_all(directory: &Path) -> Result<Vec<(PathBuf, UnixStream)>, SocketError> {
    let entries = fs::read_dir(directory).map_err(failed(directory))?;
    let is_socket = |entry: &fs::DirEntry| {
        let is_named = entry.file_name().to_string_lossy().ends_with(SUFFIX);
        is_named && entry.file_type().is_ok_and(|kind| kind.is_socket())
    };
    let mut paths: Vec<PathBuf> = entries.flatten().filter(is_socket).map(|entry| entry.path()).collect();
    paths.sort();
    let opened = paths.into_iter().filter_map(|path| open(&path).ok()?.map(|stream| (path, stream)));
    Ok(opened.collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn sockets_are_in_the_runtime_directory_or_in_one_of_the_users_own() {
        let temporary = Path::new("/tmp");
        assert_eq!(place(Some("/run/user/7".into()), temporary, 7), Path::new("/run/user/7/aspen"));
        assert_eq!(place(None, temporary, 7), Path::new("/tmp/aspen-7"));
    }

    #[test]
    fn directory_that_others_may_open_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let user = geteuid().as_raw();
        let path = home.path().join("aspen");
        assert_eq!(own_directory(path.clone(), user).unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let refused = own_directory(path.clone(), user + 1).unwrap_err().to_string();
        assert_eq!(
            refused,
            format!(
                "{} is not a directory that only you can open (owner {user}, mode 700): remove it, or set \
                 XDG_RUNTIME_DIR to a directory of your own",
                path.display()
            )
        );
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        assert!(own_directory(path.clone(), user).unwrap_err().to_string().contains("mode 755"));
        let link = home.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(own_directory(link, user), Err(SocketError::NotOwn { .. })));
    }

    #[test]
    fn path_that_the_kernel_would_not_take_is_refused_with_the_remedy() {
        let home = tempfile::tempdir().unwrap();
        let fits = "n".repeat(CONTROL_PATH_BYTES_MAX - home.path().as_os_str().len() - 1 - SUFFIX.len());
        let (_listener, path) = listen(home.path(), &fits).unwrap();
        assert_eq!(path.as_os_str().len(), CONTROL_PATH_BYTES_MAX);
        let error = listen(home.path(), &format!("{fits}n")).unwrap_err().to_string();
        assert!(error.contains("(108 bytes), at most 107 bytes are allowed: set XDG_RUNTIME_DIR"), "{error}");
    }

    #[test]
    fn socket_is_the_users_alone_and_one_that_nobody_listens_on_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let (first, first_path) = listen(home.path(), "first").unwrap();
        let (second, second_path) = listen(home.path(), "second").unwrap();
        assert_eq!(fs::metadata(&first_path).unwrap().mode() & 0o777, 0o600);
        let found =
            |home: &Path| open_all(home).unwrap().into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(found(home.path()), [first_path.clone(), second_path.clone()]);
        drop(second);
        assert_eq!(found(home.path()), std::slice::from_ref(&first_path));
        assert!(!second_path.exists());
        drop(first);
        assert!(open(&first_path).unwrap().is_none());
        assert!(!first_path.exists());
        assert!(open(&first_path).unwrap().is_none(), "and a socket that is gone is no error");
    }
}
