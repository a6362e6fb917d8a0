//! `ClusterSecret`: what the nodes of a cluster know and nobody else. By it a newcomer shows that it belongs here, and a member that
//! it may be believed.
//!
//! The secret itself is forgotten as soon as it is read: what is kept are keys that were derived from it, each for one purpose.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::limits::SECRETS_MAX;
use crate::private::{self, PrivateError};
use crate::types::EndpointKey;

/// The variable that has the secret where no file does.
pub const SECRET_VARIABLE: &str = "ASPEN_SECRET";
/// Bytes of a secret; twice as many hexadecimal digits as text.
const SECRET_BYTES: usize = 32;
/// Different bytes that a secret has at least: of those that are drawn at random, fewer than one in 10^50 has so few.
const DISTINCT_BYTES_MIN: usize = 8;

/// The keys that come from a cluster's secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret {
    id: ClusterId,
    topic: [u8; 32],
    join: [u8; 32],
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterSecret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Names a cluster: 16 bytes that its secret determines and that do not tell the secret; 32 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Shows that who sends it knows the secret, on one connection and from one of its ends.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Proof([u8; 32]);

/// Who proves that it knows the secret: what one end has said is no proof from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prover {
    /// The node with this key, which wants to be let in.
    Joiner(EndpointKey),
    /// The node with this key, which is in.
    Member(EndpointKey),
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read, or others may read it, too.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// It is no secret. What it is instead is not said, since it may be nearly one.
    #[error("{place} does not hold 64 hexadecimal digits: `aspen-node secret` prints a new secret")]
    Malformed {
        /// The file or the variable.
        place: String,
    },
    /// More than a change from one to another needs.
    #[error(
        "{place} holds more than {SECRETS_MAX} secrets: the present one, and one that it is replaced with, are enough"
    )]
    TooMany {
        /// The file or the variable.
        place: String,
    },
    /// Anybody could guess it.
    #[error("the secret of {place} is no random one: `aspen-node secret` prints one that nobody can guess")]
    Guessable {
        /// The file or the variable.
        place: String,
    },
}

/// A new secret, as text.
pub fn new_secret() -> String {
    data_encoding::HEXLOWER.encode(&rand::random::<[u8; SECRET_BYTES]>())
}

/// The secrets of a cluster: a node shows by the first that it belongs there, and believes whoever knows one of them. So its nodes
/// are given another one while they run: first as their second, then as their first, and then alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSecrets {
    first: ClusterSecret,
    others: Vec<ClusterSecret>,
}

impl ClusterSecrets {
    /// Reads secrets from a file that only its owner may read.
    ///
    /// # Errors
    /// The file cannot be read, may be read by others, or holds none.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        Self::parse(private::read(path)?, &path.display().to_string())
    }

    /// The secrets of the environment, if it has any.
    ///
    /// # Errors
    /// They are none.
    pub fn from_environment() -> Result<Option<Self>, SecretError> {
        match std::env::var(SECRET_VARIABLE) {
            Ok(text) if text.is_empty() => Ok(None),
            Ok(text) => Self::parse(text, SECRET_VARIABLE).map(Some),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(SecretError::Malformed { place: SECRET_VARIABLE.to_owned() })
            }
        }
    }

    /// Takes a text with a secret on each line, which is overwritten, from a place that errors name.
    ///
    /// # Errors
    /// They are none, or too many.
    pub fn parse(text: String, place: &str) -> Result<Self, SecretError> {
        let secrets: Result<Vec<_>, _> =
            text.split_whitespace().map(|word| ClusterSecret::parse(word.to_owned(), place)).collect();
        overwrite(text.into_bytes());
        let mut others = secrets?;
        if others.len() > SECRETS_MAX as usize {
            return Err(SecretError::TooMany { place: place.to_owned() });
        }
        if others.is_empty() {
            return Err(SecretError::Malformed { place: place.to_owned() });
        }
        Ok(Self { first: others.remove(0), others })
    }

    /// The one by which this node shows that it belongs to the cluster, and by which the cluster is named.
    pub fn first(&self) -> &ClusterSecret {
        &self.first
    }

    /// All of them, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = &ClusterSecret> {
        [&self.first].into_iter().chain(&self.others)
    }

    /// The one by which a proof was made, if it was made by one of them.
    pub fn proven(&self, proof: &Proof, prover: Prover, session: &[u8; 32]) -> Option<&ClusterSecret> {
        self.iter().find(|secret| secret.accepts(proof, prover, session))
    }
}

impl ClusterSecret {
    /// Takes a text, which is overwritten, from a place that errors name.
    ///
    /// # Errors
    /// It is no secret.
    pub fn parse(text: String, place: &str) -> Result<Self, SecretError> {
        let decoded = data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok();
        overwrite(text.into_bytes());
        let malformed = || SecretError::Malformed { place: place.to_owned() };
        let secret = decoded.filter(|secret| secret.len() == SECRET_BYTES).ok_or_else(malformed)?;
        let distinct = secret.iter().collect::<std::collections::BTreeSet<_>>().len();
        if distinct < DISTINCT_BYTES_MIN {
            return Err(SecretError::Guessable { place: place.to_owned() });
        }
        let named = blake3::derive_key("aspen 2026-11-29 cluster id", &secret);
        let keys = Self {
            id: ClusterId(std::array::from_fn(|place| named[place])),
            topic: blake3::derive_key("aspen 2026-11-29 gossip topic", &secret),
            join: blake3::derive_key("aspen 2026-11-29 proof of a join", &secret),
        };
        overwrite(secret);
        Ok(keys)
    }

