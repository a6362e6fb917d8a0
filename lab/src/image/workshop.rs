//! Where images are made: a cache folder, a log of the programs that were started, and somebody who is told what goes on.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::limits::image::{HELPER_MAX, TURN_LOOK_INTERVAL, TURN_MAX, WORK_TELL_INTERVAL};
use crate::program::{Exit, Program, ProgramError, ProgramLog, ShortOutput};

/// A place to work in.
pub struct Workshop<'a> {
    folder: PathBuf,
    log: ProgramLog,
    tell: &'a mut dyn FnMut(&str),
}

/// The right to do something that only one lab may do at a time.
#[derive(Debug)]
pub struct Turn {
    // The lock goes when this is closed, however that comes about.
    _file: File,
}

/// Why there is no place to work in, or why work there failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkshopError {
    /// No home.
    #[error("neither XDG_CACHE_HOME nor HOME is set: set XDG_CACHE_HOME to a folder for images")]
    NoHome,
    /// A folder or file cannot be made.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The folder or file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another lab does the same, and does not come to an end.
    #[error("another lab has held {} for {waited:?}: end it, or wait for it", .path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A long program ended without success.
    #[error("{what} ended with {exit}; {} has it all, and ends:\n{tail}", .log.display())]
    Failed {
        /// What it was for.
        what: String,
        /// How it ended.
        exit: Exit,
        /// What it wrote.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
    /// A long program took too long, and was ended.
    #[error("{what} did not end within {limit:?}; {} has what it wrote, and ends:\n{tail}", .log.display())]
    TooLong {
        /// What it was for.
        what: String,
        /// How long it was given.
        limit: Duration,
        /// What it wrote.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
}

/// The path in a variable of the environment; one that is empty counts as not set.
pub(crate) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

impl fmt::Debug for Workshop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workshop").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl<'a> Workshop<'a> {
    /// The workshop of this user: `aspen` in `XDG_CACHE_HOME`, or in `~/.cache`.
    ///
    /// # Errors
    /// [`WorkshopError`].
    pub fn of_user(tell: &'a mut dyn FnMut(&str)) -> Result<Self, WorkshopError> {
        let cache = variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        let cache = cache.or_else(|| Some(variable("HOME")?.join(".cache")));
        Self::open(&cache.ok_or(WorkshopError::NoHome)?.join("aspen"), tell)
    }

    /// A workshop in this folder, which is made.
    ///
    /// # Errors
    /// [`WorkshopError`].
    pub fn open(folder: &Path, tell: &'a mut dyn FnMut(&str)) -> Result<Self, WorkshopError> {
        make_folder(folder)?;
        let log = ProgramLog::open(&folder.join("programs.log"))?;
        Ok(Self { folder: folder.to_owned(), log, tell })
    }

    /// The cache folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Says what goes on.
    pub fn tell(&mut self, text: &str) {
        (self.tell)(text);
    }

    /// Waits until no other lab does what this names, and keeps others from it as long as the turn is held. What an ended lab
    /// held is free. Turns are taken in one order: images, programs, packages, kernels.
    ///
    /// # Errors
    /// [`WorkshopError`].
    pub fn turn(&mut self, what: &str) -> Result<Turn, WorkshopError> {
        self.turn_within(what, TURN_MAX)
    }

    fn turn_within(&mut self, what: &str, limit: Duration) -> Result<Turn, WorkshopError> {
        let path = self.folder.join(format!("{what}.lock"));
        let write = |source| WorkshopError::Write { path: path.clone(), source };
        let file = File::options().create(true).append(true).open(&path).map_err(write)?;
        let start = Instant::now();
        let mut was_told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Turn { _file: file }),
                Err(TryLockError::Error(source)) => return Err(write(source)),
                Err(TryLockError::WouldBlock) if start.elapsed() >= limit => {
                    return Err(WorkshopError::Busy { path, waited: limit });
                }
                Err(TryLockError::WouldBlock) => {
                    if !was_told {
                        self.tell(&format!("another lab is busy with {what}: waiting for it"));
                        was_told = true;
                    }
                    std::thread::sleep(TURN_LOOK_INTERVAL);
                }
            }
        }
    }

    /// Runs a helper that takes seconds, in this folder.
    ///
    /// # Errors
    /// [`WorkshopError::Program`].
    pub fn helper(&self, program: Program) -> Result<ShortOutput, WorkshopError> {
        // mke2fs is where only root's search path has it.
        let mut path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        path.push(":/usr/sbin:/sbin");
        Ok(program.env("PATH", path).env("LC_ALL", "C").run_short(HELPER_MAX, &self.log)?)
    }

    /// Runs a program that takes minutes. What it writes goes to `log`; its last line is told again and again.
    ///
    /// # Errors
    /// [`WorkshopError`].
    pub fn long(
        &mut self,
        what: &str,
        program: &Program,
        log: &Path,
        limit: Duration,
    ) -> Result<(), WorkshopError> {
        let write = |source| WorkshopError::Write { path: log.to_owned(), source };
        std::fs::write(log, b"").map_err(write)?;
        self.tell(&format!("{what}; its output goes to {}", log.display()));
        let start = Instant::now();
        let mut running = program.start(None, log, &self.log)?;
        let exit = loop {
            match running.wait(WORK_TELL_INTERVAL) {
                Ok(exit) => break exit,
                Err(ProgramError::TimedOut { stderr, .. }) if start.elapsed() < limit => {
                    // Cargo's messages to programs are for nobody to read.
                    let line = stderr.lines().rfind(|line| !line.starts_with('{'));
                    let line = line.unwrap_or_default().trim().to_owned();
                    self.tell(&format!("{what}: {} s, {line}", start.elapsed().as_secs()));
                }
                Err(ProgramError::TimedOut { .. }) => {
                    running.kill()?;
                    let (what, tail) = (what.to_owned(), last_lines(&running.console_tail()));
                    return Err(WorkshopError::TooLong { what, limit, log: log.to_owned(), tail });
                }
                Err(error) => return Err(error.into()),
            }
        };
        if exit.is_success() {
            return Ok(());
        }
        let tail = last_lines(&running.console_tail());
        Err(WorkshopError::Failed { what: what.to_owned(), exit, log: log.to_owned(), tail })
    }
}

