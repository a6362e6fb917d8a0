//! Who may ask what: bearer tokens (RFC 6750). Without a token everybody may ask everything.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::HttpState;
use super::browser::{Local, led_astray};
use super::error::Refusal;
use crate::network::iroh::Standing;
use crate::private::BearerToken;

/// The tokens of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Tokens {
    /// Whoever has it may do everything; absent: everybody may.
    pub(super) full: Option<BearerToken>,
    /// Whoever has it may read.
    pub(super) read: Option<BearerToken>,
}

/// What a header allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    Nothing,
    Read,
    Everything,
}

impl Tokens {
    fn right(&self, header: Option<&HeaderValue>) -> Right {
        let Some(full) = &self.full else { return Right::Everything };
        let said = header.map(HeaderValue::as_bytes).unwrap_or_default();
        // Each that is set is looked at in any case, so that the time tells nothing.
        let (is_full, is_read) =
            (full.is_said_in(said), self.read.as_ref().is_some_and(|read| read.is_said_in(said)));
        match (is_full, is_read) {
            (true, _) => Right::Everything,
            (false, true) => Right::Read,
            (false, false) => Right::Nothing,
        }
    }
}

/// Lets a request through whose token allows it. Whether the node is alive everybody may ask.
pub(super) async fn checked(State(state): State<HttpState>, request: Request, next: Next) -> Response {
    let needed = needed(request.method(), request.uri().path());
    let (right, is_open) = {
        let credentials = state.credentials.borrow();
        let tokens = &credentials.tokens;
        (tokens.right(request.headers().get(header::AUTHORIZATION)), tokens.full.is_none())
    };
    let local = request.extensions().get::<Local>().copied();
    if is_open && let Some(text) = led_astray(request.headers(), local) {
        return Refusal::new(StatusCode::FORBIDDEN, "cross_site", text).into_response();
    }
    if right >= needed {
        let standing = request.extensions().get::<Standing>().filter(|_| right > Right::Nothing);
        if standing.is_some_and(|standing| !standing.settle()) {
            // Its connection was closed, which says why.
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        return next.run(request).await;
    }
    if right == Right::Read {
        let text = "this token is for reading only";
        return Refusal::new(StatusCode::FORBIDDEN, "forbidden", text).into_response();
    }
    let text = if request.headers().contains_key(header::AUTHORIZATION) {
        "the token that was shown is none of this node's: show one that is in its http_token_file or http_read_token_file"
    } else {
        "a token is needed: `aspen` shows that of --token-file, others send it as `Authorization: Bearer …`"
    };
    let mut response = Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", text).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn needed(method: &Method, path: &str) -> Right {
    match (method, path) {
        (_, "/health") => Right::Nothing,
        // It makes a snapshot, and has what was deleted a moment ago in its pages.
        (_, "/cluster/backup") => Right::Everything,
        (&Method::GET | &Method::HEAD, _) | (_, "/kv/read" | "/kv/scan") => Right::Read,
        _ => Right::Everything,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_change_something_needs_the_full_token() {
        assert_eq!(needed(&Method::GET, "/health"), Right::Nothing);
        assert_eq!(needed(&Method::GET, "/kv/key/a"), Right::Read);
        assert_eq!(needed(&Method::POST, "/kv/scan"), Right::Read);
        for (method, path) in [
            (Method::PUT, "/kv/key/a"),
            (Method::DELETE, "/kv/key/a"),
            (Method::POST, "/kv/write"),
            (Method::POST, "/cluster/snapshot"),
            (Method::GET, "/cluster/backup"),
            (Method::POST, "/kv/read/"),
        ] {
            assert_eq!(needed(&method, path), Right::Everything, "{method} {path}");
        }
    }
}
