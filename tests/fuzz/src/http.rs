//! Requests to a node's routes, which talk to a node in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use aspen_node::api::ClusterController;
use aspen_node::deterministic::deterministic;
use aspen_node::http::{Credentials, HttpState, router};
use aspen_node::metrics::{Metrics, NetworkMetrics};
use aspen_node::network::refusals::Refusals;
use aspen_node::network::secret::{ClusterSecrets, new_secret};
use aspen_node::types::{EndpointKey, NodeId, NodeInfo};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use futures::FutureExt;
use http_body_util::BodyExt;
use serde_json::Value as Json;
use tokio::sync::watch;
use tower::ServiceExt;

/// What parts a request from the next.
const BORDER: &[u8] = b"\n%%\n";
/// What parts the head of a request from its body.
const BODY: &[u8] = b"\n\n";
/// Requests of one input. Further ones would find nothing that these do not.
const REQUESTS_MAX: usize = 16;
/// Bytes of changes that are held for watches: few, so that some are not.
const WATCH_HISTORY: u64 = 2_000;

/// Reads an input as requests with a line `%%` between them, and answers one after the other. Each is a line with method and path,
/// lines with headers, an empty line and the body.
pub fn run(input: &[u8]) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime can be made").block_on(async {
        let routes = routes().await;
        let mut are_requests = true;
        for text in split(input, BORDER).take(REQUESTS_MAX) {
            match request(text) {
                Some(request) => check(&routes, request).await,
                None => are_requests = false,
            }
        }
        are_requests
    })
}

/// Who and where a node is that nobody ever dials.
pub fn info(id: u8) -> NodeInfo {
    let endpoint_id = EndpointKey([id; 32]);
    NodeInfo { endpoint_id, raft: ([10, 0, 0, id], 4001).into(), http: ([10, 0, 0, id], 8001).into() }
}

/// The routes of a fresh node, which is a cluster by itself.
async fn routes() -> Router {
    let (own, info_of_own) = (NodeId(1), info(1));
    let (cluster, store) = deterministic(own, info_of_own.clone(), WATCH_HISTORY);
    cluster.init(BTreeMap::from([(own, info_of_own)])).await.expect("it is part of no cluster yet");
    let secrets = ClusterSecrets::parse(new_secret(), "a test").expect("it is random enough");
    router(HttpState {
        cluster: Arc::new(cluster),
        store: Arc::new(store),
        observer: None,
        metrics: Arc::new(Metrics::new(&[], &NetworkMetrics::default(), &Refusals::default())),
        peers: Arc::new(BTreeMap::from([1, 2, 3].map(|id| (NodeId(id.into()), info(id))))),
        credentials: watch::channel(Credentials::default()).1,
        secrets: Some(watch::channel(secrets).1),
    })
}

/// The parts of a text, without what parts them.
fn split<'a>(text: &'a [u8], border: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let place = text.windows(border.len()).position(|window| window == border);
        let Some(place) = place else { return Some(text) };
        rest = Some(&text[place + border.len()..]);
        Some(&text[..place])
    })
}

/// A request, if the text is one that could arrive.
fn request(text: &[u8]) -> Option<Request<Body>> {
    let place = text.windows(BODY.len()).position(|window| window == BODY);
    let (head, body) = place.map_or((text, &[][..]), |place| (&text[..place], &text[place + BODY.len()..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::new(Body::from(body.to_vec()));
    *request.method_mut() = Method::from_bytes(&first[..space]).ok()?;
    *request.uri_mut() = Uri::try_from(&first[space + 1..]).ok()?;
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request)
}

/// Has a request answered. A refusal is in JSON, and none is for want of our own.
async fn check(routes: &Router, request: Request<Body>) {
    let what = format!("{} {}", request.method(), request.uri());
    let has_body = request.method() != Method::HEAD;
    let Ok(response) = routes.clone().oneshot(request).await;
    let (status, content_type) = (response.status(), response.headers().get(header::CONTENT_TYPE).cloned());
    let body = body(response);
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{what}: {}", body.escape_ascii());
    if has_body && (status.is_client_error() || status.is_server_error()) {
        assert_eq!(content_type, Some(HeaderValue::from_static("application/json")), "{what}: {status}");
        let answer: Json = serde_json::from_slice(&body).unwrap_or_default();
        let is_text = |name: &str| answer["error"][name].as_str().is_some_and(|text| !text.is_empty());
        assert!(is_text("code") && is_text("message"), "{what}: {status}: {}", body.escape_ascii());
    }
}

/// All of an answer that is there at once: a watch goes on.
fn body(response: Response<Body>) -> Vec<u8> {
    let (mut body, mut bytes) = (response.into_body(), Vec::new());
    while let Some(Some(frame)) = body.frame().now_or_never() {
        let data = frame.expect("an answer is whole").into_data();
        bytes.extend(data.unwrap_or_default());
    }
    bytes
}
