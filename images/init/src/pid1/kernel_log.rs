//! What the kernel said, as far as it remembers.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

/// Its lines, without what stands before each, oldest first, up to so many bytes of the end.
pub(super) fn read(bytes_max: usize) -> String {
    let mut text = String::new();
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let Ok(mut log) = opened else { return text };
    // One record a read (Documentation/ABI/testing/dev-kmsg).
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(count) => {
                text.push_str(message(&String::from_utf8_lossy(&record[..count])));
                text.push('\n');
            }
            // A record that was overwritten while we read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(_end) => break,
        }
    }
    let start = text.len().saturating_sub(bytes_max);
    text.get(start..).map(str::to_owned).unwrap_or(text)
}

/// The message of a record: behind a semicolon, up to the line end; lines with a blank before them are properties.
fn message(record: &str) -> &str {
    let (_, message) = record.split_once(';').unwrap_or_default();
    message.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_has_one_message() {
        assert_eq!(
            message("6,339,5140900,-;ACPI: PM: (supports S0 S5)\n SUBSYSTEM=acpi\n"),
            "ACPI: PM: (supports S0 S5)"
        );
        assert_eq!(message("no record"), "");
    }
}
