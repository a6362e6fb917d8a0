//! Settings as `aspen-node config` prints them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use super::entry::{Entry, SecretSource};
use super::source::{Setting, Source};
use super::{Config, lookups, region};
use crate::limits::MIB;
use crate::raft::PromotionPolicy;
use crate::types::{NodeId, NodeInfo};

/// A string of TOML. JSON's are TOML's, too, but for one character (TOML 1.0, String).
fn text(text: &dyn Display) -> String {
    serde_json::Value::from(text.to_string()).to_string().replace('\u{7f}', "\\u007f")
}

impl Config {
    /// Every setting in TOML, with its source.
    pub(super) fn settings(&self, sources: &BTreeMap<&'static str, Source>) -> Vec<Setting> {
        let ms = |duration: Duration| duration.as_millis().to_string();
        let mib = |bytes: u64| (bytes / MIB).to_string();
        let peer = |(id, info): &(NodeId, NodeInfo)| {
            let NodeInfo { endpoint_id, raft, http } = info;
            format!("{{ id = {id}, endpoint_id = \"{endpoint_id}\", raft = \"{raft}\", http = \"{http}\" }}")
        };
        let peers: Vec<String> = self.peers.iter().map(peer).collect();
        let address = |address: &Option<SocketAddr>| address.as_ref().map(|address| text(address));
        let ticket = match &self.entry {
            Entry::Join { ticket, .. } => Some(text(ticket)),
            Entry::Wait | Entry::Bootstrap => None,
        };
        let secret_file = match &self.secret {
            Some(SecretSource::File(path)) => Some(text(&path.display())),
            Some(SecretSource::Environment) | None => None,
        };
        let PromotionPolicy { target_voters, replace_after } = &self.promotion;
        let may_be_absent = [
            ("id", self.id.map(|id| id.to_string())),
            ("raft_advertise", address(&self.advertise.raft)),
            ("http_advertise", address(&self.advertise.http)),
            ("secret_file", secret_file),
            ("ticket", ticket),
            ("target_voters", target_voters.map(|count| count.to_string())),
            ("replace_after_s", replace_after.map(|after| after.as_secs().to_string())),
            ("region", self.about.region.as_ref().map(|region| text(region))),
            ("zone", self.about.zone.as_ref().map(|zone| text(zone))),
            ("preferred_regions", region::list(&self.about.preferred_regions)),
        ];
        let have_value = [
            ("data_dir", text(&self.data_dir.display())),
            ("raft_listen", text(&self.raft_listen)),
            ("http_listen", text(&self.http_listen)),
            ("http_insecure", self.http_insecure.to_string()),
            ("bootstrap", (self.entry == Entry::Bootstrap).to_string()),
            ("rejoin", self.rejoins().to_string()),
            ("gossip", self.gossips().to_string()),
            ("heartbeat_ms", ms(self.timing.heartbeat)),
            ("election_ms_min", ms(self.timing.election_min)),
            ("election_ms_max", ms(self.timing.election_max)),
            ("lease_clock", text(&self.lease_clock.name())),
            ("snapshot_entries", self.snapshots.entries.to_string()),
            ("snapshot_log_mib", mib(self.snapshots.log_bytes)),
            ("snapshot_mib_max", mib(self.snapshots.bytes_max)),
            ("disk_reserve_mib", mib(self.disk_reserve)),
            ("watch_history_mib", mib(self.watch_history)),
            ("restart_on_failure", self.restart_on_failure.to_string()),
            ("control", text(&self.control.name())),
            ("core_dumps", self.core_dumps.to_string()),
            ("log", text(&self.log)),
            ("log_format", text(&self.log_format.name())),
            ("peers", format!("[{}]", peers.join(", "))),
        ];
        let setting = |(key, value)| Setting {
            key,
            value,
            source: sources.get(key).cloned().unwrap_or(Source::Default),
        };
        let files =
            self.credential_settings().map(|(key, path)| (key, path.map(|path| text(&path.display()))));
        let have_value = have_value.map(|(key, value)| (key, Some(value)));
        let lookups = lookups::printed(&self.lookups, text);
        let settings = may_be_absent.into_iter().chain(files).chain(have_value).chain(lookups).map(setting);
        // What it is stays hidden.
        let secret = (self.secret == Some(SecretSource::Environment)).then_some(Setting {
            key: "secret",
            value: None,
            source: Source::Environment,
        });
        settings.chain(secret).collect()
    }
}
