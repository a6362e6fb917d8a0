//! `aspen kv`: keys and values, from the command line.

use std::io::{ErrorKind, Read, Write};

use aspen_node::api::{BadRequest, Consistency};
use aspen_node::client::watch::{WatchClient, WatchQuery, Watched};
use aspen_node::http::command::transaction;
use aspen_node::limits::{MAX_STALENESS_MS_MAX, SCAN_LIMIT_MAX, VALUE_BYTES_MAX};
use clap::{ArgGroup, Args, Subcommand, ValueEnum, value_parser};
use data_encoding::BASE64;
use serde_json::{Map, Value as Json, json};

use super::session::{Failure, Session};

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KvCommand {
    /// Print the value of a key, byte by byte as it is
    Get {
        /// The key
        key: String,
        #[command(flatten)]
        read: ReadArgs,
        #[command(flatten)]
        bound: BoundArgs,
    },
    /// Set a key
    Put {
        /// The key
        key: String,
        /// Its value [default: what comes on the standard input]
        value: Option<String>,
        /// Have the key end with this lease
        #[arg(long, value_name = "LEASE")]
        lease: Option<u64>,
        #[command(flatten)]
        space: SpaceArgs,
    },
    /// Remove keys, all of them at once, and print how many were there
    Delete {
        /// The keys
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        #[command(flatten)]
        space: SpaceArgs,
    },
    /// Print keys and values in the order of the keys, one pair a line with a tab in between
    Scan {
        /// Only keys that begin like this
        #[arg(default_value = "")]
        prefix: String,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u64).range(1..))]
        limit: u64,
        /// Print the keys only
        #[arg(long, conflicts_with = "count")]
        keys: bool,
        /// Print only how many there are, whatever the limit
        #[arg(long)]
        count: bool,
        #[command(flatten)]
        read: ReadArgs,
        #[command(flatten)]
        bound: BoundArgs,
    },
    /// Set a key if it holds what is expected
    #[command(group = ArgGroup::new("found").required(true))]
    Cas {
        /// The key
        key: String,
        /// Its new value
        value: String,
        /// It has to hold this
        #[arg(long, value_name = "VALUE", group = "found")]
        expect: Option<String>,
        /// It must not be there
        #[arg(long, group = "found")]
        absent: bool,
        /// Have the key end with this lease
        #[arg(long, value_name = "LEASE")]
        lease: Option<u64>,
        #[command(flatten)]
        space: SpaceArgs,
    },
    /// Compare, and write or read by what is found, all at once; the answer is printed as JSON
    Txn {
        /// The transaction as JSON, with `compare`, `success` and `failure` as docs/http.md has them [default: what comes on the
        /// standard input]
        transaction: Option<String>,
        /// Have the keys that it writes end with this lease
        #[arg(long, value_name = "LEASE")]
        lease: Option<u64>,
        #[command(flatten)]
        space: SpaceArgs,
    },
    /// Print the names of all vaults
    Vaults,
    /// Print changes as they happen, one a line: revision, kind, key and value with tabs in between. Where a node is lost, another
    /// member is asked for what comes next
    Watch {
        /// Only keys that begin like this
        #[arg(default_value = "")]
        prefix: String,
        /// Only this key
        #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
        key: Option<String>,
        /// From this revision on [default: what happens from now on]
        #[arg(long, value_name = "REVISION")]
        from: Option<u64>,
        /// Print what there is, and end; with --from, what has changed since
        #[arg(long, requires = "from")]
        no_follow: bool,
        /// Print what the key held before, too, in a column of its own
        #[arg(long)]
        previous: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SpaceArgs {
    /// In this vault
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    space: SpaceArgs,
    /// Who confirms that nothing newer was acknowledged
    #[arg(long, value_enum, default_value_t = ConsistencyArg::Linearizable)]
    consistency: ConsistencyArg,
}

#[derive(Debug, Args)]
pub(crate) struct BoundArgs {
    /// Take what the node has, if everything that was acknowledged so long before is in it, and refuse anything older
    #[arg(long, value_name = "MS", conflicts_with = "consistency", value_parser = value_parser!(u64).range(..=MAX_STALENESS_MS_MAX))]
    max_staleness: Option<u64>,
}

impl BoundArgs {
    /// Says in a request how fresh it is to be.
    fn put(&self, read: &ReadArgs, body: &mut Json) {
        if let Some(ms) = self.max_staleness {
            body["max_staleness_ms"] = ms.into();
        } else {
            body["consistency"] = Consistency::from(read.consistency).as_str().into();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConsistencyArg {
    /// A quorum
    Linearizable,
    /// The leader's lease, or else a quorum
    Lease,
    /// Nobody: what the node has
    Stale,
}

impl From<ConsistencyArg> for Consistency {
    fn from(arg: ConsistencyArg) -> Self {
        match arg {
            ConsistencyArg::Linearizable => Self::Linearizable,
            ConsistencyArg::Lease => Self::Lease,
            ConsistencyArg::Stale => Self::Stale,
        }
    }
}

/// Does it; what to print.
pub(crate) async fn run(command: &KvCommand, session: &mut Session) -> Result<Vec<u8>, Failure> {
    match command {
        KvCommand::Get { key, read, bound } => get(key, read, bound, session).await,
        KvCommand::Put { key, value, lease, space } => {
            let value = value.as_ref().map_or_else(standard_input, |value| Ok(value.clone().into_bytes()))?;
            if value.len() > VALUE_BYTES_MAX as usize {
                return Err(Failure::TooLarge(BadRequest::ValueTooLarge(value.len() as u64)));
            }
            let mut set = Map::from_iter([("key".to_owned(), key.as_str().into())]);
            match String::from_utf8(value) {
                Ok(text) => set.insert("value".to_owned(), text.into()),
                Err(bytes) => set.insert("value_base64".to_owned(), BASE64.encode(bytes.as_bytes()).into()),
            };
            let answer = write(&json!({ "Set": set }), *lease, space, session).await?;
            Ok(printed(&answer, session, |answer| format!("revision {}\n", answer["revision"])))
        }
        KvCommand::Delete { keys, space } => {
            let answer = write(&json!({ "DeleteMulti": { "keys": keys } }), None, space, session).await?;
            Ok(printed(&answer, session, |answer| {
                format!("{} removed, revision {}\n", answer["deleted"], answer["revision"])
            }))
        }
        KvCommand::Cas { key, value, expect, absent: _, lease, space } => {
            let swap = json!({ "CompareAndSwap": { "key": key, "expected": expect, "value": value } });
            let answer = write(&swap, *lease, space, session).await?;
            Ok(printed(&answer, session, |answer| format!("revision {}\n", answer["revision"])))
        }
        KvCommand::Scan { prefix, limit, keys, count, read, bound } => {
            let detail = match (keys, count) {
                (_, true) => "count",
                (true, _) => "keys",
                _ => "records",
            };
            let mut body = json!({ "prefix": prefix, "detail": detail });
            bound.put(read, &mut body);
            put_vault(&mut body, &read.space);
            scan(body, *limit, session).await
        }
        KvCommand::Vaults => {
            let answer = session.get("/vaults").await?;
            Ok(printed(&answer, session, |answer| {
                let names = answer["vaults"].as_array().into_iter().flatten();
                let names: Vec<&str> = names.filter_map(|vault| vault["name"].as_str()).collect();
                names.iter().flat_map(|name| [name, "\n"]).collect()
            }))
        }
        KvCommand::Txn { transaction: typed, lease, space } => {
            let text = match typed {
                Some(text) => text.clone().into_bytes(),
                None => standard_input()?,
            };
            // Here its places are those of what was typed.
            transaction(&text).map_err(Failure::Transaction)?;
            let typed: Json = serde_json::from_slice(&text).unwrap_or_default();
            let answer = write(&json!({ "Transaction": typed }), *lease, space, session).await?;
            Ok(line(&answer))
        }
        KvCommand::Watch { prefix, key, from, no_follow, previous, read } => {
            let mut query = WatchQuery::new(read.consistency.into());
            (query.from, query.ends) = (*from, *no_follow);
            match key {
                Some(key) => query.parameters.push(("key", key.clone())),
                None => query.parameters.push(("prefix", prefix.clone())),
            }
            query.parameters.extend(read.space.vault.clone().map(|vault| ("vault", vault)));
            query.parameters.extend(previous.then(|| ("previous", "true".to_owned())));
            watch(query, session).await
        }
    }
}

/// Prints changes until nobody reads them any more.
async fn watch(query: WatchQuery, session: &Session) -> Result<Vec<u8>, Failure> {
    let client = &session.client;
    let mut watch = WatchClient::new(client.nodes().to_vec(), client.credentials().clone(), query);
    let (mut out, mut is_lost) = (std::io::stdout().lock(), false);
    loop {
        let data = match watch.next().await? {
            Watched::Changed(data) => data,
            Watched::Ended => return Ok(Vec::new()),
            Watched::By(node) => {
                if std::mem::take(&mut is_lost) {
                    let _ = writeln!(std::io::stderr(), "aspen: {node} goes on");
                }
                continue;
            }
            Watched::Lost { node: _, reason } => {
                is_lost = true;
                let _ =
                    writeln!(std::io::stderr(), "aspen: {reason}; another node is asked for what comes next");
                continue;
            }
        };
        let printed = if session.is_json { format!("{data}\n") } else { changes_text(&data) };
        match out.write_all(printed.as_bytes()).and_then(|()| out.flush()) {
            // Whoever reads has enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Vec::new()),
            written => written.map_err(Failure::Output)?,
        }
    }
}

/// The changes of one revision, a line each.
fn changes_text(data: &str) -> String {
    let data: Json = serde_json::from_str(data).unwrap_or_default();
    let mut text = String::new();
    for change in data["changes"].as_array().into_iter().flatten() {
        let kind = change["type"].as_str().unwrap_or_default();
        let mut columns = vec![data["revision"].to_string(), kind.to_owned()];
        if kind != "vault_deleted" {
            columns.push(visible(&bytes(change, "key")));
        }
        if kind == "put" {
            columns.push(visible(&bytes(change, "value")));
        }
        if change["previous"].is_object() {
            columns.push(visible(&bytes(&change["previous"], "value")));
        }
        text.push_str(&columns.join("\t"));
        text.push('\n');
    }
    text
}

async fn get(
    key: &str,
    read: &ReadArgs,
    bound: &BoundArgs,
    session: &mut Session,
) -> Result<Vec<u8>, Failure> {
    let mut body = json!({ "key": key });
    bound.put(read, &mut body);
    put_vault(&mut body, &read.space);
    let answer = session.post("/kv/read", &body).await?;
    if session.is_json {
        return Ok(line(&answer));
    }
    Ok(bytes(&answer, "value"))
}

async fn write(
    command: &Json,
    lease: Option<u64>,
    space: &SpaceArgs,
    session: &mut Session,
) -> Result<Json, Failure> {
    let mut body = json!({ "command": command });
    if let Some(lease) = lease {
        body["lease"] = lease.into();
    }
    put_vault(&mut body, space);
    session.post("/kv/write", &body).await
}

/// Page after page, until there are as many as wanted or no more.
async fn scan(mut body: Json, limit: u64, session: &mut Session) -> Result<Vec<u8>, Failure> {
    let detail = body["detail"].as_str().unwrap_or_default().to_owned();
    let (mut printed, mut left) = (Vec::new(), limit);
    loop {
        body["limit"] = left.min(u64::from(SCAN_LIMIT_MAX)).into();
        let mut page = session.post("/kv/scan", &body).await?;
        let entries = page["entries"].as_array().map_or(0, Vec::len) as u64;
        if session.is_json {
            printed.extend(line(&page));
        } else if detail == "count" {
            return Ok(format!("{}\n", page["count"]).into_bytes());
        } else {
            for entry in page["entries"].as_array().into_iter().flatten() {
                printed.extend(visible(&bytes(entry, "key")).into_bytes());
                if detail == "records" {
                    printed.push(b'\t');
                    printed.extend(visible(&bytes(entry, "value")).into_bytes());
                }
                printed.push(b'\n');
            }
        }
        left = left.saturating_sub(entries);
        body["continuation_token"] = page["continuation_token"].take();
        if page["is_truncated"] == true && left > 0 {
            continue;
        }
        if page["is_truncated"] == true && !session.is_json {
            // Not among the keys: those may be read by a program.
            let _ = writeln!(std::io::stderr(), "aspen: there are more, --limit {limit} was reached");
        }
        return Ok(printed);
    }
}

fn put_vault(body: &mut Json, space: &SpaceArgs) {
    if let Some(vault) = &space.vault {
        body["vault"] = vault.as_str().into();
    }
}

/// A field that is text, or Base64 under another name.
pub(crate) fn bytes(object: &Json, name: &str) -> Vec<u8> {
    if let Some(text) = object[name].as_str() {
        return text.as_bytes().to_vec();
    }
    let base64 = object[format!("{name}_base64")].as_str().unwrap_or_default();
    BASE64.decode(base64.as_bytes()).unwrap_or_default()
}

/// What is no printable text as `\xNN`, and what ends a line or a column likewise.
pub(crate) fn visible(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|char| char.is_control() || char == '\\') => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

fn standard_input() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    std::io::stdin().read_to_end(&mut value).map_err(Failure::Io)?;
    Ok(value)
}

/// An answer as JSON, or as text.
pub(crate) fn printed(answer: &Json, session: &Session, text: impl FnOnce(&Json) -> String) -> Vec<u8> {
    if session.is_json { line(answer) } else { text(answer).into_bytes() }
}

fn line(answer: &Json) -> Vec<u8> {
    format!("{answer}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_line_is_escaped() {
        let check = |bytes: &[u8], want: &str| assert_eq!(visible(bytes), want);
        check(b"a/b c", "a/b c");
        check("gr\u{fc}n".as_bytes(), "gr\u{fc}n");
        check(b"a\tb\n", "a\\tb\\n");
        check(b"a\\b", "a\\\\b");
        check(b"\xff\0", "\\xff\\x00");
    }
}
