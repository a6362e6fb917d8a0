//! A file under redb that is never written: what redb writes stays in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use redb::StorageBackend;

/// Bytes of a block in memory.
const BLOCK_BYTES: u64 = 4096;

/// A file, and the blocks that were written over it.
#[derive(Debug)]
pub(crate) struct Untouched {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bytes: u64,
    written: BTreeMap<u64, Vec<u8>>,
}

impl Untouched {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Ok(Self { file, state: Mutex::new(State { bytes, written: BTreeMap::new() }) })
    }

    /// The block as the file has it; behind its end there are zeros.
    fn original(&self, block: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(BLOCK_BYTES).map_err(io::Error::other)?];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], block * BLOCK_BYTES + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(bytes)
    }

    /// Calls `visit` with each part of a range: its block, where in it, and where in the caller's bytes.
    fn parts(
        offset: u64,
        length: usize,
        mut visit: impl FnMut(u64, usize, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let within = usize::try_from(at % BLOCK_BYTES).map_err(io::Error::other)?;
            let size = usize::try_from(BLOCK_BYTES).map_err(io::Error::other)? - within;
            let end = length.min(done + size);
            visit(at / BLOCK_BYTES, within, done..end)?;
            done = end;
        }
        Ok(())
    }
}

impl StorageBackend for Untouched {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().expect("nothing panics while it holds this lock").bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock().expect("nothing panics while it holds this lock");
        Self::parts(offset, out.len(), |block, within, part| {
            let length = part.len();
            let source = match state.written.get(&block) {
                Some(bytes) => bytes.clone(),
                None => self.original(block)?,
            };
            out[part].copy_from_slice(&source[within..within + length]);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state.lock().expect("nothing panics while it holds this lock").bytes = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().expect("nothing panics while it holds this lock");
        Self::parts(offset, data.len(), |block, within, part| {
            let target = match state.written.entry(block) {
                std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
                std::collections::btree_map::Entry::Vacant(free) => free.insert(self.original(block)?),
            };
            target[within..within + part.len()].copy_from_slice(&data[part]);
            Ok(())
        })
    }
}
