//! What host and guest say to each other, over one port of virtio-serial: a byte for the kind, four for the length, and the
//! rest. Both ends are of one build, so there are no versions.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::limits::rig::{CHUNK_BYTES, MESSAGE_BYTES_MAX};

/// The name of the port.
pub(super) const PORT: &str = "org.aspen.rig";

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Size {
    pub(super) rows: u16,
    pub(super) columns: u16,
}

/// What the guest is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// The program and its arguments. The program is a path in the guest.
    pub(super) words: Vec<Word>,
    /// Its environment.
    pub(super) environment: Vec<(String, Word)>,
    /// Its working folder.
    pub(super) folder: Word,
    /// What comes out: what is new below these.
    pub(super) out: Vec<Word>,
    /// Which of its input, output and error output are a terminal.
    pub(super) terminals: [bool; 3],
    /// How large that is.
    pub(super) size: Size,
    /// Whether it is used by a human, key by key, or only written to.
    pub(super) is_interactive: bool,
    /// Whether there is any input for it.
    pub(super) has_input: bool,
}

/// A path or an argument, which need not be text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Word {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<OsString> for Word {
    fn from(word: OsString) -> Self {
        word.into_string().map_or_else(|word| Self::Bytes(word.into_vec()), Self::Text)
    }
}

impl From<&Path> for Word {
    fn from(path: &Path) -> Self {
        path.as_os_str().to_owned().into()
    }
}

impl From<Word> for OsString {
    fn from(word: Word) -> Self {
        match word {
            Word::Text(text) => text.into(),
            Word::Bytes(bytes) => Self::from_vec(bytes),
        }
    }
}

impl From<Word> for PathBuf {
    fn from(word: Word) -> Self {
        OsString::from(word).into()
    }
}

/// What the host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToGuest {
    /// The first thing, once.
    Order(Box<Order>),
    /// Input for the program; nothing at its end.
    Input(Vec<u8>),
    /// A signal for it.
    Signal(i32),
    /// Its terminal has another size.
    Size(Size),
}

/// What the guest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToHost {
    /// It is up and waits for its order. Which Linux it is.
    Up(String),
    /// What the program wrote.
    Output(Vec<u8>),
    /// What it wrote to its error output.
    Errors(Vec<u8>),
    /// Something that comes out: this begins.
    Entry(Entry),
    /// Bytes of the file that came last, and where they go.
    Data(u64, Vec<u8>),
    /// It is over, and everything has come out.
    Ended(Ended),
}

/// Something that comes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Below which folder of the order.
    pub(super) root: usize,
    /// Where below it; empty for the folder itself.
    pub(super) path: Word,
    /// What it is.
    pub(super) kind: EntryKind,
}

/// What comes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum EntryKind {
    /// A folder, before what is in it.
    Folder {
        /// Who may do what with it.
        mode: u32,
    },
    /// A file; what is not sent of it is zero.
    File {
        /// Who may do what with it.
        mode: u32,
        /// How long it is.
        bytes: u64,
    },
    /// A symbolic link.
    Link {
        /// To where.
        target: Word,
    },
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    /// The exit code; a signal n is 128 + n.
    pub(super) code: u8,
    /// What the user should know: what could not come out, and why.
    pub(super) notes: Vec<String>,
}

/// A message that travels.
pub(super) trait Message: Sized {
    /// Its kind, and the rest.
    fn pack(&self) -> io::Result<(u8, Vec<u8>)>;
    /// The reverse.
    fn unpack(kind: u8, rest: Vec<u8>) -> io::Result<Self>;
}

impl Message for ToGuest {
    fn pack(&self) -> io::Result<(u8, Vec<u8>)> {
        Ok(match self {
            Self::Order(order) => (b'o', serde_json::to_vec(order)?),
            Self::Input(bytes) => (b'i', bytes.clone()),
            Self::Signal(signal) => (b's', signal.to_le_bytes().to_vec()),
            Self::Size(size) => (b'z', serde_json::to_vec(size)?),
        })
    }

    fn unpack(kind: u8, rest: Vec<u8>) -> io::Result<Self> {
        Ok(match kind {
            b'o' => Self::Order(serde_json::from_slice(&rest)?),
            b'i' => Self::Input(rest),
            b's' => Self::Signal(i32::from_le_bytes(array(&rest)?)),
            b'z' => Self::Size(serde_json::from_slice(&rest)?),
            other => return Err(unknown(other)),
        })
    }
}

impl Message for ToHost {
    fn pack(&self) -> io::Result<(u8, Vec<u8>)> {
        Ok(match self {
            Self::Up(release) => (b'u', release.as_bytes().to_vec()),
            Self::Output(bytes) => (b'1', bytes.clone()),
            Self::Errors(bytes) => (b'2', bytes.clone()),
            Self::Entry(entry) => (b'f', serde_json::to_vec(entry)?),
            Self::Data(place, bytes) => (b'd', [&place.to_le_bytes(), bytes.as_slice()].concat()),
            Self::Ended(ended) => (b'e', serde_json::to_vec(ended)?),
        })
    }

