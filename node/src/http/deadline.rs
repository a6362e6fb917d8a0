//! `Aspen-Timeout-Ms`: how long a client waits, where that is less than every operation may take.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use super::error::Refusal;
use super::malformed;
use crate::api::{ApiError, TimeoutOutcome};

/// Milliseconds, 1 and up.
const TIMEOUT_MS: HeaderName = HeaderName::from_static("aspen-timeout-ms");

/// Answers in time, if the client says what that is.
pub(super) async fn bounded(request: Request, next: Next) -> Response {
    let within_ms = match asked(request.headers()) {
        Ok(None) => return next.run(request).await,
        Ok(Some(within_ms)) => within_ms,
        Err(error) => return Refusal::from(error).into_response(),
    };
    let outcome = left_open(request.method(), request.uri().path());
    let answered = timeout(Duration::from_millis(within_ms), next.run(request)).await;
    answered.unwrap_or_else(|_| Refusal::from(ApiError::Timeout { within_ms, outcome }).into_response())
}

fn asked(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(TIMEOUT_MS) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| text.parse().ok()).filter(|within_ms| *within_ms > 0);
    parsed.map(Some).ok_or_else(|| {
        malformed(format!("{TIMEOUT_MS} is {value:?}, a whole number of milliseconds from 1 on is allowed"))
    })
}

/// What a request leaves open that is given up.
fn left_open(method: &Method, path: &str) -> TimeoutOutcome {
    if method == Method::GET || matches!(path, "/kv/read" | "/kv/scan") {
        TimeoutOutcome::NothingWritten
    } else if path.starts_with("/cluster/") {
        TimeoutOutcome::GoesOn
    } else {
        TimeoutOutcome::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_leave_nothing_open_and_writes_do() {
        assert_eq!(left_open(&Method::GET, "/kv/key/a"), TimeoutOutcome::NothingWritten);
        assert_eq!(left_open(&Method::POST, "/kv/scan"), TimeoutOutcome::NothingWritten);
        assert_eq!(left_open(&Method::PUT, "/kv/key/a"), TimeoutOutcome::Unknown);
        assert_eq!(left_open(&Method::POST, "/kv/write"), TimeoutOutcome::Unknown);
        assert_eq!(left_open(&Method::POST, "/cluster/snapshot"), TimeoutOutcome::GoesOn);
    }
}
