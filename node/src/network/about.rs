//! What a node says of itself to the other members, as a protocol of its own: whoever connects is told, and asks for nothing.
//!
//! Where a node is stands neither in the membership, which is written to the disk of every member and travels in tickets and when nodes
//! join: it would have to be read otherwise everywhere; nor in gossip, which nodes with configured peers do without. It decides nothing
//! that must not be lost: who has not been heard is nowhere, until it is heard. And since it has a protocol of its own, a member that
//! does not know of it yet refuses that, and goes on speaking Raft.

use serde::{Deserialize, Serialize};

use crate::limits::PREFERRED_REGIONS_MAX;
use crate::types::Label;

/// Names the protocol and its version to iroh. The version goes up when [`About`] reads otherwise.
pub const ALPN: &[u8] = b"aspen/about/2";

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// In which region it is.
    pub region: Option<Label>,
    /// In which part of that.
    pub zone: Option<Label>,
    /// Where it wants the leader to be, the best first; at most [`PREFERRED_REGIONS_MAX`].
    pub preferred_regions: Vec<Label>,
}

impl About {
    /// What a peer has sent.
    ///
    /// # Errors
    /// It is nothing that a node says.
    pub fn read(bytes: &[u8]) -> Result<Self, AboutError> {
        let about: Self = postcard::from_bytes(bytes)?;
        let count = about.preferred_regions.len();
        if count > PREFERRED_REGIONS_MAX as usize { Err(AboutError::Regions(count)) } else { Ok(about) }
    }
}

/// Why what a peer has sent is nothing that a node says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AboutError {
    /// It is no such message.
    #[error("it cannot be read: {0}")]
    Malformed(#[from] postcard::Error),
    /// It wants too much.
    #[error("it prefers {0} regions, at most {PREFERRED_REGIONS_MAX} are allowed")]
    Regions(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_is_read_and_what_is_too_much_is_not() {
        let label = |text: &str| text.parse::<Label>().unwrap();
        let mut about = About {
            region: Some(label("eu")),
            zone: None,
            preferred_regions: vec![label("us"); PREFERRED_REGIONS_MAX as usize],
        };
        assert_eq!(About::read(&postcard::to_stdvec(&about).unwrap()), Ok(about.clone()));
        about.preferred_regions.push(label("eu"));
        let error = About::read(&postcard::to_stdvec(&about).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "it prefers 17 regions, at most 16 are allowed");
        assert!(About::read(b"").is_err());
    }

    /// The longest that can be said is sent whole.
    #[test]
    fn longest_answer_fits() {
        let label = || "x".repeat(crate::limits::LABEL_BYTES_MAX as usize).parse::<Label>().unwrap();
        let about = About {
            region: Some(label()),
            zone: Some(label()),
            preferred_regions: vec![label(); PREFERRED_REGIONS_MAX as usize],
        };
        assert!(postcard::to_stdvec(&about).unwrap().len() <= crate::limits::ABOUT_BYTES_MAX);
    }
}
