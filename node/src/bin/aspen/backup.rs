//! `aspen backup`: the whole state as a file, and a new cluster made of it.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use aspen_node::api::Consistency;
use aspen_node::backup::Header;
use aspen_node::backup::file::{self, NewBackup};
use aspen_node::backup::restore::{self, FirstNode, Restored};
use aspen_node::client::cluster::ClusterClientError;
use aspen_node::config::socket_address;
use aspen_node::types::NodeId;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::session::{Failure, Session};

/// What can be done with backups.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Save the state to a file that only you may read; every write that was acknowledged before is in it
    Save(SaveArgs),
    /// Check every byte of a backup, and say what is in it
    Inspect {
        /// The backup; a copy of its database is made in `TMPDIR` meanwhile
        file: PathBuf,
    },
    /// Make the data directory of the first node of a new cluster from a backup; no node has to run
    Restore(RestoreArgs),
}

/// Where to, and what of.
#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// Where it is to be
    file: PathBuf,
    /// Replace the file that is there
    #[arg(long)]
    force: bool,
    /// Save what the node has that is asked, however old, also where nobody leads
    #[arg(long)]
    stale: bool,
}

/// Which node to make.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    file: PathBuf,
    /// The data directory: not there, empty, or with nothing but an `identity.key` that becomes the key of the node
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The number of the node
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Its UDP address for the other members
    #[arg(long, value_name = "ADDRESS", value_parser = socket_address)]
    raft: SocketAddr,
    /// Its TCP address for clients
    #[arg(long, value_name = "ADDRESS", value_parser = socket_address)]
    http: SocketAddr,
}

/// Takes a backup from a node and checks it as it comes; what to print.
pub(crate) async fn save(args: &SaveArgs, session: &mut Session) -> Result<Vec<u8>, Failure> {
    let mut new = NewBackup::create(&args.file, args.force)?;
    let consistency = if args.stale { Consistency::Stale } else { Consistency::Linearizable };
    let mut parts = session.client.backup(consistency).await?;
    while let Some(part) = parts.next().await.map_err(ClusterClientError::from)? {
        new.push(&part)?;
    }
    let header = new.finish()?;
    Ok(printed(&header, session.is_json, |header| format!("{}\n", in_short(header))).into_bytes())
}

/// Checks a backup; what to print.
pub(crate) fn inspect(file: &Path, is_json: bool) -> Result<String, Failure> {
    Ok(printed(&file::inspect(file, &std::env::temp_dir())?, is_json, table))
}

/// Makes a node of a backup; what to print.
pub(crate) fn restore(args: &RestoreArgs, is_json: bool) -> Result<String, Failure> {
    let RestoreArgs { file, data_dir, id, raft, http } = args;
    let node = FirstNode { data_dir: data_dir.clone(), id: NodeId(*id), raft: *raft, http: *http };
    let Restored { header, endpoint_id } = restore::restore(file, &node)?;
    if is_json {
        let mut answer = json!({ "id": id, "endpoint_id": endpoint_id, "data_dir": data_dir });
        answer["backup"] = json(&header);
        return Ok(format!("{answer}\n"));
    }
    let dir = data_dir.display();
    Ok(format!(
        "node {id}, alone in a new cluster: {}\nstart it with `aspen-node --data-dir {dir} --raft-listen {raft} --http-listen {http}`, and with \
         --secret-file where others are to join it by a ticket\n",
        in_short(&header)
    ))
}

fn printed(header: &Header, is_json: bool, text: impl FnOnce(&Header) -> String) -> String {
    if is_json { format!("{}\n", json(header)) } else { text(header) }
}

fn json(header: &Header) -> Json {
    serde_json::to_value(header).expect("numbers and texts become JSON")
}

fn in_short(header: &Header) -> String {
    let Header { revision, keys, vaults, bytes, .. } = header;
    let vaults = if *vaults == 1 { "1 vault".to_owned() } else { format!("{vaults} vaults") };
    let keys = if *keys == 1 { "1 key".to_owned() } else { format!("{keys} keys") };
    format!("revision {revision}, {keys}, {vaults}, {bytes} bytes")
}

fn table(header: &Header) -> String {
    let Header { cluster_id, node, revision, term, made_unix_ms, keys, vaults, bytes, .. } = header;
    let cluster = cluster_id.as_deref().unwrap_or("without a name, it had no secret");
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "cluster   {cluster}\n\
         revision  {revision}, of term {term}\n\
         made      {} by node {node}\n\
         keys      {keys}\n\
         vaults    {vaults}\n\
         bytes     {bytes}\n",
        utc(made_unix_ms / 1_000)
    );
    text
}

/// A time as people write it, by the civil calendar: days are counted from a first of March, so that leap days come last
/// (Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn utc(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use aspen_node::backup::FORMAT;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let check = |unix_s: u64, want: &str| assert_eq!(utc(unix_s), want);
        check(0, "1970-01-01 00:00:00 UTC");
        check(951_782_399, "2000-02-28 23:59:59 UTC");
        check(951_782_400, "2000-02-29 00:00:00 UTC");
        check(1_767_225_599, "2025-12-31 23:59:59 UTC");
        check(4_107_542_400, "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn what_is_in_a_backup_is_a_line_each() {
        let header = Header {
            format: FORMAT,
            cluster_id: None,
            node: NodeId(2),
            revision: 12,
            term: 3,
            made_unix_ms: 1_000,
            keys: 1,
            vaults: 2,
            bytes: 28_672,
            digest: "ab".to_owned(),
        };
        let want = "cluster   without a name, it had no secret\n\
                    revision  12, of term 3\n\
                    made      1970-01-01 00:00:01 UTC by node 2\n\
                    keys      1\n\
                    vaults    2\n\
                    bytes     28672\n";
        assert_eq!(table(&header), want);
        assert_eq!(in_short(&header), "revision 12, 1 key, 2 vaults, 28672 bytes");
        assert_eq!(json(&header)["made_unix_ms"], 1_000);
    }
}
