//! A file system image as the list of its blocks that are not zero: an empty ext4 of 256 MiB becomes 100 KiB.
//!
//! Little endian: magic `ASPENBLK`, u32 version, u32 block size, u64 bytes of the whole image, u64 number of blocks; then
//! for each block its u64 index and its bytes, in ascending order. It compresses nothing, since the initramfs around it
//! is compressed.

use std::io::{self, Read, Write};

use crate::limits::{BLOCK_BYTES, BLOCKS_MAX, BLOCKS_TOTAL_BYTES_MAX};

const MAGIC: &[u8; 8] = b"ASPENBLK";
const VERSION: u32 = 1;
const BLOCK: usize = BLOCK_BYTES as usize;

/// The blocks of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockList {
    total_bytes: u64,
    // Invariant: ascending indexes below total_bytes / BLOCK_BYTES; each block has BLOCK_BYTES.
    blocks: Vec<(u64, Vec<u8>)>,
}

/// Why there is no block list.
#[derive(Debug, thiserror::Error)]
pub enum BlocksError {
    /// It cannot be read or written.
    #[error("cannot read or write a block list")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("this is no block list: it does not begin with ASPENBLK")]
    Magic,
    /// It is of another version.
    #[error("block list version {0}, {VERSION} is understood: build the image again")]
    Version(u32),
    /// Its blocks have another size.
    #[error("block size is {0}, {BLOCK_BYTES} is understood")]
    BlockBytes(u32),
    /// The image is no whole number of blocks, or too large.
    #[error(
        "the image has {0} bytes, a multiple of {BLOCK_BYTES} from 1 block to {BLOCKS_TOTAL_BYTES_MAX} is allowed"
    )]
    TotalBytes(u64),
    /// Too many blocks.
    #[error("{0} blocks are not zero, at most {BLOCKS_MAX} are allowed")]
    Count(u64),
    /// A block outside the image, or out of order.
    #[error("block index {index} at place {place} is out of order or outside the image")]
    Index {
        /// The place in the list, from 0.
        place: u64,
        /// The block's index.
        index: u64,
    },
}

impl BlockList {
    /// The blocks of an image that is read from its beginning to its end.
    ///
    /// # Errors
    /// The image cannot be read, is no whole number of blocks, or has too many that are not zero.
    pub fn from_image(mut image: impl Read) -> Result<Self, BlocksError> {
        let mut blocks = Vec::new();
        let mut index = 0_u64;
        loop {
            let mut block = vec![0; BLOCK];
            let count = fill(&mut image, &mut block)?;
            let total_bytes = index * u64::from(BLOCK_BYTES);
            if count == 0 {
                check_total(total_bytes)?;
                return Ok(Self { total_bytes, blocks });
            }
            if count < BLOCK || total_bytes >= BLOCKS_TOTAL_BYTES_MAX {
                return Err(BlocksError::TotalBytes(total_bytes + count as u64));
            }
            if block.iter().any(|byte| *byte != 0) {
                blocks.push((index, block));
            }
            check_count(blocks.len() as u64)?;
            index += 1;
        }
    }

    /// Reads a list.
    ///
    /// # Errors
    /// It cannot be read, or is not what it should be.
    pub fn read(mut from: impl Read) -> Result<Self, BlocksError> {
        if array::<8>(&mut from)? != *MAGIC {
            return Err(BlocksError::Magic);
        }
        let version = u32::from_le_bytes(array(&mut from)?);
        if version != VERSION {
            return Err(BlocksError::Version(version));
        }
        let block_bytes = u32::from_le_bytes(array(&mut from)?);
        if block_bytes != BLOCK_BYTES {
            return Err(BlocksError::BlockBytes(block_bytes));
        }
        let total_bytes = u64::from_le_bytes(array(&mut from)?);
        check_total(total_bytes)?;
        let count = u64::from_le_bytes(array(&mut from)?);
        check_count(count)?;
        let mut blocks: Vec<(u64, Vec<u8>)> = Vec::new();
        for place in 0..count {
            let index = u64::from_le_bytes(array(&mut from)?);
            let is_behind = blocks.last().is_none_or(|(before, _)| *before < index);
            if !is_behind || index >= total_bytes / u64::from(BLOCK_BYTES) {
                return Err(BlocksError::Index { place, index });
            }
            let mut block = vec![0; BLOCK];
            from.read_exact(&mut block)?;
            blocks.push((index, block));
        }
        Ok(Self { total_bytes, blocks })
    }

