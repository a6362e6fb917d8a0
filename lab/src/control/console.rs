//! `lab console`: the end of what a node has printed, and on demand what it goes on to print.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::client::{ClientError, find};
use super::protocol::NodeStatus;
use crate::cli::ConsoleArgs;
use crate::limits::control::{CONSOLE_END_BYTES_MAX, CONSOLE_LOOK_INTERVAL};
use crate::limits::machines::CONSOLE_READ_BYTES;

/// Shows a console; the exit code.
///
/// # Errors
/// No lab, no such node, or a console that cannot be read.
pub(super) fn show(args: &ConsoleArgs, out: &mut impl Write) -> Result<u8, ClientError> {
    let mut lab = find(args.which.lab.as_deref())?;
    let status = lab.status()?;
    let is_meant = |node: &&NodeStatus| node.name == args.node;
    let Some(node) = status.nodes.iter().find(is_meant) else {
        let names: Vec<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
        return Err(ClientError::NoNode { node: args.node.clone(), known: names.join(", ") });
    };
    let failed = |source| ClientError::Console { path: node.console.clone(), source };
    let mut file = File::open(&node.console).map_err(failed)?;
    if seek_end(&mut file, args.lines).map_err(failed)? {
        tell_the_rest(&node.console);
    }
    loop {
        // Whether the lab has ended is asked first, so that its last words are read after that.
        let is_last = !args.follow || lab.has_ended(CONSOLE_LOOK_INTERVAL);
        if !copy(&mut file, out).map_err(failed)? || is_last {
            return Ok(0);
        }
    }
}

/// A terminal that is closed cannot be told anything.
fn tell_the_rest(path: &Path) {
    let _ = writeln!(io::stderr(), "this is the end of it; the whole is in {}", path.display());
}

/// Goes to where the last lines begin, as far as the bound allows; whether there is something before that.
fn seek_end(file: &mut File, lines_count: u32) -> io::Result<bool> {
    let end = file.seek(SeekFrom::End(0))?;
    let (mut place, mut newlines_left) = (end, u64::from(lines_count));
    let mut bytes = vec![0; CONSOLE_READ_BYTES];
    while place > 0 && end - place < CONSOLE_END_BYTES_MAX {
        let length = place.min(CONSOLE_READ_BYTES as u64);
        let block = &mut bytes[..usize::try_from(length).expect("at most CONSOLE_READ_BYTES")];
        file.seek(SeekFrom::Start(place - length))?;
        file.read_exact(block)?;
        for (position, byte) in block.iter().enumerate().rev() {
            let after = place - length + position as u64 + 1;
            // The one at the very end is that of the last line.
            if *byte != b'\n' || after == end {
                continue;
            }
            newlines_left -= 1;
            if newlines_left == 0 {
                file.seek(SeekFrom::Start(after))?;
                return Ok(true);
            }
        }
        place -= length;
    }
    file.seek(SeekFrom::Start(place))?;
    Ok(place > 0)
}

/// Copies to the end of the file, a block at a time; false when nobody reads on, since a closed pipe is the end of it.
fn copy(file: &mut File, out: &mut impl Write) -> io::Result<bool> {
    let mut bytes = vec![0; CONSOLE_READ_BYTES];
    loop {
        let length = file.read(&mut bytes)?;
        if length == 0 {
            return Ok(out.flush().is_ok());
        }
        if out.write_all(&bytes[..length]).is_err() {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, lines_count: u32, want: &str, is_more: bool) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let found = seek_end(&mut file, lines_count).unwrap();
        let mut shown = Vec::new();
        assert!(copy(&mut file, &mut shown).unwrap());
        assert_eq!((String::from_utf8(shown).unwrap().as_str(), found), (want, is_more));
    }

    #[test]
    fn last_lines_are_shown_whether_the_last_one_is_whole_or_not() {
        check("", 3, "", false);
        check("one\ntwo\n", 3, "one\ntwo\n", false);
        check("one\ntwo\nthree\n", 2, "two\nthree\n", true);
        check("one\ntwo\nthr", 2, "two\nthr", true);
        check("one\n\n\n", 2, "\n\n", true);
        // Lines that lie across the blocks in which it is read.
        let long = "x".repeat(CONSOLE_READ_BYTES - 1);
        check(&format!("{long}\n{long}\n{long}\n"), 2, &format!("{long}\n{long}\n"), true);
    }

    #[test]
    fn console_without_an_end_of_line_is_shown_as_far_as_the_bound() {
        let bound = usize::try_from(CONSOLE_END_BYTES_MAX).unwrap();
        let long = "x".repeat(bound + 2 * CONSOLE_READ_BYTES);
        check(&long, 1, &long[..bound], true);
    }
}
