//! Aspen as a target of load.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde_json::{Value as Json, json};

use super::load::{Operation, Target};
use super::{ClientError, Credentials, HttpAnswer, HttpConnection};
use crate::api::Consistency;

/// One client of one node.
#[derive(Debug)]
pub struct AspenTarget {
    connection: HttpConnection,
    consistency: Consistency,
    /// What it has last seen under each key; absent: not asked yet.
    seen: HashMap<String, Json>,
}

impl AspenTarget {
    /// A client of the node at `address` that reads like this.
    pub fn new(address: SocketAddr, consistency: Consistency) -> Self {
        Self { connection: HttpConnection::new(address), consistency, seen: HashMap::new() }
    }

    /// The same, with something to show.
    #[must_use]
    pub fn with_credentials(self, credentials: Credentials) -> Self {
        Self { connection: self.connection.with_credentials(credentials), ..self }
    }

    async fn post(&mut self, path: &str, body: &Json) -> Result<HttpAnswer, String> {
        let answer = self.connection.request("POST", path, body.to_string()).await;
        answer.map_err(|error| match error {
            ClientError::Connect { .. } => "not connected".to_owned(),
            ClientError::Lost { .. } => "no answer".to_owned(),
        })
    }
}

impl Target for AspenTarget {
    async fn call(&mut self, operation: Operation<'_>) -> Result<(), String> {
        match operation {
            Operation::Put { key, value } => {
                let body = json!({ "command": { "Set": { "key": key, "value": value } } });
                code(&self.post("/kv/write", &body).await?)
            }
            Operation::Get { key } => {
                let body = json!({ "key": key, "consistency": self.consistency });
                match code(&self.post("/kv/read", &body).await?) {
                    // A key that is not there was read, too.
                    Err(code) if code == "key_not_found" => Ok(()),
                    result => result,
                }
            }
            Operation::CompareAndSwap { key, value } => {
                let expected = self.seen.get(key).cloned().unwrap_or_default();
                let swap = json!({ "key": key, "expected": expected, "value": value });
                let answer =
                    self.post("/kv/write", &json!({ "command": { "CompareAndSwap": swap } })).await?;
                let result = code(&answer);
                let now = match &result {
                    Ok(()) => value.into(),
                    Err(code) if code == "cas_failed" => answer.error()["actual"].take(),
                    Err(_) => return result,
                };
                self.seen.insert(key.to_owned(), now);
                result
            }
        }
    }
}

/// Success, or the code of a refusal.
fn code(answer: &HttpAnswer) -> Result<(), String> {
    if answer.status == 200 {
        return Ok(());
    }
    Err(answer.code().unwrap_or_else(|| format!("status {}", answer.status)))
}
