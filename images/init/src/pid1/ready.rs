//! Where the node serves, and its word that it does: it says so as it would to systemd (`sd_notify(3)`).

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread;

use aspen_init::layout::NODE_ENDPOINT_ID;
use aspen_init::limits::{NODE_LOOK_INTERVAL, NOTIFY_BYTES_MAX};

use super::events::Event;

/// Where the node listens: its flag, its file, or its default.
pub(super) fn http_address(flags: &[(String, String)], node_config: &str) -> SocketAddr {
    let flag = flags.iter().rev().find(|(flag, _)| flag == "http-listen").map(|(_, value)| value.clone());
    let in_file = || {
        let table: toml::Table = toml::from_str(node_config).ok()?;
        table.get("http_listen")?.as_str().map(str::to_owned)
    };
    let address = flag.or_else(in_file).and_then(|text| text.parse().ok());
    // What it makes of nonsense, the node says itself.
    address.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 8001).into())
}

/// The address by which others reach it, given those of the machine.
pub(super) fn public_address(http: SocketAddr, addresses: &[(IpAddr, u8)]) -> SocketAddr {
    let mut fitting = addresses.iter().map(|(address, _)| *address);
    match http.ip() {
        ip if !ip.is_unspecified() => http,
        // Bound to any IPv6 address it hears IPv4, too.
        ip => {
            let found = fitting.find(|address| ip.is_ipv6() || address.is_ipv4());
            found.map_or(http, |address| SocketAddr::new(address, http.port()))
        }
    }
}

/// Waits for the word of the node's start with this number, at a socket of its own, until it comes or is cancelled, on a thread of
/// its own; then it sends an event.
///
/// # Errors
/// No socket or no thread can be made.
pub(super) fn watch(
    start: u64,
    path: &Path,
    is_cancelled: Arc<AtomicBool>,
    events: SyncSender<Event>,
) -> io::Result<()> {
    // The last start's, to which nobody listens any more.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(path)?;
    socket.set_read_timeout(Some(NODE_LOOK_INTERVAL))?;
    let watch = move || {
        let mut message = [0; NOTIFY_BYTES_MAX];
        while !is_cancelled.load(Ordering::Relaxed) {
            // Mostly there was nothing within the time.
            let Ok(bytes) = socket.recv(&mut message) else { continue };
            if let Some(endpoint_id) = readiness(&message[..bytes]) {
                // Nobody listens: the machine is going off.
                let _ = events.send(Event::Serves { start, endpoint_id });
                return;
            }
        }
    };
    thread::Builder::new().name("ready".to_owned()).spawn(watch).map(|_ends_by_itself| ())
}

/// The public key of a node that says it serves; empty when it does not name it.
fn readiness(message: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(message);
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let is_ready = value("READY") == Some("1");
    is_ready.then(|| value(NODE_ENDPOINT_ID).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check_address(flags: &[(&str, &str)], file: &str, want: &str) {
        let flags: Vec<_> =
            flags.iter().map(|(flag, value)| ((*flag).to_owned(), (*value).to_owned())).collect();
        assert_eq!(http_address(&flags, file).to_string(), want);
    }

    #[test]
    fn flag_goes_before_file_and_file_before_default() {
        let file = "id = 1\nhttp_listen = '0.0.0.0:7001'\n[[peers]]\nid = 1\n";
        check_address(&[("id", "1"), ("http-listen", "10.0.0.1:1")], file, "10.0.0.1:1");
        check_address(&[("id", "1")], file, "0.0.0.0:7001");
        check_address(&[], "id = 1", "127.0.0.1:8001");
        check_address(&[], "no toml", "127.0.0.1:8001");
    }

    #[test]
    fn address_of_any_is_the_first_of_the_machine() {
        let addresses = [("fd00::1".parse().unwrap(), 64), ("10.1.2.10".parse().unwrap(), 24)];
        let public = |http: &str| public_address(http.parse().unwrap(), &addresses).to_string();
        assert_eq!(public("0.0.0.0:7001"), "10.1.2.10:7001");
        assert_eq!(public("[::]:7001"), "[fd00::1]:7001");
        assert_eq!(public("127.0.0.1:1"), "127.0.0.1:1");
    }

    #[test]
    fn word_that_it_serves_is_told_from_others() {
        let (sender, events) = sync_channel(1);
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("notify");
        let last_start = Arc::new(AtomicBool::new(true));
        watch(2, &socket, last_start, sender.clone()).unwrap();
        watch(3, &socket, Arc::default(), sender).unwrap();
        let node = UnixDatagram::unbound().unwrap();
        for word in [
            "STATUS=opening the stores",
            "READY=0",
            "X_ASPEN_ENDPOINT_ID=cd",
            "READY=1\nX_ASPEN_ENDPOINT_ID=ab\n",
        ] {
            node.send_to(word.as_bytes(), &socket).unwrap();
        }
        let event = events.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(event, Event::Serves { start: 3, endpoint_id: "ab".to_owned() });
        assert_eq!(readiness(b"READY=1"), Some(String::new()));
    }
}
