//! What the terminal asks of the cluster, each question within a bound.

use std::net::SocketAddr;
use std::time::Duration;

use aspen_node::types::NodeInfo;
use futures::future::join_all;
use serde_json::Value as Json;
use tokio::time::timeout;

use super::LOOK_TIMEOUT;
use super::app::{Change, Input};
use super::cluster::{Look, Member, State};
use crate::access::Access;
use crate::cluster::place;
use crate::session::Session;

/// Looks at the cluster once: who belongs to it by the word of the first node that answers, and what each says of itself.
pub(crate) async fn look(access: Access) -> Input {
    let mut reasons = Vec::new();
    for node in &access.nodes {
        match get(&access, *node, "/cluster/status", LOOK_TIMEOUT).await {
            Ok(status) if status["is_removed"] == true => {
                reasons.push(format!("{node} was removed from its cluster"));
            }
            Ok(status) => return Input::Looked(Ok(look_at(&access, *node, status).await)),
            Err(reason) => reasons.push(reason),
        }
    }
    Input::Looked(Err(reasons.join("; ")))
}

async fn look_at(access: &Access, asked: SocketAddr, mut status: Json) -> Look {
    // The leader alone knows how the others look.
    let leader = status["leader"]["http"].as_str().and_then(|http| http.parse().ok());
    for leader in leader
        .filter(|_| status["role"] != "leader")
        .map(|http| access.credentials.way.nodes_at(http))
        .unwrap_or_default()
    {
        if let Ok(of_leader) = get(access, leader, "/cluster/status", LOOK_TIMEOUT).await
            && of_leader["role"] == "leader"
        {
            status = of_leader;
            break;
        }
    }
    let members = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let members = join_all(members.iter().filter_map(|json| member(access, json))).await;
    Look {
        asked,
        term: status["term"].as_u64().unwrap_or(0),
        leader: status["leader"]["id"].as_u64(),
        members,
    }
}

fn member<'a>(access: &'a Access, json: &Json) -> Option<impl Future<Output = Member> + use<'a>> {
    let id = json["id"].as_u64()?;
    let info: NodeInfo = serde_json::from_value(json.clone()).ok()?;
    let at = access.credentials.way.learn_address(&info);
    let (is_voter, health) = (json["is_voter"] == true, json["health"].as_str().map(str::to_owned));
    let place = place(json);
    let http = info.http;
    Some(async move {
        let state = state(access, at).await;
        Member { id, http, is_voter, health, place, state }
    })
}

async fn state(access: &Access, at: SocketAddr) -> Option<State> {
    let state = get(access, at, "/raft/state", LOOK_TIMEOUT).await.ok()?;
    let index = |name: &str| state[name]["index"].as_u64();
    Some(State {
        role: state["role"].as_str()?.to_owned(),
        applied: index("applied").unwrap_or(0),
        last: state["last_log_index"].as_u64().unwrap_or(0),
        snapshot: index("snapshot"),
    })
}

async fn get(access: &Access, node: SocketAddr, path: &str, within: Duration) -> Result<Json, String> {
    let mut connection = access.connection(node);
    let answer = timeout(within, connection.request("GET", path, "")).await;
    let answer = answer.map_err(|_| format!("{node} does not answer"))?.map_err(|error| error.to_string())?;
    if matches!(answer.status, 401 | 403) {
        return Err(format!("{node} wants a token: --token-file names one"));
    }
    if answer.status != 200 {
        return Err(format!("{node}: {}", answer.message()));
    }
    serde_json::from_slice(&answer.body).map_err(|_| format!("{node} is no Aspen node"))
}

/// Asks for a page of keys.
pub(crate) async fn page(access: Access, asked: Json) -> Input {
    let answer = Session::new(access.client(), true).post("/kv/scan", &asked).await;
    Input::Page { asked, answer: answer.map_err(|error| error.to_string()) }
}

/// Does something.
pub(crate) async fn change(mut access: Access, change: Change) -> Input {
    let Change { at, path, body, done } = change;
    if let Some(at) = at {
        access.nodes = access.credentials.way.nodes_at(at);
    }
    let result = Session::new(access.client(), true).post(path, &body).await;
    Input::Changed { done, result: result.map(drop).map_err(|error| error.to_string()) }
}
