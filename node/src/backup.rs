//! A backup: one file, of a first line of JSON and, behind it, the database of a snapshot as it is. Every byte of it is covered by one of
//! the two digests in the line. How it comes and goes is for others: [`mod@file`] has it on a disk, [`restore`] makes a new cluster of it.
//!
//! ```text
//! {"aspen_backup":1,"cluster_id":…,"bytes":28672,"digest":"…","header_digest":"…"}⏎
//! SQLite format 3…
//! ```
//!
//! Later formats keep what is said here of the line, so that every version can tell what it cannot read.

pub mod file;
pub mod restore;

use serde::{Deserialize, Serialize};

use crate::limits::BACKUP_HEADER_BYTES_MAX;
use crate::types::NodeId;

/// The format that this version writes.
pub const FORMAT: u32 = 1;

/// How every line begins.
const BEGIN: &[u8] = b"{\"aspen_backup\":";
/// What comes before the digest of the line itself: BLAKE3 over all that stands before it, as 64 hexadecimal digits.
const SEAL: &[u8] = b",\"header_digest\":\"";
/// What comes behind it.
const END: &[u8] = b"\"}";
/// Digits of a digest.
const DIGEST_DIGITS: usize = 64;

/// What the first line says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format of the file.
    #[serde(rename = "aspen_backup")]
    pub format: u32,
    /// The cluster that it was taken from, where it has a name.
    pub cluster_id: Option<String>,
    /// The node that made it.
    pub node: NodeId,
    /// The last entry that is in it.
    pub revision: u64,
    /// The term of that entry.
    pub term: u64,
    /// When it was made by the clock of the node, in milliseconds since 1970.
    pub made_unix_ms: u64,
    /// How many keys there are, those in vaults included.
    pub keys: u64,
    /// How many vaults there are.
    pub vaults: u64,
    /// Size of what follows, in bytes.
    pub bytes: u64,
    /// BLAKE3 over what follows, in hexadecimal.
    pub digest: String,
}

/// Why bytes are no backup, or none that this version can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It is something else.
    #[error("it is no backup of Aspen: its first line does not say so")]
    Foreign,
    /// The first line is not as it was written.
    #[error("its first line is damaged or cut off: use another backup")]
    Header,
    /// It is of a later version.
    #[error("it has format {found}, this version reads 1 to {FORMAT}: use a newer aspen")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// Its end is missing.
    #[error("it is cut off: of {bytes} bytes behind its first line {found} are there, use another backup")]
    CutOff {
        /// Bytes that are there.
        found: u64,
        /// Bytes that should be.
        bytes: u64,
    },
    /// Something was put behind it.
    #[error("it goes on behind its end, {bytes} bytes after its first line: use another backup")]
    TooLong {
        /// Bytes that should be there.
        bytes: u64,
    },
    /// What follows the first line is not as it was written.
    #[error("its bytes are not those of its digest: it is damaged, use another backup")]
    Digest,
}

impl FormatError {
    /// Whether the file was whole once, as far as one can see.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Newer { .. })
    }
}

impl Header {
    /// The first line, with its end.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("numbers and texts become JSON");
        // The closing brace comes behind the digest.
        line.pop();
        let digest = blake3::hash(&line).to_hex();
        for part in [SEAL, digest.as_bytes(), END, b"\n"] {
            line.extend_from_slice(part);
        }
        line
    }

    /// Reads a first line without its end.
    ///
    /// # Errors
    /// It is none, is damaged, or is of a later version.
    pub fn parse(line: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Version {
            aspen_backup: u32,
        }
        let (said, seal) = line.split_at(line.len().saturating_sub(SEAL.len() + DIGEST_DIGITS + END.len()));
        let digest = seal.strip_prefix(SEAL).and_then(|seal| seal.strip_suffix(END));
        let Some(digest) = digest else {
            return Err(if line.starts_with(BEGIN) { FormatError::Header } else { FormatError::Foreign });
        };
        if blake3::hash(said).to_hex().as_bytes() != digest {
            return Err(FormatError::Header);
        }
        let damaged = |_| FormatError::Header;
        match serde_json::from_slice(line).map_err(damaged)? {
            Version { aspen_backup: found } if found > FORMAT => Err(FormatError::Newer { found }),
            Version { .. } => serde_json::from_slice(line).map_err(damaged),
        }
    }
}

/// Checks a backup as it comes, in parts of any length.
#[derive(Debug, Default)]
pub struct Check {
    /// The first line, as far as it has come.
    line: Vec<u8>,
    header: Option<Header>,
    hasher: blake3::Hasher,
    /// Bytes that have come behind the first line.
    bytes: u64,
}

