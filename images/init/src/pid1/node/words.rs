//! The last lines of a node that ended, in memory and on the data disk.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use aspen_init::limits::{LAST_WORDS_BYTES_MAX, LAST_WORDS_FILE_BYTES_MAX};
use aspen_init::texts::head;

/// The last lines, up to [`LAST_WORDS_BYTES_MAX`].
#[derive(Debug, Default)]
pub(super) struct LastWords {
    lines: VecDeque<String>,
    // Invariant: the sum of the lines' lengths, each with a line end.
    bytes: usize,
}

impl LastWords {
    /// One more line.
    pub(super) fn push(&mut self, line: &str) {
        self.bytes += line.len() + 1;
        self.lines.push_back(line.to_owned());
        while self.bytes > LAST_WORDS_BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.len() + 1;
        }
    }

    /// Puts them at the end of a file, below a line of their own, and drops the oldest of the file when it becomes too
    /// long.
    ///
    /// # Errors
    /// The file cannot be written: such as on a full disk.
    pub(super) fn append_to(&self, path: &Path, header: &str) -> io::Result<()> {
        let before = match head(path, u64::from(LAST_WORDS_FILE_BYTES_MAX)) {
            Ok(text) if text.is_empty() => text,
            Ok(text) => text + "\n",
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let text = format!("{before}{header}\n{self}");
        let most = LAST_WORDS_FILE_BYTES_MAX as usize;
        let kept = match text.len().checked_sub(most) {
            None | Some(0) => text.as_str(),
            // From the next whole line on.
            Some(over) => {
                let cut = text.as_bytes()[over..].iter().position(|byte| *byte == b'\n');
                cut.map_or("", |cut| &text[over + cut + 1..])
            }
        };
        let unfinished = path.with_extension("new");
        let mut file = File::create(&unfinished)?;
        file.write_all(kept.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    }
}

impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut words = LastWords::default();
        for number in 0..100_000 {
            words.push(&format!("line {number}"));
        }
        let text = words.to_string();
        assert!(text.len() <= LAST_WORDS_BYTES_MAX && text.len() > LAST_WORDS_BYTES_MAX / 2);
        assert!(text.ends_with("line 99999\n"), "{text}");
        words.push(&"x".repeat(LAST_WORDS_BYTES_MAX));
        assert_eq!(words.to_string(), "", "a line that does not fit leaves nothing");
    }

    #[test]
    fn file_grows_to_its_bound_and_loses_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last-words");
        let mut words = LastWords::default();
        words.push("é".repeat(1000).as_str());
        words.append_to(&path, "# first").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("# first\n{}\n", "é".repeat(1000)));
        for number in 0..100 {
            words.append_to(&path, &format!("# {number}")).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() <= LAST_WORDS_FILE_BYTES_MAX as usize, "{}", text.len());
        assert!(text.starts_with(['#', 'é']) && text.contains("# 99\n"), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
