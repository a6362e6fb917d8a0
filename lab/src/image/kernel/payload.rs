//! What is inside a bzImage: the kernel as an ELF file, packed in one of several ways.
//!
//! The format is that of "The Linux/x86 Boot Protocol" (Documentation/arch/x86/boot.rst), 2.08 and newer.

use std::io::{self, Read};

use super::super::bounded;
use crate::limits::image::{KERNEL_UNPACKED_BYTES_MAX, LZ4_CHUNK_BYTES};

/// Why nothing could be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// No magic number of the boot protocol.
    #[error("this is no bzImage: HdrS is missing at 0x202")]
    NoHeader,
    /// Too old.
    #[error("this bzImage speaks boot protocol {}.{:02}, 2.08 or newer is needed", .0 >> 8, .0 & 255)]
    Protocol(u16),
    /// The end is missing.
    #[error("this bzImage is cut off: it has {bytes} bytes, and its kernel ends at {wanted}")]
    Truncated {
        /// How long it is.
        bytes: u64,
        /// How long it should be.
        wanted: u64,
    },
    /// A packing that is not known.
    #[error(
        "the kernel in this bzImage is packed in an unknown way (it begins {0:02x?}): LZ4, zstd, gzip and xz are known"
    )]
    Packing([u8; 6]),
    /// Damaged.
    #[error("the kernel in this bzImage cannot be unpacked with {packing}")]
    Unpack {
        /// How it is packed.
        packing: &'static str,
        /// What the unpacker says.
        source: io::Error,
    },
}

/// Magic number of `lz4 -l`.
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// Whether these bytes begin as a bzImage does.
pub fn is_bzimage(bytes: &[u8]) -> bool {
    bytes.get(0x202..0x206) == Some(b"HdrS")
}

/// The version line of a bzImage: release, who built it, when.
pub fn version_line(bytes: &[u8]) -> Option<String> {
    let place = usize::from(u16_at(bytes, 0x20e)?) + 0x200;
    let line = bytes.get(place..)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(line).into_owned()).filter(|line| !line.is_empty())
}

/// Unpacks the kernel.
///
/// # Errors
/// [`PayloadError`].
pub fn unpack(bytes: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let payload = payload(bytes)?;
    let failed = |packing| move |source| PayloadError::Unpack { packing, source };
    let begin: [u8; 6] = payload.get(..6).and_then(|begin| begin.try_into().ok()).unwrap_or_default();
    match begin {
        [0x02, 0x21, 0x4c, 0x18, ..] => unpack_lz4(payload).map_err(failed("LZ4")),
        // The last four bytes are the size, which zstd takes for another frame.
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::Decoder::with_buffer(payload)
            .map(zstd::Decoder::single_frame)
            .and_then(read_bounded)
            .map_err(failed("zstd")),
        [0x1f, 0x8b, ..] => read_bounded(flate2::bufread::GzDecoder::new(payload)).map_err(failed("gzip")),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            read_bounded(liblzma::bufread::XzDecoder::new(payload)).map_err(failed("xz"))
        }
        other => Err(PayloadError::Packing(other)),
    }
}

/// The packed kernel with its trailing size.
fn payload(bytes: &[u8]) -> Result<&[u8], PayloadError> {
    if !is_bzimage(bytes) {
        return Err(PayloadError::NoHeader);
    }
    let protocol = u16_at(bytes, 0x206).unwrap_or_default();
    if protocol < 0x0208 {
        return Err(PayloadError::Protocol(protocol));
    }
    // Zero sectors mean four.
    let sectors = u64::from(if bytes[0x1f1] == 0 { 4 } else { bytes[0x1f1] });
    let offset = u64::from(u32_at(bytes, 0x248).unwrap_or_default());
    let length = u64::from(u32_at(bytes, 0x24c).unwrap_or_default());
    let start = (sectors + 1) * 512 + offset;
    let range = usize::try_from(start).ok().zip(usize::try_from(start + length).ok());
    let found = range.and_then(|(start, end)| bytes.get(start..end));
    found.ok_or(PayloadError::Truncated { bytes: bytes.len() as u64, wanted: start + length })
}

