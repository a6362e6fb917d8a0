//! Tickets, as somebody pastes them.

use aspen_node::cluster::ticket::AspenClusterTicket;
use data_encoding::BASE32_NOPAD_NOCASE;

/// What every ticket of this version begins with.
const HEAD: &str = "aspen1";

/// Reads an input as a ticket, and as what stands in one: nobody guesses the checksum.
pub fn run(input: &[u8]) -> bool {
    let text = std::str::from_utf8(input);
    text.is_ok_and(again) || again(&sealed(input))
}

/// What parses prints, and parses to the same.
fn again(text: &str) -> bool {
    let Ok(ticket) = text.parse::<AspenClusterTicket>() else { return false };
    assert_eq!(ticket.to_string().parse(), Ok(ticket));
    true
}

/// A content as a ticket.
fn sealed(content: &[u8]) -> String {
    let sum = blake3::hash(&[HEAD.as_bytes(), content].concat());
    let bytes = [content, &sum.as_bytes()[..4]].concat();
    format!("{HEAD}{}", BASE32_NOPAD_NOCASE.encode(&bytes))
}
