//! Server-sent events as they come
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>).

use std::net::SocketAddr;

use super::{ClientError, HttpAnswer, HttpParts};
use crate::limits::RESPONSE_BYTES_MAX;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerEvent {
    /// What kind of event it is.
    pub event: String,
    /// The last id that was given, with this event or an earlier one.
    pub id: String,
    /// Its data, lines joined.
    pub data: String,
}

/// The events of one request, until they end.
#[derive(Debug)]
pub struct EventStream {
    parts: HttpParts,
    parser: EventParser,
}

/// What a request for events ends in.
#[derive(Debug)]
pub enum EventAnswer {
    /// Events.
    Events(Box<EventStream>),
    /// Another answer.
    Other(HttpAnswer),
}

impl EventStream {
    pub(super) fn new(parts: HttpParts) -> Self {
        Self { parts, parser: EventParser::default() }
    }

    /// The node that sends them.
    pub fn address(&self) -> SocketAddr {
        self.parts.address()
    }

    /// The next event; `None`: there are no more.
    ///
    /// # Errors
    /// [`ClientError::Lost`] where the connection breaks, or nothing has come for so long that it may be dead.
    pub async fn next(&mut self) -> Result<Option<ServerEvent>, ClientError> {
        loop {
            if let Some(event) = self.parser.next() {
                return Ok(Some(event));
            }
            if self.parser.untaken() > RESPONSE_BYTES_MAX {
                return Err(self.parts.connection.lost(&"an event is too long"));
            }
            match self.parts.next().await? {
                Some(bytes) => self.parser.feed(&bytes),
                None => return Ok(None),
            }
        }
    }
}

/// The events in a body that has come as a whole.
pub fn events_in(body: &[u8]) -> Vec<ServerEvent> {
    let mut parser = EventParser::default();
    parser.feed(body);
    std::iter::from_fn(|| parser.next()).collect()
}

/// Bytes in, events out.
#[derive(Debug, Default)]
struct EventParser {
    /// What is not a whole line yet begins at `taken`.
    bytes: Vec<u8>,
    taken: usize,
    /// The event under way.
    event: ServerEvent,
    has_data: bool,
}

impl EventParser {
    fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    fn untaken(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// The next event that is whole.
    fn next(&mut self) -> Option<ServerEvent> {
        loop {
            let rest = &self.bytes[self.taken..];
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            self.taken += end + 1;
            if let Some(event) = self.line(line.strip_suffix('\r').unwrap_or(&line)) {
                return Some(event);
            }
        }
    }

    /// Takes a line; an empty one ends an event.
    fn line(&mut self, line: &str) -> Option<ServerEvent> {
        if line.is_empty() {
            let id = self.event.id.clone();
            let event = std::mem::replace(&mut self.event, ServerEvent { id, ..ServerEvent::default() });
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.event.event),
            "id" => value.clone_into(&mut self.event.id),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // A comment, or something of a later standard.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let text = b": hello\r\nevent: change\nid: 7\ndata: {\"a\":\ndata:1}\n\nid: 8\n\ndata\n\ndata: x";
        let event = |event: &str, id: &str, data: &str| ServerEvent {
            event: event.into(),
            id: id.into(),
            data: data.into(),
        };
        // An id without data is none, but counts for what follows; the last one is not whole.
        let want = [event("change", "7", "{\"a\":\n1}"), event("", "8", "")];
        for size in 1..=text.len() {
            let mut parser = EventParser::default();
            let mut got = Vec::new();
            for part in text.chunks(size) {
                parser.feed(part);
                got.extend(std::iter::from_fn(|| parser.next()));
            }
            assert_eq!(got, want, "in parts of {size}");
        }
    }
}