    /// The cluster's name.
    pub fn cluster_id(&self) -> ClusterId {
        self.id
    }

    /// Under which name the cluster's nodes gossip.
    pub fn topic(&self) -> [u8; 32] {
        self.topic
    }

    /// Proves on a connection that this secret is known. `session` are bytes that only this connection has (RFC 5705): the proof
    /// is worth nothing on any other.
    pub fn prove(&self, prover: Prover, session: &[u8; 32]) -> Proof {
        Proof(*self.mac(prover, session).as_bytes())
    }

    /// Whether a proof is one.
    pub fn accepts(&self, proof: &Proof, prover: Prover, session: &[u8; 32]) -> bool {
        // Takes the same time whatever differs.
        self.mac(prover, session) == blake3::Hash::from_bytes(proof.0)
    }

    fn mac(&self, prover: Prover, session: &[u8; 32]) -> blake3::Hash {
        let (role, key) = match prover {
            Prover::Joiner(key) => (b'j', key),
            Prover::Member(key) => (b'm', key),
        };
        let mut hasher = blake3::Hasher::new_keyed(&self.join);
        hasher.update(&[role]).update(&key.0).update(session);
        hasher.finalize()
    }
}

/// Leaves nothing of a secret in memory that is given back.
fn overwrite(mut bytes: Vec<u8>) {
    bytes.fill(0);
    // A write that nobody reads may be left out otherwise.
    std::hint::black_box(&bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn secret(text: &str) -> Result<ClusterSecret, SecretError> {
        ClusterSecret::parse(text.to_owned(), "s")
    }

    #[track_caller]
    fn check(text: &str, want: &str) {
        assert_eq!(secret(text).unwrap_err().to_string(), want);
    }

    #[test]
    fn what_anybody_could_guess_is_refused() {
        let malformed = "s does not hold 64 hexadecimal digits: `aspen-node secret` prints a new secret";
        check("aspen", malformed);
        check("", malformed);
        check(&TEXT[2..], malformed);
        let guessable =
            "the secret of s is no random one: `aspen-node secret` prints one that nobody can guess";
        check(&"00".repeat(32), guessable);
        check(&"deadbeef".repeat(8), guessable);
        assert_eq!(secret(&format!("{}\n", TEXT.to_uppercase())).unwrap(), secret(TEXT).unwrap());
        secret(&new_secret()).unwrap();
    }

    #[test]
    fn proof_counts_on_its_connection_from_its_end_and_with_its_secret_only() {
        let (secret, other) = (secret(TEXT).unwrap(), secret(&new_secret()).unwrap());
        let [joiner, member] = [1, 2].map(|byte| EndpointKey([byte; 32]));
        let proof = secret.prove(Prover::Joiner(joiner), &[7; 32]);
        assert!(secret.accepts(&proof, Prover::Joiner(joiner), &[7; 32]));
        assert!(!secret.accepts(&proof, Prover::Joiner(joiner), &[8; 32]));
        assert!(!secret.accepts(&proof, Prover::Joiner(member), &[7; 32]));
        assert!(!secret.accepts(&proof, Prover::Member(joiner), &[7; 32]));
        assert!(!other.accepts(&proof, Prover::Joiner(joiner), &[7; 32]));
        assert_ne!(secret.cluster_id(), other.cluster_id());
        assert_ne!(secret.topic(), other.topic());
    }

    #[test]
    fn two_secrets_are_taken_and_the_first_is_shown() {
        let other = new_secret();
        let both = ClusterSecrets::parse(format!("{TEXT}\n{other}\n"), "s").unwrap();
        let (one, two) = (secret(TEXT).unwrap(), secret(&other).unwrap());
        assert!(*both.first() == one && both.iter().eq([&one, &two]));
        let joiner = Prover::Joiner(EndpointKey([1; 32]));
        for known in [&one, &two] {
            assert_eq!(both.proven(&known.prove(joiner, &[7; 32]), joiner, &[7; 32]), Some(known));
        }
        let stranger = secret(&new_secret()).unwrap().prove(joiner, &[7; 32]);
        assert_eq!(both.proven(&stranger, joiner, &[7; 32]), None);
        let text = |text: String| ClusterSecrets::parse(text, "s").unwrap_err().to_string();
        assert!(text(format!("{TEXT} {other} {TEXT}")).starts_with("s holds more than 2 secrets"));
        assert!(text(format!("{TEXT}\nx")).starts_with("s does not hold 64 hexadecimal digits"));
        assert!(text("\n".to_owned()).starts_with("s does not hold 64 hexadecimal digits"));
    }

    #[test]
    fn secret_is_not_in_what_is_printed() {
        let text = format!("{:?}", secret(TEXT).unwrap());
        assert!(!text.contains("0001") && text.starts_with("ClusterSecret { id: "), "{text}");
    }
}
