//! The GPT of the disk that the data partition is on: the partition takes what the disk has grown by (UEFI 2.10, 5.3).
//!
//! Only a last partition that is ours is moved, and only its end. Whatever else looks different is left as it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use aspen_init::layout::DATA_NAME;
use aspen_init::limits::{PARTITION_ALIGNMENT_SECTORS, PARTITIONS_MAX};

/// The only size of a sector that is understood, in bytes.
pub(super) const SECTOR_BYTES: u64 = 512;
/// Size of the header without what is reserved, and of an entry, in bytes.
const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;

/// A table that was read whole, with checksums that fit.
struct Table {
    // Invariant: HEADER_BYTES of a header, and its entries as they are on the disk.
    header: [u8; HEADER_BYTES],
    entries: Vec<u8>,
}

/// Where the partition ends up, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grown {
    /// Where it begins.
    pub(super) start: u64,
    /// Its new size.
    pub(super) bytes: u64,
}

/// Lets partition `number`, counted from 1, end where the disk does; nothing when there is nothing to be gained. A power cut
/// leaves one of the two tables whole.
///
/// # Errors
/// The disk's.
pub(super) fn grow(disk: &File, disk_bytes: u64, number: usize) -> io::Result<Option<Grown>> {
    let last_sector = (disk_bytes / SECTOR_BYTES).saturating_sub(1);
    let first = Table::read(disk, 1)?;
    if first.as_ref().is_some_and(|table| table.number(32) == last_sector) {
        return Ok(None);
    }
    // A power cut while the first table was written leaves the one at the end: the first is written again.
    let is_torn = first.is_none();
    let table = if is_torn { Table::read(disk, last_sector)? } else { first };
    let Some(mut table) = table else { return Ok(None) };
    let Some((start, end)) = table.ours(number) else { return Ok(None) };
    let table_sectors = (table.entries.len() as u64).div_ceil(SECTOR_BYTES);
    // The second table has its entries before its header.
    let second_entries = last_sector.saturating_sub(table_sectors);
    let new_end = second_entries / PARTITION_ALIGNMENT_SECTORS * PARTITION_ALIGNMENT_SECTORS;
    if end >= second_entries || new_end <= end + 1 && !is_torn {
        return Ok(None);
    }
    let new_end = new_end.max(end + 1);
    let place = (number - 1) * ENTRY_BYTES;
    table.entries[place + 40..place + 48].copy_from_slice(&(new_end - 1).to_le_bytes());
    table.put(48, second_entries - 1);
    table.write(disk, last_sector, 1, second_entries)?;
    disk.sync_all()?;
    table.write(disk, 1, last_sector, 2)?;
    disk.sync_all()?;
    Ok(Some(Grown { start: start * SECTOR_BYTES, bytes: (new_end - start) * SECTOR_BYTES }))
}