/// LZ4's legacy frames: a magic number, then blocks of at most 8 MiB, each after its packed size. The kernel's build
/// appends the unpacked size, which is shorter than any block.
fn unpack_lz4(payload: &[u8]) -> io::Result<Vec<u8>> {
    let damaged = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut rest = &payload[LZ4_LEGACY.len()..];
    let mut kernel = Vec::new();
    let mut chunk = vec![0; LZ4_CHUNK_BYTES];
    while rest.len() > 4 {
        let (size, blocks) = rest.split_at(4);
        let size = u32_at(size, 0).unwrap_or_default() as usize;
        if size.to_le_bytes().starts_with(&LZ4_LEGACY) {
            rest = blocks;
            continue;
        }
        let block = blocks.get(..size).ok_or_else(|| damaged("a block is longer than the rest"))?;
        let written = lz4_flex::block::decompress_into(block, &mut chunk).map_err(io::Error::other)?;
        kernel.extend_from_slice(&chunk[..written]);
        if kernel.len() as u64 > KERNEL_UNPACKED_BYTES_MAX {
            return Err(damaged("it is larger than any kernel"));
        }
        rest = &blocks[size..];
    }
    let size = u32_at(rest, 0).ok_or_else(|| damaged("the size at the end is missing"))?;
    if size as usize == kernel.len() { Ok(kernel) } else { Err(damaged("it has not the size that it names")) }
}

fn read_bounded(from: impl Read) -> io::Result<Vec<u8>> {
    bounded::read(from, KERNEL_UNPACKED_BYTES_MAX)
}

fn u16_at(bytes: &[u8], place: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(place..place + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], place: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(place..place + 4)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    /// A bzImage of protocol 2.15 around a packed kernel.
    pub(in crate::image) fn bzimage(packed: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[0x1f1] = 1;
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        bytes[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        let line = b"6.1.0-test (a@b) #1 SMP";
        bytes[0x300..0x300 + line.len()].copy_from_slice(line);
        bytes[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        bytes[0x24c..0x250].copy_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(packed);
        bytes
    }

    fn kernel() -> Vec<u8> {
        (0..20_000_000_u32).map(|n| (n / 1000).to_le_bytes()[0]).collect()
    }

    fn with_size(mut packed: Vec<u8>, kernel: &[u8]) -> Vec<u8> {
        packed.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
        packed
    }

    fn lz4(kernel: &[u8]) -> Vec<u8> {
        let mut packed = LZ4_LEGACY.to_vec();
        for chunk in kernel.chunks(LZ4_CHUNK_BYTES) {
            let block = lz4_flex::block::compress(chunk);
            packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            packed.extend(block);
        }
        packed
    }

    #[track_caller]
    fn check(packed: Vec<u8>, kernel: &[u8]) {
        assert!(unpack(&bzimage(&packed)).unwrap() == kernel);
    }

    #[test]
    fn every_packing_gives_back_the_kernel() {
        let kernel = kernel();
        check(with_size(lz4(&kernel), &kernel), &kernel);
        check(with_size(zstd::encode_all(kernel.as_slice(), 1).unwrap(), &kernel), &kernel);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&kernel).unwrap();
        // gzip's own trailer is the size.
        check(gzip.finish().unwrap(), &kernel);
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(&kernel).unwrap();
        check(with_size(xz.finish().unwrap(), &kernel), &kernel);
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], want: &str) {
        let error = unpack(bytes).unwrap_err();
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        assert_eq!(format!("{error}{}", source.unwrap_or_default()), want);
    }

    #[test]
    fn damaged_bzimage_is_refused_with_what_is_wrong() {
        check_refused(b"MZ", "this is no bzImage: HdrS is missing at 0x202");
        let unknown = "the kernel in this bzImage is packed in an unknown way (it begins \
                       [62, 7a, 69, 70, 32, 21]): LZ4, zstd, gzip and xz are known";
        check_refused(&bzimage(b"bzip2!"), unknown);
        let whole = bzimage(&with_size(lz4(b"kernel"), b"kernel"));
        let cut = "this bzImage is cut off: it has 1058 bytes, and its kernel ends at 1059";
        check_refused(&whole[..whole.len() - 1], cut);
        let mut old = whole.clone();
        old[0x206..0x208].copy_from_slice(&0x0204_u16.to_le_bytes());
        check_refused(&old, "this bzImage speaks boot protocol 2.04, 2.08 or newer is needed");
        let wrong = bzimage(&with_size(lz4(b"kernel"), b"kernels"));
        let want =
            "the kernel in this bzImage cannot be unpacked with LZ4: it has not the size that it names";
        check_refused(&wrong, want);
    }

    #[test]
    fn version_line_is_found() {
        assert_eq!(version_line(&bzimage(b"")).as_deref(), Some("6.1.0-test (a@b) #1 SMP"));
        assert_eq!(version_line(b"short"), None);
    }
}
