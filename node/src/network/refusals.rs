//! Whom this node has turned away, and why: all of them are counted, and some are told of in the log.

use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus::{IntCounterVec, Opts};

use crate::limits::REFUSAL_LOG_INTERVAL;

/// Why somebody is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It wants to speak as a member.
    NotAMember,
    /// It wants to join, and does not know the cluster's secret.
    WrongSecret,
    /// It does not remember what was seen of it.
    PutBack,
    /// More than may ask at once.
    Busy,
    /// It wants to join, and says nothing that can be read, or not in time.
    Garbled,
    /// A client over QUIC that has not shown a token in time.
    NoToken,
    /// A client over TCP that does not come to an end with its TLS handshake.
    Handshake,
}

impl Refusal {
    const ALL: [Self; 7] = [
        Self::NotAMember,
        Self::WrongSecret,
        Self::PutBack,
        Self::Busy,
        Self::Garbled,
        Self::NoToken,
        Self::Handshake,
    ];

    /// As the metric has it.
    fn name(self) -> &'static str {
        match self {
            Self::NotAMember => "not_a_member",
            Self::WrongSecret => "wrong_secret",
            Self::PutBack => "put_back",
            Self::Busy => "busy",
            Self::Garbled => "garbled",
            Self::NoToken => "no_token",
            Self::Handshake => "handshake",
        }
    }

    /// As the log has it.
    fn words(self) -> &'static str {
        match self {
            Self::NotAMember => "its key belongs to no member",
            Self::WrongSecret => "it does not know the cluster's secret",
            Self::PutBack => "it does not remember what was seen of it",
            Self::Busy => "as many are heard already as may be at once",
            Self::Garbled => "it has not said in time what it wants, or nothing that can be read",
            Self::NoToken => "it has not shown a token in time",
            Self::Handshake => "its TLS handshake has come to nothing",
        }
    }

    /// Whether it was a node, by what it wanted.
    fn is_of_a_node(self) -> bool {
        matches!(self, Self::NotAMember | Self::WrongSecret | Self::PutBack)
    }
}

/// Who was turned away. Clones share it.
#[derive(Debug, Clone)]
pub struct Refusals {
    counts: IntCounterVec,
    /// When each was told of last, in the order of [`Refusal::ALL`].
    last_logged: Arc<Mutex<[Option<Instant>; Refusal::ALL.len()]>>,
}

impl Default for Refusals {
    fn default() -> Self {
        let options =
            Opts::new("aspen_refusals_total", "Connections that were refused since the start, and why");
        let counts = IntCounterVec::new(options, &["why"]).expect("the names are well formed");
        for refusal in Refusal::ALL {
            // It is there before the first.
            counts.with_label_values(&[refusal.name()]).reset();
        }
        Self { counts, last_logged: Arc::default() }
    }
}

impl Refusals {
    /// Counts one, and logs it unless one for the same reason was logged a moment ago.
    pub(crate) fn note(&self, refusal: Refusal, who: impl Display) {
        let counter = self.counts.with_label_values(&[refusal.name()]);
        counter.inc();
        let mut logged = self.last_logged.lock().expect("nothing panics while it holds this lock");
        let last = &mut logged[refusal as usize];
        if last.is_none_or(|last| last.elapsed() >= REFUSAL_LOG_INTERVAL) {
            *last = Some(Instant::now());
            let count = counter.get();
            tracing::warn!(%who, why = refusal.name(), count, "refused a connection: {}", refusal.words());
        }
    }

    /// How many nodes were turned away, by what they wanted.
    pub fn of_nodes(&self) -> u64 {
        let of_nodes = Refusal::ALL.into_iter().filter(|refusal| refusal.is_of_a_node());
        of_nodes.map(|refusal| self.counts.with_label_values(&[refusal.name()]).get()).sum()
    }

    /// Their counts.
    pub(crate) fn counts(&self) -> &IntCounterVec {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_nodes_apart() {
        let refusals = Refusals::default();
        for refusal in Refusal::ALL {
            refusals.clone().note(refusal, "somebody");
        }
        refusals.note(Refusal::WrongSecret, "somebody");
        assert_eq!(refusals.of_nodes(), 4);
        assert_eq!(refusals.counts().with_label_values(&["busy"]).get(), 1);
    }
}
