//! Where the node serves, and its word that it does: it says so as it would to systemd (`sd_notify(3)`).

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::thread;

use aspen_init::layout::NODE_ENDPOINT_ID;
use aspen_init::limits::NOTIFY_BYTES_MAX;

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

/// Where one start of the node gives its word, as long as this is kept: whoever stops has a word to say, too.
pub(super) struct Ear(UnixDatagram);

impl Drop for Ear {
    fn drop(&mut self) {
        // Whoever still waits for a word gets none.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Waits for the word of the node's start with this number, on a thread of its own, and sends an event when it comes.
///
/// # Errors
/// No socket or no thread can be made.
pub(super) fn watch(start: u64, path: &Path, events: SyncSender<Event>) -> io::Result<Ear> {
    // The last start's, to which nobody listens any more.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(path)?;
    let ear = Ear(socket.try_clone()?);
    let watch = move || {
        let mut message = [0; NOTIFY_BYTES_MAX];
        // Nothing comes of a socket that was shut down.
        while let Ok(bytes @ 1..) = socket.recv(&mut message) {
            if let Some(endpoint_id) = readiness(&message[..bytes]) {
                // Nobody listens: the machine is going off.
                let _ = events.send(Event::Serves { start, endpoint_id });
                return;
            }
        }
    };
    thread::Builder::new().name("ready".to_owned()).spawn(watch)?;
    Ok(ear)
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
    use std::sync::mpsc::{RecvTimeoutError, sync_channel};
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
        let last = watch(2, &socket, sender.clone()).unwrap();
        let ear = watch(3, &socket, sender).unwrap();
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
        // It may say more as long as somebody could listen.
        node.send_to(b"STOPPING=1", &socket).unwrap();
        drop((last, ear));
        let ended = events.recv_timeout(Duration::from_secs(20)).unwrap_err();
        assert_eq!(ended, RecvTimeoutError::Disconnected, "nobody waits for the last start's word any more");
        assert!(node.send_to(b"STOPPING=1", &socket).is_err());
        assert_eq!(readiness(b"READY=1"), Some(String::new()));
    }
}
