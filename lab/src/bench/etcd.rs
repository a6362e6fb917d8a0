//! etcd, for comparison: who leads, and what a client says to it, through its JSON gateway and by gRPC.

use std::net::SocketAddr;

use aspen_node::client::HttpConnection;
use aspen_node::client::load::{Operation, Target};
use aspen_node::limits::{ANSWER_TIMEOUT, CONNECT_TIMEOUT};
use data_encoding::BASE64;
use serde_json::{Value as Json, json};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::target::etcd;

/// Whether the member at this address says that it leads.
pub(super) async fn leads(client: SocketAddr) -> bool {
    etcd::leads(&status(client).await)
}

/// Whether the member at this address says who leads.
pub(super) async fn knows_leader(client: SocketAddr) -> bool {
    status(client).await["leader"].as_str().is_some_and(|leader| leader != "0")
}

async fn status(client: SocketAddr) -> Json {
    let (mut connection, status) = (HttpConnection::new(client), etcd::status_request());
    let answer = connection.request("POST", &status.path, status.body.unwrap_or_default()).await;
    answer.ok().and_then(|answer| serde_json::from_slice(&answer.body).ok()).unwrap_or_default()
}

/// A client of the JSON gateway.
#[derive(Debug)]
pub(super) struct Gateway {
    connection: HttpConnection,
    is_stale: bool,
}

impl Gateway {
    /// A client of the member at this address. Stale reads are those that etcd calls serializable.
    pub(super) fn new(client: SocketAddr, is_stale: bool) -> Self {
        Self { connection: HttpConnection::new(client), is_stale }
    }
}

impl Target for Gateway {
    async fn call(&mut self, operation: Operation<'_>) -> Result<(), String> {
        let base64 = |text: &str| BASE64.encode(text.as_bytes());
        let (path, body) = match operation {
            Operation::Put { key, value } => {
                ("/v3/kv/put", json!({ "key": base64(key), "value": base64(value) }))
            }
            Operation::Get { key } => {
                ("/v3/kv/range", json!({ "key": base64(key), "serializable": self.is_stale }))
            }
            Operation::CompareAndSwap { .. } => return Err("not offered".to_owned()),
        };
        let answer = self.connection.request("POST", path, body.to_string()).await;
        match answer.map_err(|error| error.to_string())?.status {
            200 => Ok(()),
            status => Err(format!("status {status}")),
        }
    }
}

/// A client by gRPC, with a channel of its own.
#[derive(Debug)]
pub(super) struct Grpc {
    endpoint: Endpoint,
    client: Option<tonic::client::Grpc<Channel>>,
    is_stale: bool,
}

impl Grpc {
    /// A client of the member at this address.
    pub(super) fn new(client: SocketAddr, is_stale: bool) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{client}")).expect("an address makes a URI");
        let endpoint = endpoint.tcp_nodelay(true).connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT);
        Self { endpoint, client: None, is_stale }
    }

    async fn unary<M, A>(&mut self, path: &'static str, message: M) -> Result<A, String>
    where
        M: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let client = match &mut self.client {
            Some(client) => client,
            none => {
                let channel = self.endpoint.connect().await.map_err(|_| "not connected".to_owned())?;
                none.insert(tonic::client::Grpc::new(channel))
            }
        };
        client.ready().await.map_err(|_| "not connected".to_owned())?;
        let codec = ProstCodec::<M, A>::default();
        let answer = client.unary(tonic::Request::new(message), PathAndQuery::from_static(path), codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| status.code().to_string())
    }
}

impl Target for Grpc {
    async fn call(&mut self, operation: Operation<'_>) -> Result<(), String> {
        match operation {
            Operation::Put { key, value } => {
                let message = PutRequest { key: key.into(), value: value.into() };
                self.unary::<_, Empty>("/etcdserverpb.KV/Put", message).await.map(drop)
            }
            Operation::Get { key } => {
                let message = RangeRequest { key: key.into(), serializable: self.is_stale };
                self.unary::<_, RangeResponse>("/etcdserverpb.KV/Range", message).await.map(drop)
            }
            Operation::CompareAndSwap { .. } => Err("not offered".to_owned()),
        }
    }
}

// Of etcd's messages (api/etcdserverpb/rpc.proto) only what is said and looked at here; the rest is skipped.

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    pairs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Empty {}
