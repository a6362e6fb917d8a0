//! Keeps the frames of a link in their order on hosts with several processors.
//!
//! A frame that arrives at one end of a veth pair is taken by the processor on which its sender runs, and a sender that moves
//! to another one has its next frame taken there, perhaps before. If one processor takes all frames of an interface (receive
//! packet steering, `Documentation/networking/scaling.rst`), they stay in order. That is for root alone: elsewhere a frame may
//! overtake another, rarely, by some microseconds.

use std::fs;
use std::io;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Lets one processor take all frames of these interfaces of the calling thread's network namespace, each one of its own as
/// far as there are enough. The thread must do nothing else afterwards: it gets a mount namespace of its own. Whether it was
/// allowed.
pub(super) fn to_one_processor_each(interfaces: &[(String, u16)]) -> bool {
    steer(interfaces).is_ok()
}

fn steer(interfaces: &[(String, u16)]) -> io::Result<()> {
    let processors = processors(&fs::read_to_string("/sys/devices/system/cpu/online")?);
    if processors.len() < 2 {
        return Ok(());
    }
    // A sysfs shows the network namespace in which it was mounted.
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), nothing)?;
    for (name, number) in interfaces {
        let processor = processors[usize::from(*number) % processors.len()];
        fs::write(format!("/sys/class/net/{name}/queues/rx-0/rps_cpus"), mask(processor))?;
    }
    Ok(())
}

/// Reads a list such as `0-3,8`.
fn processors(text: &str) -> Vec<u32> {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some(number(first)?..=number(last)?),
        None => number(part).map(|only| only..=only),
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// The set of one processor, as sysfs has it: hexadecimal, 32 of them between commas.
fn mask(processor: u32) -> String {
    let above = ",00000000".repeat(usize::try_from(processor / 32).unwrap_or_default());
    format!("{:x}{above}", 1_u32 << (processor % 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_read_and_written_as_sysfs_has_them() {
        assert_eq!(processors("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(processors("0\n"), [0]);
        assert_eq!((mask(0), mask(5)), ("1".to_owned(), "20".to_owned()));
        assert_eq!(mask(33), "2,00000000");
    }
}