/// Makes a folder and those above it.
pub(super) fn make_folder(folder: &Path) -> Result<(), WorkshopError> {
    std::fs::create_dir_all(folder).map_err(|source| WorkshopError::Write { path: folder.to_owned(), source })
}

/// Makes a new and empty folder, in place of what a build that was ended has left there.
pub(super) fn make_anew(folder: &Path) -> Result<(), WorkshopError> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(WorkshopError::Write { path: folder.to_owned(), source })
        }
        _ => make_folder(folder),
    }
}

/// What fits a terminal.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turn_is_held_by_one_lab_and_free_when_it_ends() {
        let home = tempfile::tempdir().unwrap();
        let mut told = vec![];
        let (mut tell, mut silent) = (|text: &str| told.push(text.to_owned()), |_: &str| {});
        let mut workshop = Workshop::open(home.path(), &mut silent).unwrap();
        let mut other = Workshop::open(home.path(), &mut tell).unwrap();
        let turn = workshop.turn("images").unwrap();
        let error = other.turn_within("images", TURN_LOOK_INTERVAL).unwrap_err().to_string();
        let lock = home.path().join("images.lock");
        let want = format!(
            "another lab has held {} for {TURN_LOOK_INTERVAL:?}: end it, or wait for it",
            lock.display()
        );
        assert_eq!(error, want);
        other.turn_within("packages", Duration::ZERO).unwrap();
        drop(turn);
        other.turn_within("images", Duration::ZERO).unwrap();
        assert_eq!(told, ["another lab is busy with images: waiting for it"]);
    }

    #[test]
    fn long_program_that_fails_or_does_not_end_is_told_with_the_end_of_its_output() {
        let home = tempfile::tempdir().unwrap();
        let mut told = vec![];
        let mut tell = |text: &str| told.push(text.to_owned());
        let mut workshop = Workshop::open(home.path(), &mut tell).unwrap();
        let log = home.path().join("build.log");
        let shell = |script: &str| Program::new("/bin/sh").arg("-c").arg(script);
        workshop.long("a build", &shell("exit 0"), &log, HELPER_MAX).unwrap();
        let failed = workshop.long("a build", &shell("echo 'no such file'; exit 2"), &log, HELPER_MAX);
        let want =
            format!("a build ended with exit code 2; {} has it all, and ends:\nno such file", log.display());
        assert_eq!(failed.unwrap_err().to_string(), want);
        let endless = workshop.long("a build", &shell("echo on; exec sleep 60"), &log, Duration::ZERO);
        let want =
            format!("a build did not end within 0ns; {} has what it wrote, and ends:\non", log.display());
        assert_eq!(endless.unwrap_err().to_string(), want);
        assert_eq!(told[0], format!("a build; its output goes to {}", log.display()));
    }
}
