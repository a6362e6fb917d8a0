//! Small texts of the kernel's file systems, read with a bound.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The beginning of a text, without the line end behind it.
///
/// # Errors
/// It cannot be read.
pub fn head(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// The words of a text.
pub fn listed(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// An error and its causes on one line, since every line of a console stands for itself.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_joined_on_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read it")]
        struct Outer(#[source] io::Error);
        assert_eq!(with_causes(&Outer(io::Error::other("a\nb"))), "cannot read it: a b");
    }

    #[test]
    fn text_is_read_to_its_bound() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "7 4 1\n").unwrap();
        assert_eq!(head(file.path(), 100).unwrap(), "7 4 1");
        assert_eq!(listed(&head(file.path(), 3).unwrap()), ["7", "4"]);
    }
}
