//! Terminals: how large one is, and one that passes every key on.

#![allow(unsafe_code, reason = "the ioctls about the size of a terminal have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::wire::Size;

nix::ioctl_read_bad!(get_size, libc::TIOCGWINSZ, Winsize);
nix::ioctl_write_ptr_bad!(put_size, libc::TIOCSWINSZ, Winsize);

/// What a terminal has that does not say how large it is.
const SIZE_DEFAULT: Size = Size { rows: 24, columns: 80 };

/// How large a terminal is (`TIOCGWINSZ`, `ioctl_tty(2)`).
pub(super) fn size_of(terminal: impl AsFd) -> Size {
    let mut found = winsize(Size { rows: 0, columns: 0 });
    // SAFETY: the descriptor is open, and the kernel writes one structure of this type to the pointer.
    let asked = unsafe { get_size(terminal.as_fd().as_raw_fd(), &raw mut found) };
    match asked {
        Ok(_) if found.ws_row > 0 && found.ws_col > 0 => Size { rows: found.ws_row, columns: found.ws_col },
        _ => SIZE_DEFAULT,
    }
}

/// Says how large a terminal is (`TIOCSWINSZ`, `ioctl_tty(2)`): its programs are told.
///
/// # Errors
/// The kernel's.
pub(super) fn set_size(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let wanted = winsize(size);
    // SAFETY: the descriptor is open, and the kernel reads one structure of this type from the pointer.
    unsafe { put_size(terminal.as_fd().as_raw_fd(), &raw const wanted) }?;
    Ok(())
}

fn winsize(size: Size) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// A new terminal: the end that we hold, and the one for programs. What is only written to changes nothing of what it is
/// given, since the user's own terminal does that.
///
/// # Errors
/// The kernel has no pseudo-terminals, or refuses.
pub(super) fn open(size: Size, is_interactive: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = openpty(Some(&winsize(size)), None)?;
    if !is_interactive {
        let mut settings = tcgetattr(&pair.slave)?;
        settings.output_flags.remove(OutputFlags::OPOST);
        tcsetattr(&pair.slave, SetArg::TCSANOW, &settings)?;
    }
    Ok((pair.master, pair.slave))
}

/// The user's terminal while every key goes to the guest. It is as before when this value goes.
#[derive(Debug)]
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// Begins to pass every key on.
    ///
    /// # Errors
    /// The standard input is no terminal.
    pub(super) fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn new_terminal_has_its_size_and_changes_nothing_of_what_is_written_to_it() {
        let size = Size { rows: 7, columns: 99 };
        let (ours, theirs) = open(size, false).unwrap();
        assert_eq!(size_of(&theirs), size);
        set_size(&ours, Size { rows: 8, columns: 9 }).unwrap();
        assert_eq!(size_of(&theirs), Size { rows: 8, columns: 9 });
        File::from(theirs).write_all(b"a\nb").unwrap();
        let mut seen = [0; 3];
        File::from(ours).read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"a\nb");
    }

    #[test]
    fn what_is_no_terminal_has_the_usual_size_and_takes_none() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(size_of(&file), SIZE_DEFAULT);
        assert!(set_size(&file, SIZE_DEFAULT).is_err());
    }
}
