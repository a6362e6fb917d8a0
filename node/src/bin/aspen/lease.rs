//! `aspen lease`: keys that end by themselves.

use std::io::Write;
use std::time::Duration;

use aspen_node::limits::{LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN};
use clap::Subcommand;
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep_until};

use super::cluster::ask_leader;
use super::kv::printed;
use super::session::{Failure, Session};

/// What can be done with leases.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Grant a lease, and print its number, for `aspen kv put --lease`
    Grant {
        /// How many seconds it lives unless it is kept alive, from 1 on
        #[arg(value_name = "SECONDS", value_parser = seconds)]
        ttl: Duration,
    },
    /// Keep a lease alive: from now on it lives for its whole time again
    Keep {
        /// Its number
        lease: u64,
        /// Do so again and again, until it ends or this command is stopped
        #[arg(long)]
        forever: bool,
    },
    /// End a lease, and remove its keys
    Revoke {
        /// Its number
        lease: u64,
    },
    /// Print all leases, one a line: number, seconds that it lives, seconds that are left, keys
    List,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let bounds = LEASE_TTL_MS_MIN..=LEASE_TTL_MS_MAX;
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|ttl| bounds.contains(&millis(*ttl))).ok_or_else(|| {
        format!(
            "a number of seconds is needed, such as 10 or 1.5, from {} to {}",
            bounds.start() / 1_000,
            bounds.end() / 1_000
        )
    })
}

/// Does it; what to print.
pub(crate) async fn run(command: &LeaseCommand, session: &mut Session) -> Result<Vec<u8>, Failure> {
    match command {
        LeaseCommand::Grant { ttl } => {
            let answer = session.post("/leases", &json!({ "ttl_ms": millis(*ttl) })).await?;
            Ok(printed(&answer, session, |answer| format!("{}\n", answer["lease"])))
        }
        LeaseCommand::Keep { lease, forever: false } => {
            let answer = keep(*lease, session).await?;
            Ok(printed(&answer, session, |answer| {
                format!("lives for another {} s\n", in_seconds(&answer["ttl_ms"]))
            }))
        }
        LeaseCommand::Keep { lease, forever: true } => keep_forever(*lease, session).await,
        LeaseCommand::Revoke { lease } => {
            let answer = session.ask("DELETE", &format!("/lease/{lease}"), "").await?;
            Ok(printed(&answer, session, |answer| {
                format!(
                    "ended, keys removed with it: {}, revision {}\n",
                    answer["deleted"], answer["revision"]
                )
            }))
        }
        LeaseCommand::List => {
            let answer = list(session).await?;
            Ok(printed(&answer, session, |answer| {
                let leases = answer["leases"].as_array().into_iter().flatten().map(lease_text);
                [line("lease", "lives_s", "left_s", "keys")].into_iter().chain(leases).collect()
            }))
        }
    }
}

/// All leases, as the leader has them if it answers: it alone knows what is left of them.
async fn list(session: &mut Session) -> Result<Json, Failure> {
    let answer = session.get("/leases").await?;
    let knows = |answer: &Json| {
        !answer["leases"].as_array().into_iter().flatten().any(|lease| lease["left_ms"].is_null())
    };
    if knows(&answer) {
        return Ok(answer);
    }
    let of_leader = ask_leader(session, "/leases").await;
    Ok(of_leader.filter(knows).unwrap_or(answer))
}

async fn keep(lease: u64, session: &mut Session) -> Result<Json, Failure> {
    session.post(&format!("/lease/{lease}/keep"), &json!({})).await
}

/// Keeps a lease alive three times in its life, so that one answer may be lost, and a leader.
async fn keep_forever(lease: u64, session: &mut Session) -> Result<Vec<u8>, Failure> {
    let mut asked = Instant::now();
    let mut ttl = ttl_of(&keep(lease, session).await?);
    let mut ends = asked + ttl;
    loop {
        sleep_until(asked + ttl / 3).await;
        asked = Instant::now();
        match keep(lease, session).await {
            Ok(answer) => {
                ttl = ttl_of(&answer);
                ends = asked + ttl;
            }
            Err(failure) if failure.is_refused("lease_not_found") || asked >= ends => return Err(failure),
            Err(failure) => {
                let _ = writeln!(std::io::stderr(), "aspen: {failure}; it is asked again");
            }
        }
    }
}

fn ttl_of(answer: &Json) -> Duration {
    Duration::from_millis(answer["ttl_ms"].as_u64().unwrap_or_default())
}

fn lease_text(lease: &Json) -> String {
    let left = lease["left_ms"].as_u64().map_or("-".to_owned(), |_| in_seconds(&lease["left_ms"]));
    line(&lease["lease"].to_string(), &in_seconds(&lease["ttl_ms"]), &left, &lease["key_count"].to_string())
}

fn line(lease: &str, lives: &str, left: &str, keys: &str) -> String {
    format!("{lease:<12}{lives:>9}{left:>10}{keys:>8}\n")
}

fn in_seconds(millis: &Json) -> String {
    Duration::from_millis(millis.as_u64().unwrap_or_default()).as_secs_f64().to_string()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
