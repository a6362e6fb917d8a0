//! Continuation tokens: the last key of a page with a check in front, so that a damaged one is refused.

use crate::api::BadRequest;
use crate::types::Key;

/// Bytes of the check.
const CHECK_BYTES: usize = 4;

/// The token of a page that ends with `key`.
pub(super) fn seal(key: &Key) -> String {
    let check = blake3::hash(&key.0);
    let sealed = [&check.as_bytes()[..CHECK_BYTES], &key.0].concat();
    data_encoding::BASE64URL_NOPAD.encode(&sealed)
}

/// The key that a token holds.
pub(super) fn open(token: &str) -> Result<Key, BadRequest> {
    let sealed =
        data_encoding::BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| BadRequest::ContinuationToken)?;
    let (check, key) = sealed.split_at_checked(CHECK_BYTES).ok_or(BadRequest::ContinuationToken)?;
    let is_intact = blake3::hash(key).as_bytes().starts_with(check);
    if is_intact { Ok(Key(key.to_vec())) } else { Err(BadRequest::ContinuationToken) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_token_is_refused() {
        let key = Key::from("🦀");
        let token = seal(&key);
        assert_eq!(open(&token), Ok(key));
        assert_eq!(open(&token[1..]), Err(BadRequest::ContinuationToken));
        assert_eq!(open(""), Err(BadRequest::ContinuationToken));
    }
}
