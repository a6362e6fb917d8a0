//! What errors are: texts for people, and one cause that has an exit code of its own.

use std::error::Error;
use std::io;

use aspen_node::storage::space::is_disk_full;

/// An error and its causes, each on a line of its own.
pub fn causes(error: &dyn Error) -> String {
    [vec![error.to_string()], aspen_node::causes::causes(error)].concat().join("\nbecause: ")
}

/// Whether a file system or a quota has no room: the host lacks something, whatever was to be written.
pub fn lacks_room(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(is_disk_full) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::program::ProgramError;

    #[test]
    fn full_disk_is_known_below_what_was_to_be_written() {
        let of = |errno: Errno| ProgramError::File { path: "/full/log".into(), source: errno.into() };
        assert!(lacks_room(&of(Errno::ENOSPC)) && lacks_room(&of(Errno::EDQUOT)));
        assert!(!lacks_room(&of(Errno::EACCES)));
    }
}
