//! What a disk holds that can lose its power: a file, of which the last changes are not for good yet.
//!
//! Every write is in the file at once, and what its sectors held before is kept until the guest flushes: that is what a power cut
//! puts back. So reads need not look anywhere else, and what is kept is the same as of a file on a [volume](crate::volume).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rand::Rng;

use crate::limits::machines::UNFLUSHED_CONTENTS_MAX;
use crate::volume::{Asked, Loss, Lost, SECTOR_BYTES, Sector, Unsynced};

/// A disk with a cache that forgets.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    sectors_count: u64,
    unsynced: Unsynced,
    power: Power,
    /// Since its power came.
    asked: Asked,
    /// Why the file did not do what a disk does, where it did not: no fault of the machine's.
    failure: Option<String>,
}

/// Whether a disk does anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    /// It goes off at one of the next moments at which it has something to lose.
    Failing {
        /// How many such moments are left, this last one included.
        chances: u32,
    },
    Off,
}

impl Disk {
    /// What a file holds is on the disk for good.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let sectors_count = file.metadata()?.len() / SECTOR_BYTES as u64;
        Ok(Self {
            file,
            sectors_count,
            unsynced: Unsynced::default(),
            power: Power::On,
            asked: Asked::default(),
            failure: None,
        })
    }

    /// How many sectors it has.
    pub(super) fn sectors_count(&self) -> u64 {
        self.sectors_count
    }

    /// How many sectors have changed since the guest flushed last.
    #[cfg(test)]
    pub(super) fn unflushed_count(&self) -> usize {
        self.unsynced.sectors_count()
    }

    /// Reads whole sectors.
    ///
    /// # Errors
    /// They are not there, or the file cannot be read.
    pub(super) fn read(&mut self, place: u64, bytes: &mut [u8]) -> io::Result<()> {
        let offset = self.offset(place, bytes.len())?;
        let read = self.file.read_exact_at(bytes, offset);
        read.inspect_err(|error| self.note(error))
    }

    /// Why its file has failed first, if it has.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn note(&mut self, error: &io::Error) {
        self.failure.get_or_insert_with(|| error.to_string());
    }

    /// Writes whole sectors. Where too much is kept of what they held, everything that was written before is for good: a disk may
    /// empty its cache whenever it wants.
    ///
    /// # Errors
    /// They are not there, or the file cannot be read or written.
    pub(super) fn write(&mut self, place: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = self.offset(place, bytes.len())?;
        self.asked.writes += 1;
        let written = self.write_at(place, offset, bytes);
        written.inspect_err(|error| self.note(error))
    }

    fn write_at(&mut self, place: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut held = vec![0; bytes.len()];
        self.file.read_exact_at(&mut held, offset)?;
        if self.unsynced.contents_count() + bytes.len() / SECTOR_BYTES > UNFLUSHED_CONTENTS_MAX {
            self.unsynced.sync();
        }
        let (held, _whole) = held.as_chunks::<SECTOR_BYTES>();
        for (place, (before, after)) in (place..).zip(held.iter().zip(bytes.chunks_exact(SECTOR_BYTES))) {
            // Nobody could tell whether a sector was lost that was given what it had.
            if before != after {
                self.unsynced.remember(place, before);
            }
        }
        self.file.write_all_at(bytes, offset)?;
        self.pass_moment();
        Ok(())
    }

    /// Everything that was written is for good, unless the power goes just now.
    pub(super) fn flush(&mut self) {
        self.asked.syncs += 1;
        self.pass_moment();
        if !self.is_off() {
            self.unsynced.sync();
        }
    }

    /// Gives it its power.
    pub(super) fn turn_on(&mut self) {
        self.power = Power::On;
        self.asked = Asked::default();
    }

    /// Takes its power at the given moment from now on, of those at which it has something to lose: it has just written something,
    /// or is about to flush. From 1.
    pub(super) fn fail_at(&mut self, chance: u32) {
        self.power = Power::Failing { chances: chance };
    }

    /// Whether it has no power: it does nothing any more, and answers nobody.
    pub(super) fn is_off(&self) -> bool {
        self.power == Power::Off
    }

    /// Loses what was not flushed, as `loss` says, and something of it in any case. A disk knows no names.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(super) fn cut(&mut self, loss: Loss, random: &mut impl Rng) -> io::Result<Lost> {
        self.power = Power::Off;
        let mut gone = self.changed(self.unsynced.cut(loss.kept_percent(), random))?;
        if gone.is_empty() {
            // Of a few sectors all may have been spared.
            gone = self.changed(self.unsynced.cut(Loss::All.kept_percent(), random))?;
        }
        for (place, sector) in &gone {
            self.file.write_all_at(sector, place * SECTOR_BYTES as u64)?;
        }
        self.unsynced.sync();
        Ok(Lost { sectors: gone.len() as u64, names: 0, asked: std::mem::take(&mut self.asked) })
    }

    /// Those of these sectors that hold something else.
    fn changed(&self, sectors: Vec<(u64, Sector)>) -> io::Result<Vec<(u64, Sector)>> {
        let mut changed = Vec::new();
        for (place, sector) in sectors {
            let mut held = [0; SECTOR_BYTES];
            self.file.read_exact_at(&mut held, place * SECTOR_BYTES as u64)?;
            if held != sector {
                changed.push((place, sector));
            }
        }
        Ok(changed)
    }

    fn pass_moment(&mut self) {
        let Power::Failing { chances } = self.power else { return };
        if self.unsynced.sectors_count() > 0 {
            self.power = if chances <= 1 { Power::Off } else { Power::Failing { chances: chances - 1 } };
        }
    }

    /// Where so many bytes from a sector on are in the file, if the disk has them.
    fn offset(&self, place: u64, bytes: usize) -> io::Result<u64> {
        let end = place.checked_add((bytes / SECTOR_BYTES) as u64).filter(|end| *end <= self.sectors_count);
        if end.is_none() || !bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(place * SECTOR_BYTES as u64)
    }
}
