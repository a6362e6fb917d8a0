//! What happens to a running machine: signals, the power button, the node's end and its word that it serves, in one queue.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::thread;

use aspen_init::limits::READ_BYTES_MAX;
use aspen_init::report::Reason;
use aspen_init::texts::head;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Some process ended.
    ChildEnded,
    /// The machine is to go off.
    Stop(Reason),
    /// The node that was started as this one serves, and what it said of itself.
    Serves {
        /// Which start of the node.
        start: u64,
        /// Its public key; empty when it did not say.
        endpoint_id: String,
    },
}

/// Turns signals into events.
///
/// # Errors
/// No thread can be made.
pub(super) fn watch_signals(events: SyncSender<Event>) -> io::Result<()> {
    // Handlers and not a mask: a mask is inherited, and the node would never see its SIGTERM.
    let mut signals = Signals::new([SIGCHLD, SIGTERM, SIGINT])?;
    let watch = move || {
        for signal in signals.forever() {
            let event = match signal {
                SIGCHLD => Event::ChildEnded,
                // What the kernel makes of ctrl-alt-del.
                SIGINT => Event::Stop(Reason::CtrlAltDel),
                _ => Event::Stop(Reason::Signal),
            };
            if events.send(event).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map(|_runs_on| ())
}

/// Turns the power button into an event, and returns how many devices have one.
///
/// # Errors
/// No thread can be made.
pub(super) fn watch_power_button(sys: &Path, events: &SyncSender<Event>) -> io::Result<usize> {
    let devices = fs::read_dir(sys.join("class/input")).into_iter().flatten().flatten();
    let mut count = 0;
    for device in devices {
        let name = device.file_name();
        let keys = head(&device.path().join("device/capabilities/key"), READ_BYTES_MAX).unwrap_or_default();
        if !name.as_encoded_bytes().starts_with(b"event") || !has_key(&keys, KEY_POWER) {
            continue;
        }
        let Ok(device) = File::open(Path::new("/dev/input").join(&name)) else { continue };
        let events = events.clone();
        let watch = move || {
            if wait_for_press(device).is_ok() {
                // Nobody listens: the machine is going off already.
                let _ = events.send(Event::Stop(Reason::PowerButton));
            }
        };
        thread::Builder::new().name("power button".to_owned()).spawn(watch)?;
        count += 1;
    }
    Ok(count)
}

/// linux/input-event-codes.h
const KEY_POWER: u16 = 116;
const EV_KEY: u16 = 1;

/// Whether a key is among those of a device: words of 64 bits in hexadecimal digits, the highest first.
fn has_key(capabilities: &str, key: u16) -> bool {
    let word = capabilities.split_whitespace().rev().nth(usize::from(key) / 64);
    word.and_then(|word| u64::from_str_radix(word, 16).ok()).is_some_and(|word| word >> (key % 64) & 1 == 1)
}

/// Reads events until the button goes down (`struct input_event`, linux/input.h: two i64, u16 type, u16 code, i32 value).
fn wait_for_press(mut device: impl Read) -> io::Result<()> {
    let mut event = [0; 24];
    loop {
        device.read_exact(&mut event)?;
        let [kind, code] = [16, 18].map(|at| u16::from_ne_bytes([event[at], event[at + 1]]));
        let is_down = event[20..] == 1_i32.to_ne_bytes();
        if kind == EV_KEY && code == KEY_POWER && is_down {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn power_key_is_found_in_the_bitmap() {
        // A power button of ACPI, and a keyboard with and without the key.
        assert!(has_key("10000000000000 0\n", KEY_POWER));
        assert!(has_key("402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe", 1));
        assert!(!has_key("0\n", KEY_POWER));
        assert!(!has_key("", KEY_POWER));
        assert!(!has_key("fffffffffffffffe", KEY_POWER));
    }

    #[test]
    fn press_is_told_from_release_and_other_keys() {
        let event = |kind: u16, code: u16, value: i32| {
            [&[0; 16][..], &kind.to_ne_bytes(), &code.to_ne_bytes(), &value.to_ne_bytes()].concat()
        };
        let others = [event(EV_KEY, KEY_POWER, 0), event(EV_KEY, 30, 1), event(0, 0, 0)].concat();
        assert!(wait_for_press(others.as_slice()).is_err());
        assert!(wait_for_press([others, event(EV_KEY, KEY_POWER, 1)].concat().as_slice()).is_ok());
    }

    #[test]
    fn signals_become_events() {
        let (sender, events) = sync_channel(4);
        watch_signals(sender).unwrap();
        for (signal, want) in [(SIGINT, Reason::CtrlAltDel), (SIGTERM, Reason::Signal)] {
            signal_hook::low_level::raise(signal).unwrap();
            let event = events.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
            assert_eq!(event, Event::Stop(want));
        }
    }
}
