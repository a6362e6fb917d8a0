//! The smallest HTTP client that can talk to a node: one request a connection. It shares no code with the lab's own
//! client, so that the two cannot be wrong together.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longer than any operation of a node may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a header, by its name in small letters.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(there, _)| there.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// The body, where it has to be JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a request of bytes and returns what came back.
pub(crate) fn raw(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let length = body.len();
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\ncontent-length: {length}\r\n"
    );
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    // A body that is refused may be refused before all of it is sent.
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .or_else(|error| if answer.is_empty() { sent.and(Err(error)) } else { Ok(0) })?;
    parse(&answer).ok_or_else(|| io::Error::other(format!("no HTTP answer: {}", answer.escape_ascii())))
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = String::from_utf8(answer[..end].to_vec()).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Answer { status, head, body: answer[end + 4..].to_vec() })
}

/// Sends a request and returns status and body, which has to be JSON.
pub(crate) fn request(to: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<(u16, Value)> {
    let answer = raw(to, method, path, &[], body.as_bytes())?;
    let body =
        serde_json::from_slice(&answer.body).map_err(|_| io::Error::other(format!("no JSON: {answer:?}")))?;
    Ok((answer.status, body))
}

pub(crate) fn get(to: SocketAddr, path: &str) -> io::Result<(u16, Value)> {
    request(to, "GET", path, "")
}

pub(crate) fn post(to: SocketAddr, path: &str, body: &Value) -> io::Result<(u16, Value)> {
    request(to, "POST", path, &body.to_string())
}
