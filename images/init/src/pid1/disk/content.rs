//! What a disk holds: nothing, our file system, or something that must not be written over.
//!
//! It looks wherever file systems, partition tables and volume managers leave their marks, and reads only.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use aspen_init::layout::{DATA_LABEL, UNFINISHED};
use aspen_init::limits::{
    BLOCK_BYTES, LOOK_CHUNK_BYTES, LOOK_FAR_COUNT_MAX, LOOK_FAR_INTERVAL_BYTES, LOOK_MARKS_BYTES,
    LOOK_NEAR_BYTES, LOOK_NEAR_INTERVAL_BYTES, LOOK_READERS, LOOK_WHOLE_BYTES,
};
use nix::libc;

/// What a disk holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing.
    Blank,
    /// A file system that we began to write.
    Unfinished,
    /// Our file system.
    Ours {
        /// Its size.
        bytes: u64,
    },
    /// Something else, in words.
    Other(String),
}

/// Opens a disk to be looked at: past the kernel's cache where it lets us, since an emulated processor copies slowly.
///
/// # Errors
/// It cannot be opened.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
    direct.or_else(|_not_there| File::open(path))
}

/// Looks at a disk of so many bytes.
///
/// # Errors
/// It cannot be read.
pub(super) fn look(disk: &File, disk_bytes: u64) -> io::Result<Content> {
    let mut buffer = Buffer::new(LOOK_CHUNK_BYTES);
    let buffer = buffer.bytes();
    let start = read(disk, 0, disk_bytes, &mut buffer[..LOOK_MARKS_BYTES])?;
    if start.starts_with(UNFINISHED) {
        return Ok(Content::Unfinished);
    }
    if let Some(content) = known(start) {
        return Ok(content);
    }
    let found = |at: u64| Ok(Content::Other(format!("data of an unknown kind at byte {at}")));
    let whole = (0..LOOK_WHOLE_BYTES.min(disk_bytes)).step_by(LOOK_CHUNK_BYTES);
    // The spare partition table, RAID and the last group of a file system.
    let edge = disk_bytes.saturating_sub(LOOK_CHUNK_BYTES as u64);
    for at in whole.chain([edge.next_multiple_of(u64::from(BLOCK_BYTES))]) {
        if let Some(byte) = first_byte(read(disk, at, disk_bytes, buffer)?) {
            return found(at + byte);
        }
    }
    // Between them, the beginning of whatever is aligned as every tool aligns it: partitions whose table is gone, and spare
    // superblocks. Farther out, where larger things begin.
    let near = (LOOK_WHOLE_BYTES..edge.min(LOOK_NEAR_BYTES)).step_by(LOOK_NEAR_INTERVAL_BYTES);
    let far = (LOOK_NEAR_BYTES..edge).step_by(LOOK_FAR_INTERVAL_BYTES).take(LOOK_FAR_COUNT_MAX);
    let taken = first_taken(disk, disk_bytes, &near.chain(far).collect::<Vec<_>>())?;
    taken.map_or(Ok(Content::Blank), found)
}

/// The first byte that is not zero in any of these blocks, each named by its place in bytes.
///
/// # Errors
/// The disk cannot be read.
pub(super) fn first_taken(disk: &File, disk_bytes: u64, blocks: &[u64]) -> io::Result<Option<u64>> {
    // Many at a time: what a small read takes is the time until its answer comes.
    let part = blocks.len().div_ceil(LOOK_READERS).max(1);
    let look = |blocks: &[u64]| {
        let mut buffer = Buffer::new(BLOCK_BYTES as usize);
        let mut look = |at| {
            let found = first_byte(read(disk, at, disk_bytes, buffer.bytes())?);
            Ok(found.map(|byte| at + byte))
        };
        blocks.iter().find_map(|at| look(*at).transpose()).transpose()
    };
    thread::scope(|scope| {
        let readers: Vec<_> = blocks.chunks(part).map(|part| scope.spawn(move || look(part))).collect();
        // In the order of the disk, so that the first is found; a panic goes on as one.
        let found =
            readers.into_iter().map(|reader| reader.join().unwrap_or_else(|panic| resume_unwind(panic)));
        found.collect::<io::Result<Vec<_>>>().map(|found| found.into_iter().flatten().next())
    })
}

/// Room for what is read past the kernel's cache, which has to lie as sectors do.
struct Buffer {
    room: Vec<u8>,
    bytes: usize,
}

