//! Why a configuration is refused.

use super::{INTERFACE_KEYS, KEYS, Place};
use crate::limits::{INTERFACES_MAX, NODE_FLAGS_MAX, VALUE_BYTES_MAX};

/// Why a configuration is refused. Each fits one line of a console.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file that is no TOML.
    #[error("{place}: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser says.
        message: String,
    },
    /// A value that is neither a text, a number, a truth nor a list of them.
    #[error("{place}: {key} is {found}, a text, a number, true, false or a list of them is allowed")]
    Type {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// What it is.
        found: &'static str,
    },
    /// A key that does not exist.
    #[error("{place}: there is no key `{key}`: {}, {} of net2 to net{INTERFACES_MAX}, and node.FLAG for each flag of the node, are known", KEYS.join(", "), INTERFACE_KEYS.join(", "))]
    UnknownKey {
        /// Where.
        place: Place,
        /// The key.
        key: String,
    },
    /// A word that begins as a key does and has no value.
    #[error("{place}: `{word}` has no value: write aspen.KEY=VALUE")]
    NoValue {
        /// Where.
        place: Place,
        /// The word.
        word: String,
    },
    /// A key that one source gives twice.
    #[error("{place}: {key} is given twice")]
    Twice {
        /// Where.
        place: Place,
        /// The key.
        key: String,
    },
    /// A secret.
    #[error(
        "{place}: {key} is refused, no key holds a secret: the only one is the node's, in the file secret.key on the config disk"
    )]
    Secret {
        /// Where.
        place: Place,
        /// The key.
        key: String,
    },
    /// A flag that the appliance gives the node itself.
    #[error("{place}: {key} is refused: the appliance sets it itself")]
    Taken {
        /// Where.
        place: Place,
        /// The key.
        key: String,
    },
    /// Several values where one is needed.
    #[error("{place}: {key} has {count} values, 1 is allowed")]
    Count {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// How many.
        count: usize,
    },
    /// Too many values, or none.
    #[error("{place}: {key} has {count} values, 1 to {max} are allowed")]
    ListCount {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// How many.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// A value that is too long.
    #[error("{place}: {key} has {bytes} bytes, at most {VALUE_BYTES_MAX} are allowed")]
    Long {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// How long it is.
        bytes: usize,
    },
    /// A value that is not what it should be.
    #[error("{place}: {key} is `{value}`: {reason}")]
    Value {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two gateways of one family.
    #[error("{place}: gateway has two addresses of one family, one IPv4 and one IPv6 address are allowed")]
    Gateways {
        /// Where.
        place: Place,
    },
    /// A further interface without a hardware address.
    #[error("interface {number} has no mac, by which its card is known: set net{number}.mac")]
    Nameless {
        /// From 2.
        number: usize,
    },
    /// A further interface that is another one.
    #[error("net{number}.mac is the address of another interface: each has a card of its own")]
    Twin {
        /// From 2.
        number: usize,
    },
    /// Too many flags.
    #[error("{0} flags for the node, at most {NODE_FLAGS_MAX} are allowed: use node.toml")]
    FlagCount(usize),
}
