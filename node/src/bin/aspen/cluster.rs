//! `aspen cluster`: how it is, and who belongs to it.

use std::fmt::Write;
use std::net::SocketAddr;

use aspen_node::client::cluster::ClusterClient;
use aspen_node::config::socket_address;
use aspen_node::limits::STATUS_PATIENCE;
use aspen_node::types::{EndpointKey, NodeInfo};
use clap::{Args, Subcommand};
use futures::future::{join, join_all};
use serde_json::{Value as Json, json};
use tokio::time::timeout;

use super::kv::printed;
use super::session::{Failure, Session};

/// What can be done with a cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show every member: who leads, who votes, how far it is, and whether it answers
    Status,
    /// Print what a new node needs, besides the secret, to join: `aspen-node --ticket`
    Ticket,
    /// Found a cluster of nodes that know each other and have no cluster yet
    Init {
        /// Numbers of the members [default: all that the node knows]
        #[arg(long, value_delimiter = ',', value_name = "N")]
        members: Vec<u64>,
    },
    /// Let a node learn all that there is
    AddLearner(LearnerArgs),
    /// Let a learner vote that answers and has caught up
    Promote {
        /// Its number
        id: u64,
        /// Although it does not answer or lacks many entries: until it does, one failure more is one too many
        #[arg(long)]
        force: bool,
    },
    /// Take a member out of the cluster
    Remove {
        /// Its number
        id: u64,
    },
    /// Hand leadership to a voter
    Transfer {
        /// Its number
        id: u64,
    },
    /// Make a snapshot of the state on the node that is asked
    Snapshot,
}

/// A new member.
#[derive(Debug, Args)]
pub(crate) struct LearnerArgs {
    /// Its number
    id: u64,
    /// Its key, as `aspen-node identity` prints it; it and the addresses can be left out for a peer that the nodes know
    #[arg(long, value_name = "HEX", requires_all = ["raft", "http"])]
    endpoint_id: Option<EndpointKey>,
    /// Its UDP address for the other members
    #[arg(long, value_name = "ADDRESS", value_parser = socket_address, requires = "endpoint_id")]
    raft: Option<SocketAddr>,
    /// Its TCP address for clients
    #[arg(long, value_name = "ADDRESS", value_parser = socket_address, requires = "endpoint_id")]
    http: Option<SocketAddr>,
}

/// Does it; what to print.
pub(crate) async fn run(command: &ClusterCommand, session: &mut Session) -> Result<Vec<u8>, Failure> {
    let (path, body) = match command {
        ClusterCommand::Status => return status(session).await,
        ClusterCommand::Ticket => {
            let answer = session.get("/cluster/ticket").await?;
            let ticket = |answer: &Json| format!("{}\n", answer["ticket"].as_str().unwrap_or_default());
            return Ok(printed(&answer, session, ticket));
        }
        ClusterCommand::Snapshot => {
            let answer = session.post("/cluster/snapshot", &json!({})).await?;
            return Ok(printed(&answer, session, snapshot_text));
        }
        ClusterCommand::Init { members } if members.is_empty() => ("/cluster/init", json!({})),
        ClusterCommand::Init { members } => ("/cluster/init", json!({ "members": members })),
        ClusterCommand::AddLearner(LearnerArgs { id, endpoint_id, raft, http }) => {
            let mut body = json!({ "id": id });
            if let (Some(endpoint_id), Some(raft), Some(http)) = (endpoint_id, raft, http) {
                body = json!({ "id": id, "endpoint_id": endpoint_id, "raft": raft, "http": http });
            }
            ("/cluster/add-learner", body)
        }
        ClusterCommand::Promote { id, force } => {
            ("/cluster/promote-learner", json!({ "id": id, "force": force }))
        }
        ClusterCommand::Remove { id } => return remove(*id, session).await,
        ClusterCommand::Transfer { id } => ("/cluster/transfer-leader", json!({ "id": id })),
    };
    let answer = session.post(path, &body).await?;
    Ok(printed(&answer, session, |answer| table(answer, &[])))
}

/// Takes a member out, or says that there is none.
async fn remove(id: u64, session: &mut Session) -> Result<Vec<u8>, Failure> {
    let answer = session.post("/cluster/remove-member", &json!({ "id": id })).await?;
    // A node of an earlier version does not say.
    let was_member = answer["was_member"] != false;
    let said = if was_member {
        format!("node {id} is no member any more: if it still runs, stop it, nobody is served by it\n")
    } else {
        format!("node {id} is no member, so nothing has changed\n")
    };
    Ok(printed(&answer, session, |answer| said + &table(answer, &[])))
}