impl Table {
    /// The table with its header in this sector, if there is one that is whole and of the usual form.
    fn read(disk: &File, sector: u64) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_BYTES];
        disk.read_exact_at(&mut header, sector * SECTOR_BYTES)?;
        let mut table = Self { header, entries: vec![] };
        let sum = table.small(16);
        table.header[16..20].fill(0);
        let count = table.small(80) as usize;
        let is_usual = table.header.starts_with(b"EFI PART")
            && table.small(12) as usize == HEADER_BYTES
            && crc32fast::hash(&table.header) == sum
            && table.number(24) == sector
            && table.small(84) as usize == ENTRY_BYTES
            && (1..=PARTITIONS_MAX).contains(&count);
        if !is_usual {
            return Ok(None);
        }
        table.entries = vec![0; count * ENTRY_BYTES];
        let at = table.number(72).checked_mul(SECTOR_BYTES).ok_or(io::ErrorKind::InvalidData)?;
        disk.read_exact_at(&mut table.entries, at)?;
        Ok((crc32fast::hash(&table.entries) == table.small(88)).then_some(table))
    }

    /// First and last sector of this partition, if it has our name and none is behind it.
    fn ours(&self, number: usize) -> Option<(u64, u64)> {
        let entries: Vec<&[u8]> = self.entries.chunks(ENTRY_BYTES).collect();
        let entry = *entries.get(number.checked_sub(1)?)?;
        let sector = |entry: &[u8], at: usize| number_at(entry, at);
        let (start, end) = (sector(entry, 32), sector(entry, 40));
        let name: Vec<u8> = DATA_NAME.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let is_named = entry[56..].starts_with(&name) && entry[56 + name.len()..][..2] == [0, 0];
        // An entry without a type is not used.
        let is_used = |entry: &&&[u8]| entry[..16].iter().any(|byte| *byte != 0);
        let is_last = entries.iter().filter(is_used).all(|other| sector(other, 32) <= start);
        (is_named && is_last && start <= end).then_some((start, end))
    }

    /// Writes it with its header in one sector and its entries from another on, and says where the other table is.
    fn write(&mut self, disk: &File, sector: u64, other: u64, entries: u64) -> io::Result<()> {
        self.put(24, sector);
        self.put(32, other);
        self.put(72, entries);
        let sum = crc32fast::hash(&self.entries);
        self.header[88..92].copy_from_slice(&sum.to_le_bytes());
        self.header[16..20].fill(0);
        let sum = crc32fast::hash(&self.header);
        self.header[16..20].copy_from_slice(&sum.to_le_bytes());
        let mut bytes = vec![0; usize::try_from(SECTOR_BYTES).map_err(io::Error::other)?];
        bytes[..HEADER_BYTES].copy_from_slice(&self.header);
        disk.write_all_at(&self.entries, entries * SECTOR_BYTES)?;
        disk.write_all_at(&bytes, sector * SECTOR_BYTES)
    }

    fn number(&self, at: usize) -> u64 {
        number_at(&self.header, at)
    }

    fn small(&self, at: usize) -> u32 {
        let bytes = self.header[at..at + 4].try_into().unwrap_or_default();
        u32::from_le_bytes(bytes)
    }

    fn put(&mut self, at: usize, number: u64) {
        self.header[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A disk of so many MiB with these partitions: name, first sector, last sector.
    fn disk(mib: u64, partitions: &[(&str, u64, u64)]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(mib * MIB).unwrap();
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(b"EFI PART");
        header[10] = 1;
        header[12] = 92;
        header[80] = 128;
        header[84] = 128;
        let mut entries = vec![0; 128 * ENTRY_BYTES];
        for (entry, (name, start, end)) in entries.chunks_mut(ENTRY_BYTES).zip(partitions) {
            entry[0] = 7;
            entry[32..40].copy_from_slice(&start.to_le_bytes());
            entry[40..48].copy_from_slice(&end.to_le_bytes());
            for (place, unit) in name.encode_utf16().enumerate() {
                entry[56 + 2 * place..][..2].copy_from_slice(&unit.to_le_bytes());
            }
        }
        let mut table = Table { header, entries };
        let last = mib * MIB / SECTOR_BYTES - 1;
        table.write(&file, last, 1, last - 32).unwrap();
        table.write(&file, 1, last, 2).unwrap();
        file
    }

    fn whole(disk: &File, mib: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(mib * MIB).unwrap()];
        disk.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    const OURS: [(&str, u64, u64); 2] = [("aspen-esp", 2048, 4095), ("aspen-data", 4096, 6143)];

    #[track_caller]
    fn check_left(disk: &File, mib: u64, number: usize) {
        disk.set_len(mib * MIB).unwrap();
        let before = whole(disk, mib);
        assert_eq!(grow(disk, mib * MIB, number).unwrap(), None);
        assert!(whole(disk, mib) == before, "it was written to");
    }

    #[test]
    fn partition_takes_what_the_disk_has_grown_by_once() {
        let disk = disk(4, &OURS);
        check_left(&disk, 4, 2);
        disk.set_len(8 * MIB).unwrap();
        // The second table needs a part of the last MiB.
        let want = Grown { start: 2 * MIB, bytes: 5 * MIB };
        assert_eq!(grow(&disk, 8 * MIB, 2).unwrap(), Some(want));
        for sector in [1, 8 * MIB / SECTOR_BYTES - 1] {
            let table = Table::read(&disk, sector).unwrap().unwrap();
            assert_eq!(table.ours(2), Some((4096, 14335)));
            assert_eq!(table.number(48), 8 * MIB / SECTOR_BYTES - 34, "last usable sector");
        }
        check_left(&disk, 8, 2);
    }

    #[test]
    fn what_is_not_ours_or_not_last_is_left_as_it_is() {
        check_left(&disk(4, &[("other", 2048, 4095)]), 8, 1);
        check_left(&disk(4, &[("aspen-data-2", 2048, 4095)]), 8, 1);
        check_left(&disk(4, &[("aspen-data", 2048, 4095), ("other", 4096, 6143)]), 8, 1);
        check_left(&disk(4, &OURS), 8, 1);
        check_left(&disk(4, &OURS), 8, 3);
        check_left(&disk(4, &OURS), 8, 0);
        check_left(&disk(4, &OURS), 8, 200);
        // Truncated, and no table at all.
        check_left(&disk(4, &OURS), 3, 2);
        check_left(&disk(4, &[]), 8, 1);
        let blank = tempfile::tempfile().unwrap();
        check_left(&blank, 4, 1);
    }

    #[test]
    fn first_table_that_was_written_in_part_is_written_again() {
        let disk = disk(4, &OURS);
        disk.set_len(8 * MIB).unwrap();
        let before = whole(&disk, 8);
        let grown = grow(&disk, 8 * MIB, 2).unwrap();
        let after = whole(&disk, 8);
        // The header is in sector 1, the entries begin in sector 2: the power went between the two, either way.
        for sector in [512, 1024] {
            disk.write_all_at(&after, 0).unwrap();
            disk.write_all_at(&before[sector..sector + 512], sector as u64).unwrap();
            assert!(Table::read(&disk, 1).unwrap().is_none());
            assert_eq!(grow(&disk, 8 * MIB, 2).unwrap(), grown);
            assert!(whole(&disk, 8) == after);
        }
        // And before either: the first table is that of before, the second that of after.
        disk.write_all_at(&before[..2048], 0).unwrap();
        assert_eq!(grow(&disk, 8 * MIB, 2).unwrap(), grown);
        assert!(whole(&disk, 8) == after);
    }
}
