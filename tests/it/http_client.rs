//! The smallest HTTP client that can talk to a node: one request a connection. It shares no code with the lab's own
//! client, so that the two cannot be wrong together.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longer than any operation of a node may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Sends a request and returns status and body.
pub(crate) fn request(to: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<(u16, Value)> {
    let mut stream = TcpStream::connect_timeout(&to, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    // A body that is refused may be refused before all of it is sent.
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::other(format!("no HTTP answer: {answer:?}")))
}

fn parse(answer: &str) -> Option<(u16, Value)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}

pub(crate) fn get(to: SocketAddr, path: &str) -> io::Result<(u16, Value)> {
    request(to, "GET", path, "")
}

pub(crate) fn post(to: SocketAddr, path: &str, body: &Value) -> io::Result<(u16, Value)> {
    request(to, "POST", path, &body.to_string())
}