/// The members as the node knows them, and what each says of itself.
async fn status(session: &mut Session) -> Result<Vec<u8>, Failure> {
    let mut answer = session.get("/cluster/status").await?;
    let members = answer["members"].as_array().cloned().unwrap_or_default();
    // It may be asked where its address in the membership leads nowhere.
    let own = session.get("/raft/state").await.ok().filter(|own| own["id"] == answer["id"]);
    let states = join_all(members.iter().map(async |member| match &own {
        Some(own) if member["id"] == own["id"] => Some(own.clone()),
        _ => state(&session.client, member).await,
    }));
    let (states, healths) = join(states, healths(&session.client, &answer)).await;
    for (member, health) in answer["members"].as_array_mut().into_iter().flatten().zip(healths) {
        member["health"] = health;
    }
    if session.is_json {
        for (member, state) in answer["members"].as_array_mut().into_iter().flatten().zip(&states) {
            member["state"] = state.clone().unwrap_or_default();
        }
    }
    Ok(printed(&answer, session, |answer| table(answer, &states)))
}

/// What a member says of itself, if it answers. Another node may have its address by now.
async fn state(client: &ClusterClient, member: &Json) -> Option<Json> {
    ask(client, member, "/raft/state").await.filter(|state| state["id"] == member["id"])
}

/// How the leader finds each member, as far as it says; whoever is asked says it only where it leads itself.
async fn healths(client: &ClusterClient, answer: &Json) -> Vec<Json> {
    let of = |answer: &Json| answer["members"].as_array().cloned().unwrap_or_default();
    let members = of(answer);
    let leader = members.iter().find(|member| member["id"] == answer["leader"]["id"]);
    let found = match leader.filter(|leader| leader["id"] != answer["id"]) {
        None => members.clone(),
        Some(leader) => {
            let status = ask(client, leader, "/cluster/status").await;
            status.filter(|status| status["id"] == leader["id"]).as_ref().map(of).unwrap_or_default()
        }
    };
    let health = |member: &Json| {
        let found = found.iter().find(|other| other["id"] == member["id"]);
        found.map_or(Json::Null, |found| found["health"].clone())
    };
    members.iter().map(health).collect()
}

/// What the leader answers, if it can be found and is another node than the one that was asked.
pub(crate) async fn ask_leader(session: &mut Session, path: &str) -> Option<Json> {
    let status = session.get("/cluster/status").await.ok()?;
    let members = status["members"].as_array()?;
    let leader = members.iter().find(|member| member["id"] == status["leader"]["id"])?;
    ask(&session.client, leader, path).await
}

/// What a member answers, unless it takes too long.
async fn ask(client: &ClusterClient, member: &Json, path: &str) -> Option<Json> {
    let info: NodeInfo = serde_json::from_value(member.clone()).ok()?;
    let node = client.credentials().way.learn_address(&info);
    let mut connection = client.connection(node);
    let answer = timeout(STATUS_PATIENCE, connection.request("GET", path, "")).await.ok()?.ok()?;
    (answer.status == 200).then(|| serde_json::from_slice(&answer.body).ok()).flatten()
}

/// One line for each member. Where nobody was asked, only what the node knows.
fn table(cluster: &Json, states: &[Option<Json>]) -> String {
    let members = cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    if members.is_empty() {
        return "no cluster yet: `aspen cluster init` founds one\n".to_owned();
    }
    let voters = members.iter().filter(|member| member["is_voter"] == true).count();
    let leader = match cluster["leader"]["id"].as_u64() {
        Some(id) => format!("node {id} leads"),
        None => "nobody is known to lead".to_owned(),
    };
    let changing = if cluster["is_changing"] == true {
        "; they are being changed: take none of them away now"
    } else {
        ""
    };
    let removed = if cluster["is_removed"] == true {
        "this node was removed from its cluster, so ask another one; it knew last:\n"
    } else {
        ""
    };
    let count = match members.len() {
        1 => "1 member".to_owned(),
        count => format!("{count} members"),
    };
    let mut text =
        format!("{removed}term {}, {leader}; {count}, {voters} of them vote{changing}\n", cluster["term"]);
    let last = states.iter().flatten().filter_map(|state| state["last_log_index"].as_u64()).max();
    let has_places = members.iter().any(|member| place(member).is_some());
    let width = if states.is_empty() { 23 } else { 54 };
    // Writing to a String cannot fail.
    let mut line = |number: &str, is_voter: &str, rest: &str, place: &str| {
        let rest = if has_places { format!("{rest:<width$}  {place}") } else { rest.to_owned() };
        let _ = writeln!(text, "{number:<5}{is_voter:<7}{}", rest.trim_end());
    };
    let head =
        if states.is_empty() { "http" } else { "http                   role            applied  behind" };
    line("node", "votes", head, "region");
    for (index, member) in members.iter().enumerate() {
        let is_voter = if member["is_voter"] == true { "yes" } else { "no" };
        let http = member["http"].as_str().unwrap_or_default();
        let health = member["health"].as_str();
        let rest = match states.get(index) {
            None => http.to_owned(),
            Some(None) => {
                let found = match health {
                    None => "does not answer".to_owned(),
                    // To its leader it does.
                    Some("healthy") => "not reached from here; healthy".to_owned(),
                    Some(health) => format!("does not answer: {health}"),
                };
                format!("{http:<23}{found}")
            }
            Some(Some(state)) => {
                let applied = state["applied"]["index"].as_u64();
                let behind = last.map(|last| last - applied.map_or(0, |applied| applied.min(last)));
                let role = state["role"].as_str().unwrap_or_default();
                let number =
                    |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
                // What is as it should be is not said.
                let health = health.filter(|health| *health != "healthy");
                let health = health.map_or_else(String::new, |health| format!("  {health}"));
                format!("{http:<23}{role:<11}{:>12}{:>8}{health}", number(applied), number(behind))
            }
        };
        line(&member["id"].to_string(), is_voter, &rest, &place(member).unwrap_or_default());
    }
    text
}

