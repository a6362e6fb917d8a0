//! Waits until the node's HTTP interface answers, whatever it answers.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread;

use aspen_init::limits::{HTTP_ANSWER_BYTES_MAX, HTTP_TIMEOUT, READY_LOOK_INTERVAL};

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

/// Asks until the node answers or is cancelled, on a thread of its own, and then sends an event.
///
/// # Errors
/// No thread can be made.
pub(super) fn watch(
    start: u64,
    http: SocketAddr,
    is_cancelled: Arc<AtomicBool>,
    events: SyncSender<Event>,
) -> io::Result<()> {
    let http = match http.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, http.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, http.port()).into(),
        _ => http,
    };
    let watch = move || {
        while !is_cancelled.load(Ordering::Relaxed) {
            if get(http, "/health").is_ok() {
                let endpoint_id = get(http, "/cluster/status").ok().and_then(|body| endpoint_id(&body));
                // Nobody listens: the machine is going off.
                let _ = events.send(Event::Answered { start, endpoint_id: endpoint_id.unwrap_or_default() });
                return;
            }
            thread::sleep(READY_LOOK_INTERVAL);
        }
    };
    thread::Builder::new().name("ready".to_owned()).spawn(watch).map(|_ends_by_itself| ())
}

fn endpoint_id(body: &str) -> Option<String> {
    let status: serde_json::Value = serde_json::from_str(body).ok()?;
    status.get("endpoint_id")?.as_str().map(str::to_owned)
}

/// The body of an answer, whatever its status.
fn get(http: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&http, HTTP_TIMEOUT)?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
    stream.set_write_timeout(Some(HTTP_TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(HTTP_ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    if head.starts_with("HTTP/1.") { Ok(body.to_owned()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
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

    /// Answers requests with these, one after the other.
    fn server(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    #[test]
    fn any_answer_is_one_and_nonsense_is_none() {
        let address = server(&[
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 503 Service Unavailable\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\n\r\n{\"endpoint_id\":\"ab\"}",
        ]);
        let (sender, events) = sync_channel(1);
        watch(3, address, Arc::default(), sender).unwrap();
        let event = events.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(event, Event::Answered { start: 3, endpoint_id: "ab".to_owned() });
    }
}