impl Buffer {
    fn new(bytes: usize) -> Self {
        Self { room: vec![0; bytes + BLOCK_BYTES as usize], bytes }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let start = self.room.as_ptr().align_offset(BLOCK_BYTES as usize);
        &mut self.room[start..start + self.bytes]
    }
}

/// What the disk holds from this place on: as much as the buffer has room for, or as is left of the disk.
fn read<'a>(disk: &File, at: u64, disk_bytes: u64, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let left = usize::try_from(disk_bytes.saturating_sub(at)).unwrap_or(usize::MAX);
    let count = left.min(buffer.len());
    disk.read_exact_at(&mut buffer[..count], at)?;
    Ok(&buffer[..count])
}

fn first_byte(bytes: &[u8]) -> Option<u64> {
    // By blocks first: an emulated processor compares a block at once far faster than its bytes one by one.
    const ZEROS: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];
    let is_taken = |block: &[u8]| *block != ZEROS[..block.len()];
    let place = bytes.chunks(ZEROS.len()).position(is_taken)? * ZEROS.len();
    bytes[place..].iter().position(|byte| *byte != 0).map(|at| (place + at) as u64)
}

/// What is known by its mark.
fn known(start: &[u8]) -> Option<Content> {
    let has = |at: usize, mark: &[u8]| start.get(at..at + mark.len()) == Some(mark);
    if has(EXT4_AT + 0x38, &[0x53, 0xef]) {
        return Some(ext4(&start[EXT4_AT..]));
    }
    let marks: [(usize, &[u8], &str); 8] = [
        (512, b"EFI PART", "a GPT partition table"),
        (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
        (0, b"XFSB", "an XFS file system"),
        (0x1_0040, b"_BHRfS_M", "a btrfs file system"),
        (4086, b"SWAPSPACE2", "a swap area"),
        (536, b"LVM2 001", "an LVM volume"),
        (0, b"QFI\xfb", "a qcow2 image that was attached as a raw one"),
        (510, &[0x55, 0xaa], "a boot sector, a partition table or a FAT file system"),
    ];
    let mark = marks.iter().find(|(at, mark, _)| has(*at, mark));
    mark.map(|(_, _, what)| Content::Other((*what).to_owned()))
}

/// Where the superblock of ext4 is (Documentation/filesystems/ext4/globals.rst).
const EXT4_AT: usize = 1024;

fn ext4(superblock: &[u8]) -> Content {
    let number = |at: usize| {
        let bytes: [u8; 4] =
            superblock.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
        u64::from(u32::from_le_bytes(bytes))
    };
    // s_volume_name; s_blocks_count_lo and _hi, the latter with INCOMPAT_64BIT; s_log_block_size.
    let name = superblock.get(0x78..0x88).unwrap_or_default();
    let name = String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    if name != DATA_LABEL {
        return Content::Other(format!("an ext4 file system labelled {name:?}, not {DATA_LABEL:?}"));
    }
    let high = if number(0x60) & 0x80 == 0 { 0 } else { number(0x150) };
    let blocks = number(0x4) | high << 32;
    let bytes = 1024_u64.checked_shl(u32::try_from(number(0x18)).unwrap_or(u32::MAX)).unwrap_or(u64::MAX);
    Content::Ours { bytes: blocks.saturating_mul(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK_BYTES: u64 = 256 * 1024 * 1024;

    /// A disk with these bytes at these places.
    fn disk(writes: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(DISK_BYTES).unwrap();
        for (at, bytes) in writes {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    #[track_caller]
    fn check(writes: &[(u64, &[u8])], want: Content) {
        assert_eq!(look(&disk(writes), DISK_BYTES).unwrap(), want);
    }

    fn other(text: &str) -> Content {
        Content::Other(text.to_owned())
    }

    #[test]
    fn blank_disk_is_blank_also_when_it_is_small() {
        check(&[], Content::Blank);
        let small = tempfile::tempfile().unwrap();
        small.set_len(4096).unwrap();
        assert_eq!(look(&small, 4096).unwrap(), Content::Blank);
        // Of no whole number of blocks: its end counts as well.
        let odd = DISK_BYTES - 512;
        assert_eq!(look(&disk(&[]), odd).unwrap(), Content::Blank);
        assert_ne!(look(&disk(&[(odd - 1, b"x")]), odd).unwrap(), Content::Blank);
    }

    #[test]
    fn anything_at_all_is_found() {
        check(&[(7, b"x")], other("data of an unknown kind at byte 7"));
        check(&[(DISK_BYTES - 1, b"x")], other("data of an unknown kind at byte 268435455"));
        check(&[(64 << 20 | 5, b"x")], other("data of an unknown kind at byte 67108869"));
        check(&[(128 << 20, b"x")], other("data of an unknown kind at byte 134217728"));
        // Nowhere near an alignment.
        check(&[((8 << 20) - 7, b"x")], other("data of an unknown kind at byte 8388601"));
        check(&[(5_000_000, b"x")], other("data of an unknown kind at byte 5000000"));
    }

    #[test]
    fn partition_whose_table_is_gone_is_found() {
        // The superblock of an ext4 that begins at 1 MiB, where every tool begins the first partition.
        let superblock = (1 << 20) + 1024 + 0x38;
        check(&[(superblock, b"\x53\xef")], other("data of an unknown kind at byte 1049656"));
        let second = (201 << 20) + 1024 + 0x38;
        check(&[(second, b"\x53\xef")], other("data of an unknown kind at byte 210764856"));
    }

    #[test]
    fn what_is_written_to_is_looked_at_wherever_it_is() {
        let place = (100 << 20) + 8192;
        let disk = disk(&[(place + 9, b"x")]);
        assert_eq!(look(&disk, DISK_BYTES).unwrap(), Content::Blank, "too far from where anything begins");
        let taken = |blocks: &[u64]| first_taken(&disk, DISK_BYTES, blocks).unwrap();
        assert_eq!(taken(&[0, place - 4096, place + 4096]), None);
        assert_eq!(taken(&[0, place]), Some(place + 9));
        // However many there are, and whoever of the readers meets it.
        let many: Vec<u64> = (0..DISK_BYTES).step_by(8192).collect();
        assert_eq!(taken(&many), Some(place + 9));
        assert_eq!(taken(&[]), None);
    }

    #[test]
    fn far_away_only_what_is_large_is_looked_for() {
        let bytes = 9 << 30;
        let disk = disk(&[]);
        disk.set_len(bytes).unwrap();
        assert_eq!(look(&disk, bytes).unwrap(), Content::Blank);
        disk.write_all_at(b"x", (5 << 30) + 3).unwrap();
        assert_eq!(look(&disk, bytes).unwrap(), other("data of an unknown kind at byte 5368709123"));
    }

    #[test]
    fn what_is_known_is_named() {
        check(&[(510, b"\x55\xaa"), (512, b"EFI PART")], other("a GPT partition table"));
        check(&[(510, b"\x55\xaa")], other("a boot sector, a partition table or a FAT file system"));
        check(&[(0, b"XFSB")], other("an XFS file system"));
        check(&[(0x1_0040, b"_BHRfS_M")], other("a btrfs file system"));
        check(&[(0, b"QFI\xfb")], other("a qcow2 image that was attached as a raw one"));
        check(
            &[(1024 + 0x38, b"\x53\xef"), (1024 + 0x78, b"photos")],
            other("an ext4 file system labelled \"photos\", not \"ASPEN-DATA\""),
        );
    }

    #[test]
    fn our_file_system_has_a_size() {
        let blocks = 65_536_u32.to_le_bytes();
        let marks: [(u64, &[u8]); 4] = [
            (1024 + 0x38, b"\x53\xef"),
            (1024 + 0x78, b"ASPEN-DATA\0"),
            (1024 + 0x4, &blocks),
            (1024 + 0x18, &[2]),
        ];
        check(&marks, Content::Ours { bytes: 65_536 * 4096 });
        // Without the 64-bit feature the high half means something else.
        check(&[&marks[..], &[(1024 + 0x150, &[1])]].concat(), Content::Ours { bytes: 65_536 * 4096 });
        let large: [(u64, &[u8]); 2] = [(1024 + 0x60, &[0x80]), (1024 + 0x150, &[1])];
        check(&[&marks[..], &large].concat(), Content::Ours { bytes: (65_536 + (1 << 32)) * 4096 });
    }

    #[test]
    fn unfinished_file_system_is_ours_to_finish() {
        check(&[(0, UNFINISHED), (5 << 20, b"half a file system")], Content::Unfinished);
    }
}