impl Check {
    /// Takes the next part: what of it stands behind the first line.
    ///
    /// # Errors
    /// The first line is refused, or more comes than it says.
    pub fn push<'a>(&mut self, part: &'a [u8]) -> Result<&'a [u8], FormatError> {
        let mut rest = part;
        if self.header.is_none() {
            let end = part.iter().position(|byte| *byte == b'\n');
            let of_line = &part[..end.unwrap_or(part.len())];
            let room = BACKUP_HEADER_BYTES_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(&of_line[..of_line.len().min(room)]);
            if of_line.len() > room {
                return Err(self.no_header());
            }
            let Some(end) = end else { return Ok(&[]) };
            self.header = Some(Header::parse(&self.line)?);
            rest = &part[end + 1..];
        }
        let bytes = self.header.as_ref().map_or(0, |header| header.bytes);
        self.bytes += rest.len() as u64;
        if self.bytes > bytes {
            return Err(FormatError::TooLong { bytes });
        }
        self.hasher.update(rest);
        Ok(rest)
    }

    /// What the first line says, once it has come.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Makes sure that all of it has come as it was written.
    ///
    /// # Errors
    /// It has not.
    pub fn finish(self) -> Result<Header, FormatError> {
        let Some(header) = self.header else { return Err(self.no_header()) };
        if self.bytes < header.bytes {
            return Err(FormatError::CutOff { found: self.bytes, bytes: header.bytes });
        }
        if self.hasher.finalize().to_hex().as_str() != header.digest {
            return Err(FormatError::Digest);
        }
        Ok(header)
    }

    /// What is wrong with a first line that has no end.
    fn no_header(&self) -> FormatError {
        let is_ours = self.line.starts_with(BEGIN) || BEGIN.starts_with(&self.line);
        if is_ours { FormatError::Header } else { FormatError::Foreign }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &[u8] = b"the bytes\nof a state";

    fn header() -> Header {
        Header {
            format: FORMAT,
            cluster_id: Some("bb54399d91d05c548b8ff85009c5c03f".to_owned()),
            node: NodeId(2),
            revision: 12,
            term: 3,
            made_unix_ms: 1_700_000_000_000,
            keys: 4,
            vaults: 1,
            bytes: STATE.len() as u64,
            digest: blake3::hash(STATE).to_hex().to_string(),
        }
    }

    fn backup(header: &Header) -> Vec<u8> {
        [header.to_line().as_slice(), STATE].concat()
    }

    fn check(bytes: &[u8], part_bytes: usize) -> Result<(Header, Vec<u8>), FormatError> {
        let (mut check, mut state) = (Check::default(), Vec::new());
        for part in bytes.chunks(part_bytes) {
            state.extend_from_slice(check.push(part)?);
        }
        Ok((check.finish()?, state))
    }

    #[test]
    fn backup_comes_as_it_was_written_in_parts_of_any_length() {
        let bytes = backup(&header());
        for part_bytes in 1..=bytes.len() {
            assert_eq!(check(&bytes, part_bytes), Ok((header(), STATE.to_vec())), "parts of {part_bytes}");
        }
        let nameless = Header { cluster_id: None, ..header() };
        assert_eq!(check(&backup(&nameless), 7), Ok((nameless, STATE.to_vec())));
    }

    #[test]
    fn line_is_json_that_other_programs_read() {
        let line = header().to_line();
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&json["aspen_backup"], &json["revision"]), (&1.into(), &12.into()));
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        assert!(line.ends_with(b"\"}\n") && line.len() < BACKUP_HEADER_BYTES_MAX);
    }

    #[test]
    fn every_changed_byte_and_every_missing_one_is_found() {
        let bytes = backup(&header());
        for place in 0..bytes.len() {
            for flipped in [1, 0x80] {
                let mut damaged = bytes.clone();
                damaged[place] ^= flipped;
                let error = check(&damaged, 16).unwrap_err();
                assert!(error.is_damage(), "byte {place}: {error}");
            }
            let error = check(&bytes[..place], 16).unwrap_err();
            assert!(error.is_damage() && error != FormatError::Digest, "cut at {place}: {error}");
        }
        assert_eq!(check(&[&bytes[..], b"x"].concat(), 16), Err(FormatError::TooLong { bytes: 20 }));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do() {
        let said = |bytes: &[u8]| check(bytes, 16).unwrap_err().to_string();
        let newer = Header { format: 2, ..header() };
        assert_eq!(said(&backup(&newer)), "it has format 2, this version reads 1 to 1: use a newer aspen");
        let bytes = backup(&header());
        let cut = &bytes[..bytes.len() - 5];
        assert_eq!(
            said(cut),
            "it is cut off: of 20 bytes behind its first line 15 are there, use another backup"
        );
        assert_eq!(said(&bytes[..40]), "its first line is damaged or cut off: use another backup");
        let foreign = "it is no backup of Aspen: its first line does not say so";
        for other in [&b"SQLite format 3\0"[..], b"{\"a\":1}\nrest", &[b'x'; 10_000]] {
            assert_eq!(said(other), foreign);
        }
        let mut changed = bytes;
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(
            said(&changed),
            "its bytes are not those of its digest: it is damaged, use another backup"
        );
    }
}