    /// Writes the list.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        to.write_all(MAGIC)?;
        to.write_all(&VERSION.to_le_bytes())?;
        to.write_all(&BLOCK_BYTES.to_le_bytes())?;
        to.write_all(&self.total_bytes.to_le_bytes())?;
        to.write_all(&(self.blocks.len() as u64).to_le_bytes())?;
        for (index, block) in &self.blocks {
            to.write_all(&index.to_le_bytes())?;
            to.write_all(block)?;
        }
        Ok(())
    }

    /// Size of the image, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Each block that is not zero: its place in the image, in bytes, and what it holds, in ascending order.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.blocks.iter().map(|(index, block)| (index * u64::from(BLOCK_BYTES), block.as_slice()))
    }
}

fn check_total(total_bytes: u64) -> Result<(), BlocksError> {
    let is_whole = total_bytes.is_multiple_of(u64::from(BLOCK_BYTES));
    if total_bytes == 0 || total_bytes > BLOCKS_TOTAL_BYTES_MAX || !is_whole {
        return Err(BlocksError::TotalBytes(total_bytes));
    }
    Ok(())
}

fn check_count(count: u64) -> Result<(), BlocksError> {
    if count > BLOCKS_MAX { Err(BlocksError::Count(count)) } else { Ok(()) }
}

/// Reads until the buffer is full or the source ends.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match from.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An image of so many blocks, the given ones filled with their number.
    fn image(count: u64, filled: &[u64]) -> Vec<u8> {
        let block =
            |index: u64| vec![if filled.contains(&index) { index.to_le_bytes()[0] + 1 } else { 0 }; BLOCK];
        (0..count).flat_map(block).collect()
    }

    fn written(list: &BlockList) -> Vec<u8> {
        let mut bytes = Vec::new();
        list.write(&mut bytes).unwrap();
        bytes
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], want: &str) {
        assert_eq!(BlockList::read(bytes).unwrap_err().to_string(), want);
    }

    proptest! {
        #[test]
        fn list_gives_back_its_image(count in 1_u64..40, filled in prop::collection::vec(0_u64..40, 0..10)) {
            let image = image(count, &filled);
            let list = BlockList::from_image(image.as_slice()).unwrap();
            let read = BlockList::read(written(&list).as_slice()).unwrap();
            prop_assert_eq!(&read, &list);
            let mut back = vec![0; usize::try_from(read.total_bytes()).unwrap()];
            for (place, block) in read.blocks() {
                let place = usize::try_from(place).unwrap();
                back[place..place + BLOCK].copy_from_slice(block);
            }
            prop_assert!(back == image);
        }
    }

    #[test]
    fn list_has_the_documented_form() {
        let bytes = written(&BlockList::from_image(image(3, &[1]).as_slice()).unwrap());
        assert_eq!(bytes.len(), 8 + 4 + 4 + 8 + 8 + 8 + BLOCK);
        assert_eq!(&bytes[..16], b"ASPENBLK\x01\0\0\0\0\x10\0\0");
        assert_eq!(bytes[16..24], (3 * BLOCK as u64).to_le_bytes());
        assert_eq!(bytes[24..40], [1_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat()[..]);
    }

    #[test]
    fn damaged_list_is_refused_with_what_is_wrong() {
        let good = written(&BlockList::from_image(image(3, &[1, 2]).as_slice()).unwrap());
        let with = |place: usize, bytes: &[u8]| {
            let mut damaged = good.clone();
            damaged[place..place + bytes.len()].copy_from_slice(bytes);
            damaged
        };
        check_refused(&with(0, b"X"), "this is no block list: it does not begin with ASPENBLK");
        check_refused(&with(8, &[2]), "block list version 2, 1 is understood: build the image again");
        check_refused(&with(12, &512_u32.to_le_bytes()), "block size is 512, 4096 is understood");
        check_refused(
            &with(16, &4097_u64.to_le_bytes()),
            "the image has 4097 bytes, a multiple of 4096 from 1 block to 1073741824 is allowed",
        );
        check_refused(
            &with(24, &4097_u64.to_le_bytes()),
            "4097 blocks are not zero, at most 4096 are allowed",
        );
        check_refused(&with(32, &[3]), "block index 3 at place 0 is out of order or outside the image");
        check_refused(&with(32, &[2]), "block index 2 at place 1 is out of order or outside the image");
        assert!(matches!(BlockList::read(&good[..good.len() - 1]), Err(BlocksError::Io(_))));
    }

    #[test]
    fn image_that_is_no_whole_number_of_blocks_is_refused() {
        let error = BlockList::from_image(&[0; 4097][..]).unwrap_err().to_string();
        assert_eq!(
            error,
            "the image has 4097 bytes, a multiple of 4096 from 1 block to 1073741824 is allowed"
        );
        assert!(matches!(BlockList::from_image(&[][..]), Err(BlocksError::TotalBytes(0))));
    }
}
