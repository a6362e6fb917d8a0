//! GET /kv/watch: changes as they happen, as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! One event has all changes of one revision, and that revision as its id: who connects again with the last id that it has
//! seen misses nothing, and gets nothing twice.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName};
use axum::response::sse::{Event, Sse};
use futures::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::body::{key, put_bytes, query_error, record_json};
use super::command::{Object, key_range};
use super::error::Refusal;
use super::{HttpState, malformed};
use crate::api::{ApiError, Consistency, WatchEvent, WatchRequest, check_key};
use crate::types::{Change, ChangeKind, Interest, KeyRange, Previous, Revised, Revision, VaultName};

/// The id of the last event that was seen.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WatchQuery {
    vault: Option<VaultName>,
    key: Option<String>,
    key_base64: Option<String>,
    prefix: Option<String>,
    prefix_base64: Option<String>,
    start: Option<String>,
    start_base64: Option<String>,
    end: Option<String>,
    end_base64: Option<String>,
    from_revision: Option<u64>,
    previous: bool,
    consistency: Consistency,
    /// Otherwise it ends as soon as it has told what there is.
    follow: Option<bool>,
}

impl WatchQuery {
    pub(crate) fn request(self) -> Result<WatchRequest, ApiError> {
        let (from, with_previous) = (self.from_revision.map(Revision), self.previous);
        let (vault, consistency) = (self.vault.clone(), self.consistency);
        let ends = self.follow == Some(false);
        let interest = Interest { vault, range: range(self)? };
        Ok(WatchRequest { interest, from, with_previous, consistency, ends })
    }
}

/// GET /kv/watch
pub(super) async fn watch(
    State(state): State<HttpState>,
    query: Result<Query<WatchQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, axum::Error>>>, Refusal> {
    let Query(query) = query.map_err(query_error)?;
    let mut request = query.request()?;
    request.from = last_seen(&headers)?.map(Revision).or(request.from);
    let with_previous = request.with_previous;
    let events = state.store.watch(request).await?;
    Ok(Sse::new(events.map(move |event| match event {
        Ok(event) => event_of(event, with_previous),
        Err(error) => Event::default().event("end").json_data(Refusal::from(error).json()),
    })))
}

/// The first revision that somebody wants who has seen some already.
fn last_seen(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let seen = value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).and_then(|id| id.checked_add(1));
    seen.map(Some).ok_or_else(|| malformed(format!("{LAST_EVENT_ID} is {value:?}, a revision is needed")))
}

/// One key, or a range of them.
fn range(query: WatchQuery) -> Result<KeyRange, ApiError> {
    let bounds = [
        (query.prefix, query.prefix_base64),
        (query.start, query.start_base64),
        (query.end, query.end_base64),
    ];
    if query.key.is_none() && query.key_base64.is_none() {
        return key_range(bounds);
    }
    if bounds.iter().any(|(text, base64)| text.is_some() || base64.is_some()) {
        return Err(malformed("`key` names one key, `prefix`, `start` and `end` a range: give one of both"));
    }
    let key = key(query.key, query.key_base64)?;
    check_key(&key)?;
    Ok(KeyRange::of_key(&key))
}

/// All changes of one revision.
pub(crate) fn revised_json(Revised { revision, changes }: Revised, with_previous: bool) -> JsonValue {
    let changes: Vec<JsonValue> =
        changes.into_iter().map(|change| change_json(change, with_previous).into()).collect();
    json!({ "revision": revision.0, "changes": changes })
}

fn event_of(event: WatchEvent, with_previous: bool) -> Result<Event, axum::Error> {
    match event {
        WatchEvent::Begun { revision } => Event::default()
            .event("begin")
            .id(revision.to_string())
            .json_data(json!({ "revision": revision.0 })),
        WatchEvent::Progress { revision } => Event::default()
            .event("progress")
            .id(revision.to_string())
            .json_data(json!({ "revision": revision.0 })),
        WatchEvent::Changed(revised) => Event::default()
            .event("change")
            .id(revised.revision.to_string())
            .json_data(revised_json(revised, with_previous)),
    }
}

fn change_json(change: Change, with_previous: bool) -> Object {
    let put_previous = |object: &mut Object, previous: Previous| {
        let previous = match previous {
            Previous::Record(record) if with_previous => record_json(None, record).into(),
            Previous::Absent if with_previous => JsonValue::Null,
            _ => return,
        };
        object.insert("previous".to_owned(), previous);
    };
    let (kind, mut object) = match change.kind {
        ChangeKind::Put { key, record, previous } => {
            let mut object = record_json(Some(key), record);
            put_previous(&mut object, previous);
            ("put", object)
        }
        ChangeKind::Deleted { key, previous } => {
            let mut object = Object::new();
            put_bytes(&mut object, "key", key.0);
            put_previous(&mut object, previous);
            ("delete", object)
        }
        ChangeKind::VaultDeleted => ("vault_deleted", Object::new()),
    };
    object.insert("type".to_owned(), kind.into());
    object
}
