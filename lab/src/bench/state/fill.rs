//! Writes a large state: commands with values of four sizes, which no compression and no likeness makes smaller.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use aspen_node::client::HttpConnection;
use rand::distr::{Alphanumeric, SampleString};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;

use crate::limits::bench::{STATE_FILL_CLIENTS, STATE_FILL_PAUSE, STATE_FILL_TRIES_MAX, STATE_VALUES};

/// Values are cut out of a text of which so many bytes are more than the longest of them has.
const SPARE_BYTES: usize = 64 * 1024;

/// Bytes of the values of one command.
fn command_bytes() -> u64 {
    STATE_VALUES.iter().map(|(count, bytes)| count * *bytes as u64).sum()
}

/// Keys of one command.
fn command_keys() -> u64 {
    STATE_VALUES.iter().map(|(count, _)| count).sum()
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) keys: u64,
    /// Bytes of their values.
    pub(super) bytes: u64,
}

/// Writes at least so many bytes, in whole commands; an error is the code of what went wrong.
pub(super) async fn fill(node: SocketAddr, bytes: u64) -> Result<Filled, String> {
    let commands = bytes.div_ceil(command_bytes());
    let longest = STATE_VALUES.iter().map(|(_, bytes)| *bytes).max().unwrap_or_default();
    let pool = Alphanumeric.sample_string(&mut ChaCha8Rng::seed_from_u64(1), longest + SPARE_BYTES);
    let pool = Arc::new(pool);
    let mut writers: JoinSet<Result<(), String>> = JoinSet::new();
    for first in 0..STATE_FILL_CLIENTS {
        let (pool, mut connection) = (pool.clone(), HttpConnection::new(node));
        writers.spawn(async move {
            for number in (first..commands).step_by(usize::try_from(STATE_FILL_CLIENTS).unwrap_or(1)) {
                write(&mut connection, &command(number, &pool)).await?;
            }
            Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written.expect("a writer does not panic")?;
    }
    Ok(Filled { keys: commands * command_keys(), bytes: commands * command_bytes() })
}

/// The body of one command.
fn command(number: u64, pool: &str) -> String {
    let mut random = ChaCha8Rng::seed_from_u64(number);
    let mut body = "{\"command\":{\"SetMulti\":{\"pairs\":[".to_owned();
    for (count, bytes) in STATE_VALUES {
        for one in 0..count {
            let from = random.random_range(0..SPARE_BYTES);
            let value = &pool[from..from + bytes];
            // Writing to a String cannot fail.
            let _ = write!(body, "[\"state/{number:08}/{bytes}/{one}\",\"{value}\"],");
        }
    }
    body.pop();
    body.push_str("]}}}");
    body
}

/// Writes it, again where it does not come about: twice does no harm.
async fn write(connection: &mut HttpConnection, body: &str) -> Result<(), String> {
    let mut tries = 0;
    loop {
        let code = match connection.request("POST", "/kv/write", body.to_owned()).await {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) => answer.code().unwrap_or_else(|| format!("status {}", answer.status)),
            Err(_) => "no answer".to_owned(),
        };
        tries += 1;
        if tries == STATE_FILL_TRIES_MAX {
            return Err(code);
        }
        tokio::time::sleep(STATE_FILL_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value as Json;

    use super::*;

    #[test]
    fn command_has_as_many_bytes_as_it_is_counted_for_and_each_another_key() {
        let pool = "p".repeat(SPARE_BYTES + 1024 * 1024);
        let [one, other] =
            [1, 2].map(|number| -> Json { serde_json::from_str(&command(number, &pool)).unwrap() });
        let pairs = |body: &Json| body["command"]["SetMulti"]["pairs"].as_array().unwrap().clone();
        let keys: BTreeSet<String> = pairs(&one)
            .iter()
            .chain(&pairs(&other))
            .map(|pair| pair[0].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(keys.len() as u64, 2 * command_keys());
        let bytes: usize = pairs(&one).iter().map(|pair| pair[1].as_str().unwrap().len()).sum();
        assert_eq!(bytes as u64, command_bytes());
    }
}