/// Where a member is, as far as it has said: its region, and its zone behind a slash.
pub(crate) fn place(member: &Json) -> Option<String> {
    let word = |name: &str| member[name].as_str();
    match (word("region"), word("zone")) {
        (Some(region), Some(zone)) => Some(format!("{region}/{zone}")),
        (word, None) | (None, word) => word.map(str::to_owned),
    }
}

fn snapshot_text(answer: &Json) -> String {
    match answer["last"]["index"].as_u64() {
        Some(index) => format!("covers everything up to revision {index}, {} bytes\n", answer["bytes"]),
        None => "there is nothing to make a snapshot of yet\n".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_says_who_leads_and_who_is_behind() {
        let member = |id: u64, is_voter: bool| json!({ "id": id, "is_voter": is_voter, "http": format!("127.0.0.1:800{id}") });
        let status = json!({ "term": 3, "leader": { "id": 1 }, "members": [member(1, true), member(2, true), member(3, false)] });
        let state = |role: &str, applied: u64| {
            Some(json!({ "role": role, "applied": { "index": applied }, "last_log_index": applied }))
        };
        let want = "term 3, node 1 leads; 3 members, 2 of them vote\n\
                    node votes  http                   role            applied  behind\n\
                    1    yes    127.0.0.1:8001         leader              120       0\n\
                    2    yes    127.0.0.1:8002         does not answer\n\
                    3    no     127.0.0.1:8003         learner             100      20\n";
        assert_eq!(table(&status, &[state("leader", 120), None, state("learner", 100)]), want);
        let want = "term 3, node 1 leads; 3 members, 2 of them vote\n\
                    node votes  http\n\
                    1    yes    127.0.0.1:8001\n\
                    2    yes    127.0.0.1:8002\n\
                    3    no     127.0.0.1:8003\n";
        assert_eq!(table(&status, &[]), want);
        let mut status = status;
        status["members"][1]["health"] = "healthy".into();
        let told = table(&status, &[state("leader", 120), None, state("learner", 100)]);
        assert!(told.contains("127.0.0.1:8002         not reached from here; healthy\n"), "{told}");
        status["members"][1]["health"] = Json::Null;
        status["members"][0]["region"] = "eu".into();
        status["members"][0]["zone"] = "eu-1".into();
        status["members"][1]["zone"] = "z".into();
        let want = "term 3, node 1 leads; 3 members, 2 of them vote\n\
                    node votes  http                   role            applied  behind  region\n\
                    1    yes    127.0.0.1:8001         leader              120       0  eu/eu-1\n\
                    2    yes    127.0.0.1:8002         does not answer                  z\n\
                    3    no     127.0.0.1:8003         learner             100      20\n";
        assert_eq!(table(&status, &[state("leader", 120), None, state("learner", 100)]), want);
        status["is_changing"] = true.into();
        let changing = "members, 2 of them vote; they are being changed: take none of them away now\n";
        assert!(table(&status, &[]).contains(changing));
        status["is_removed"] = true.into();
        assert!(
            table(&status, &[]).starts_with("this node was removed from its cluster, so ask another one")
        );
        assert_eq!(
            table(&json!({ "members": [] }), &[]),
            "no cluster yet: `aspen cluster init` founds one\n"
        );
    }
}
