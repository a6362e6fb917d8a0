//! Writes an empty file system to a blank disk, so that a power cut at any moment leaves one that is blank, unfinished or
//! complete.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use aspen_init::blocks::BlockList;
use aspen_init::layout::UNFINISHED;
use aspen_init::limits::BLOCK_BYTES;

/// What no disk writes by halves, in bytes: its smallest sector.
const SECTOR_BYTES: usize = 512;

/// A step on the way to a file system.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// These bytes at this place. A power cut may leave some of its sectors unwritten, and those of the next steps, too.
    Write(u64, &'a [u8]),
    /// Everything before reaches the disk, and nothing behind it does before that.
    Sync,
}

/// Writes a file system.
///
/// # Errors
/// The disk's.
pub(super) fn write(disk: &File, blocks: &BlockList) -> io::Result<()> {
    let mut mark = vec![0; BLOCK_BYTES as usize];
    mark[..UNFINISHED.len()].copy_from_slice(UNFINISHED);
    let zeros = vec![0; BLOCK_BYTES as usize];
    for step in steps(blocks, &mark, &zeros) {
        match step {
            Step::Write(at, bytes) => disk.write_all_at(bytes, at)?,
            Step::Sync => disk.sync_all()?,
        }
    }
    Ok(())
}

/// The mark stands alone in the first sector, where file systems have nothing or a boot loader. It comes before everything and
/// goes after everything: the superblock, in the third sector, is not looked at as long as the mark is there.
fn steps<'a>(blocks: &'a BlockList, mark: &'a [u8], zeros: &'a [u8]) -> Vec<Step<'a>> {
    let first = blocks.blocks().find(|(at, _)| *at == 0).map_or(zeros, |(_, block)| block);
    let (first_sector, superblock) = first.split_at(SECTOR_BYTES);
    let others = blocks.blocks().filter(|(at, _)| *at > 0);
    let mut steps = vec![Step::Write(0, mark), Step::Sync];
    steps.extend(others.map(|(at, block)| Step::Write(at, block)));
    steps.extend([
        Step::Write(SECTOR_BYTES as u64, superblock),
        Step::Sync,
        Step::Write(0, first_sector),
        Step::Sync,
    ]);
    steps
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::content::{Content, look};
    use super::*;

    /// A small file system of 8 blocks.
    pub(in super::super) fn blocks() -> BlockList {
        let mut image = vec![0; 8 * BLOCK_BYTES as usize];
        image[1024 + 0x38..][..2].copy_from_slice(&[0x53, 0xef]);
        image[1024 + 0x78..][..10].copy_from_slice(b"ASPEN-DATA");
        image[1024 + 0x4] = 8;
        image[1024 + 0x18] = 2;
        // The end of the superblock is in the fourth sector.
        image[1024 + 0x3fc] = 9;
        image[5 * BLOCK_BYTES as usize] = 7;
        BlockList::from_image(image.as_slice()).unwrap()
    }

    const DISK_BYTES: u64 = 16 * BLOCK_BYTES as u64;
    const OURS: Content = Content::Ours { bytes: 8 * BLOCK_BYTES as u64 };

    fn disk() -> File {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(DISK_BYTES).unwrap();
        disk
    }

    fn all(disk: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(DISK_BYTES).unwrap()];
        disk.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn complete() -> Vec<u8> {
        let disk = disk();
        write(&disk, &blocks()).unwrap();
        assert_eq!(look(&disk, DISK_BYTES).unwrap(), OURS);
        all(&disk)
    }

    #[test]
    fn written_file_system_is_complete_and_ours() {
        let bytes = complete();
        assert_eq!(bytes[5 * BLOCK_BYTES as usize], 7);
        assert_eq!(bytes[1024 + 0x3fc], 9);
    }

    proptest! {
        /// Found when the mark and the superblock still were one write: without its first sector, the disk was a stranger's.
        #[test]
        fn power_cut_leaves_a_disk_that_is_blank_unfinished_or_complete(
            syncs in 0..3_usize, reached in prop::collection::vec(any::<bool>(), 64),
        ) {
            let (list, disk) = (blocks(), disk());
            let mut mark = vec![0; BLOCK_BYTES as usize];
            mark[..UNFINISHED.len()].copy_from_slice(UNFINISHED);
            let zeros = vec![0; BLOCK_BYTES as usize];
            let mut done = 0;
            let mut reached = reached.into_iter().cycle();
            for step in steps(&list, &mark, &zeros) {
                match step {
                    Step::Sync => done += 1,
                    // What was synchronised is there as a whole.
                    Step::Write(at, bytes) if done < syncs => disk.write_all_at(bytes, at).unwrap(),
                    // Of the rest, any sectors in any order.
                    Step::Write(at, bytes) if done == syncs => {
                        for (sector, bytes) in (0_u64..).zip(bytes.chunks(SECTOR_BYTES)) {
                            if reached.next().unwrap() {
                                disk.write_all_at(bytes, at + sector * SECTOR_BYTES as u64).unwrap();
                            }
                        }
                    }
                    Step::Write(..) => {}
                }
            }
            match look(&disk, DISK_BYTES).unwrap() {
                Content::Blank | Content::Unfinished => {
                    write(&disk, &list).unwrap();
                    prop_assert!(all(&disk) == complete());
                }
                content => {
                    prop_assert_eq!(content, OURS);
                    prop_assert!(all(&disk) == complete(), "it looks complete and is not");
                }
            }
        }
    }
}