    fn unpack(kind: u8, mut rest: Vec<u8>) -> io::Result<Self> {
        Ok(match kind {
            b'u' => Self::Up(String::from_utf8_lossy(&rest).into_owned()),
            b'1' => Self::Output(rest),
            b'2' => Self::Errors(rest),
            b'f' => Self::Entry(serde_json::from_slice(&rest)?),
            b'd' => {
                let place = u64::from_le_bytes(array(rest.get(..8).unwrap_or(&rest))?);
                rest.drain(..8);
                Self::Data(place, rest)
            }
            b'e' => Self::Ended(serde_json::from_slice(&rest)?),
            other => return Err(unknown(other)),
        })
    }
}

fn array<const N: usize>(bytes: &[u8]) -> io::Result<[u8; N]> {
    bytes
        .try_into()
        .map_err(|_| malformed(format!("a message has {} bytes where {N} were to come", bytes.len())))
}

fn unknown(kind: u8) -> io::Error {
    malformed(format!("there is no message of kind {kind:#04x}"))
}

fn malformed(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Sends a message.
///
/// # Errors
/// Nobody takes it, or it is longer than allowed.
pub(super) fn send(message: &impl Message, to: &mut impl Write) -> io::Result<()> {
    let (kind, rest) = message.pack()?;
    let length = u32::try_from(rest.len()).ok().filter(|length| *length <= MESSAGE_BYTES_MAX);
    let length = length.ok_or_else(|| {
        malformed(format!("a message has {} bytes, at most {MESSAGE_BYTES_MAX} are allowed", rest.len()))
    })?;
    // In one piece, so that the port has one thing to do.
    let mut bytes = Vec::with_capacity(rest.len() + 5);
    bytes.push(kind);
    bytes.extend(length.to_le_bytes());
    bytes.extend(rest);
    to.write_all(&bytes)?;
    to.flush()
}

/// Waits for the next message; none at the end.
///
/// # Errors
/// It cannot be read, is cut off, or is no message.
pub(super) fn receive<M: Message>(from: &mut impl Read) -> io::Result<Option<M>> {
    let mut head = [0; 5];
    loop {
        match from.read(&mut head[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    from.read_exact(&mut head[1..])?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    if length > MESSAGE_BYTES_MAX {
        return Err(malformed(format!(
            "a message of {length} bytes, at most {MESSAGE_BYTES_MAX} are allowed"
        )));
    }
    let mut rest = vec![0; length as usize];
    from.read_exact(&mut rest)?;
    M::unpack(head[0], rest).map(Some)
}

/// Reads to the end and passes on what comes, as it comes.
///
/// # Errors
/// Nobody takes it any more.
pub(super) fn pass_on(
    mut from: impl Read,
    mut take: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => take(chunk[..count].to_vec())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A terminal whose programs are gone reads as broken (EIO).
            Err(_end) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<M: Message + PartialEq + std::fmt::Debug>(message: M) {
        let mut bytes = Vec::new();
        send(&message, &mut bytes).unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(receive::<M>(&mut from).unwrap().unwrap(), message);
        assert!(receive::<M>(&mut from).unwrap().is_none());
        for cut in 1..bytes.len() {
            assert!(receive::<M>(&mut &bytes[..cut]).is_err(), "{cut} of {}", bytes.len());
        }
    }

    #[test]
    fn messages_arrive_whole_or_not_at_all() {
        let size = Size { rows: 24, columns: 80 };
        check(ToGuest::Order(Box::new(Order {
            words: vec![Word::Text("lab".to_owned()), OsString::from_vec(vec![0xff]).into()],
            environment: vec![("A".to_owned(), Path::new("/b").into())],
            folder: Path::new("/w").into(),
            out: vec![],
            terminals: [true, false, true],
            size,
            is_interactive: false,
            has_input: true,
        })));
        check(ToGuest::Input(vec![]));
        check(ToGuest::Signal(-2));
        check(ToGuest::Size(size));
        check(ToHost::Up("6.1".to_owned()));
        check(ToHost::Output(vec![0, 255]));
        check(ToHost::Errors(b"x".to_vec()));
        let kind = EntryKind::File { mode: 0o640, bytes: 1 << 40 };
        check(ToHost::Entry(Entry { root: 1, path: Path::new("a/b").into(), kind }));
        check(ToHost::Data(1 << 40, vec![7; 3]));
        check(ToHost::Ended(Ended { code: 3, notes: vec!["a".to_owned()] }));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let refused = |bytes: &[u8]| receive::<ToHost>(&mut &*bytes).unwrap_err().to_string();
        assert_eq!(refused(b"?\0\0\0\0"), "there is no message of kind 0x3f");
        assert_eq!(refused(b"1\xff\xff\xff\xff"), "a message of 4294967295 bytes, at most 65536 are allowed");
        assert_eq!(refused(b"d\x02\0\0\0ab"), "a message has 2 bytes where 8 were to come");
        let long = ToHost::Output(vec![0; MESSAGE_BYTES_MAX as usize + 1]);
        let error = send(&long, &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error, "a message has 65537 bytes, at most 65536 are allowed");
    }
}
