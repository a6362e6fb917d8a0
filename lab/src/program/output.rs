//! The end of what a program wrote, never more than fits a report.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::limits::TAIL_BYTES_MAX;

/// The last [`TAIL_BYTES_MAX`] bytes of a file, from the beginning of a line where there is one.
///
/// # Errors
/// It cannot be read.
pub fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    let start = bytes.saturating_sub(TAIL_BYTES_MAX as u64);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(TAIL_BYTES_MAX as u64).read_to_end(&mut end)?;
    Ok(from_line_start(&end, start > 0))
}

/// Reads to the end, keeping the last `bytes_max` bytes.
pub(super) fn read_end(pipe: Option<impl Read>, bytes_max: usize) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let mut kept = Vec::new();
    let mut is_cut = false;
    let mut chunk = [0; 4096];
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => break,
            Ok(bytes) => kept.extend_from_slice(&chunk[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_closed) => break,
        }
        if kept.len() > bytes_max {
            kept.drain(..kept.len() - bytes_max);
            is_cut = true;
        }
    }
    from_line_start(&kept, is_cut)
}

fn from_line_start(bytes: &[u8], is_cut: bool) -> String {
    let first_line = bytes.iter().position(|byte| *byte == b'\n').filter(|_| is_cut);
    let from = first_line.map_or(0, |newline| newline + 1);
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}
