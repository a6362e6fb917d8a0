//! What the appliance is told: a few flat keys, from several sources, to checked settings.
//!
//! Sources in their order: `aspen.conf` on the config disk, the kernel command line, `fw_cfg`, SMBIOS. A key is taken from
//! the first source that has it, whole: lists are not joined. It reads no disk and knows no network.

mod entries;
mod error;
mod value;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::IpAddr;

pub use self::entries::{command_line, file, smbios_string, text};
pub use self::error::ConfigError;
pub use self::value::{Address, DataDevice, DataFormat, MacAddress, Neighbour};

use self::value::{bounded, one, parse_each};
use crate::limits::{
    ADDRESSES_MAX, HOSTNAME_BYTES_MAX, INTERFACES_MAX, MTU_BYTES_MAX, MTU_BYTES_MIN, NEIGHBOURS_MAX,
    NODE_FLAGS_MAX,
};

/// Every key besides `node.KEY` and those of further interfaces.
pub const KEYS: [&str; 8] =
    ["hostname", "address", "gateway", "neighbours", "mac", "mtu", "data.device", "data.format"];
/// Those of them that each further interface has, too: `net2.mac` and so on.
pub const INTERFACE_KEYS: [&str; 5] = ["address", "gateway", "neighbours", "mac", "mtu"];
/// What begins a key of a further interface, before its number.
const INTERFACE_KEY_PREFIX: &str = "net";
/// What begins a key that is a flag of the node.
pub const NODE_KEY_PREFIX: &str = "node.";
/// Flags that the appliance gives the node itself.
const NODE_KEYS_TAKEN: [&str; 2] = ["config", "data-dir"];

/// Where a value can come from, in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// `aspen.conf` on the config disk.
    ConfigDisk,
    /// The kernel command line: `aspen.KEY=value`.
    CommandLine,
    /// QEMU's firmware configuration: a file `opt/org.aspen/KEY`.
    FwCfg,
    /// SMBIOS: a string `aspen.KEY=value` of type 11.
    Smbios,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigDisk => "aspen.conf on the config disk",
            Self::CommandLine => "the kernel command line",
            Self::FwCfg => "fw_cfg",
            Self::Smbios => "smbios type 11",
        })
    }
}

/// Where exactly a value was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its source.
    pub source: Source,
    /// Its line, from 1, where the source has lines.
    pub line: Option<u32>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}, line {line}", self.source),
            None => self.source.fmt(f),
        }
    }
}

/// A key and its values, as they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, without what stands before it in some sources.
    pub key: String,
    /// One value, or the items of a list.
    pub values: Vec<String>,
    /// Where it was written.
    pub place: Place,
}

/// What the appliance is told, checked. What is not set has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The machine's name.
    pub hostname: Option<String>,
    /// Its interfaces; none is one of which nothing is said.
    pub interfaces: Vec<Interface>,
    /// Which disk holds the data.
    pub data_device: DataDevice,
    /// What happens to a blank disk.
    pub data_format: DataFormat,
    /// The node's flags in their order of keys: name without dashes, value.
    pub node_flags: Vec<(String, String)>,
    /// Where each key was taken from, in the order of keys.
    pub places: BTreeMap<String, Place>,
}

/// What the appliance is told of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its addresses; none is [`Address::Dhcp`].
    pub addresses: Vec<Address>,
    /// The default routes, one for each family.
    pub gateways: Vec<IpAddr>,
    /// Permanent neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Which card it is; otherwise the only one.
    pub mac: Option<MacAddress>,
    /// Longest packet, in bytes; otherwise what its card says.
    pub mtu: Option<u32>,
}

impl Settings {
    /// Takes each key from the first source that has it, and checks all of it.
    ///
    /// # Errors
    /// The first key or value that cannot stand, with its place. Also those that another source would have hidden.
    pub fn from_entries(mut entries: Vec<Entry>) -> Result<Self, ConfigError> {
        entries.sort_by_cached_key(|entry| (canonical(&entry.key), entry.place.source));
        let mut settings = Self::default();
        for entry in entries {
            // Every entry is checked, so that a mistake does not wait for the day on which its source is the first.
            let mut parsed = Self::default();
            parsed.take(&entry)?;
            let key = canonical(&entry.key);
            match settings.places.get(&key) {
                None => {
                    settings.take(&entry)?;
                    settings.places.insert(key, entry.place);
                }
                Some(place) if place.source == entry.place.source => {
                    return Err(ConfigError::Twice { place: entry.place, key: entry.key });
                }
                Some(_earlier_source) => {}
            }
        }
        if settings.interfaces.is_empty() {
            settings.interfaces.push(Interface::default());
        }
        let nameless = settings.interfaces.iter().skip(1).position(|interface| interface.mac.is_none());
        if let Some(position) = nameless {
            return Err(ConfigError::Nameless { number: position + 2 });
        }
        let macs: Vec<_> = settings.interfaces.iter().map(|interface| interface.mac).collect();
        let twin = (1..macs.len()).find(|position| macs[..*position].contains(&macs[*position]));
        if let Some(position) = twin {
            return Err(ConfigError::Twin { number: position + 1 });
        }
        if settings.node_flags.len() > NODE_FLAGS_MAX {
            return Err(ConfigError::FlagCount(settings.node_flags.len()));
        }
        Ok(settings)
    }

    fn take(&mut self, entry: &Entry) -> Result<(), ConfigError> {
        if is_secret(&entry.key) {
            return Err(ConfigError::Secret { place: entry.place, key: entry.key.clone() });
        }
        bounded(entry)?;
        match entry.key.as_str() {
            "hostname" => self.hostname = Some(one(entry, hostname)?),
            "data.device" => self.data_device = one(entry, str::parse)?,
            "data.format" => self.data_format = one(entry, str::parse)?,
            key if let Some((position, key)) = interface_key(key) => {
                if self.interfaces.len() <= position {
                    self.interfaces.resize_with(position + 1, Interface::default);
                }
                self.interfaces[position].take(key, entry)?;
            }
            key => {
                let flag = key.strip_prefix(NODE_KEY_PREFIX).and_then(node_flag);
                let unknown = || ConfigError::UnknownKey { place: entry.place, key: key.to_owned() };
                let flag = flag.ok_or_else(unknown)?;
                if NODE_KEYS_TAKEN.contains(&flag.as_str()) {
                    return Err(ConfigError::Taken { place: entry.place, key: key.to_owned() });
                }
                self.node_flags.extend(entry.values.iter().map(|value| (flag.clone(), value.clone())));
            }
        }
        Ok(())
    }

    /// The text of an `aspen.conf` that says the same.
    pub fn to_file(&self) -> String {
        let mut lines = String::new();
        let mut line = |key: &str, values: Vec<String>| {
            // A JSON text is a TOML text, too.
            let mut texts: Vec<String> =
                values.into_iter().map(|value| serde_json::Value::from(value).to_string()).collect();
            let value = match texts.len() {
                0 => return,
                1 => texts.remove(0),
                _ => format!("[{}]", texts.join(", ")),
            };
            let _ = writeln!(lines, "{key} = {value}");
        };
        line("hostname", self.hostname.iter().cloned().collect());
        for (number, interface) in (1..).zip(&self.interfaces) {
            let Interface { addresses, gateways, neighbours, mac, mtu } = interface;
            let prefix = if number == 1 { String::new() } else { format!("{INTERFACE_KEY_PREFIX}{number}.") };
            let key = |key: &str| format!("{prefix}{key}");
            line(&key("address"), addresses.iter().map(ToString::to_string).collect());
            line(&key("gateway"), gateways.iter().map(ToString::to_string).collect());
            line(&key("neighbours"), neighbours.iter().map(ToString::to_string).collect());
            line(&key("mac"), mac.iter().map(ToString::to_string).collect());
            line(&key("mtu"), mtu.iter().map(ToString::to_string).collect());
        }
        line("data.device", vec![self.data_device.to_string()]);
        line("data.format", vec![self.data_format.to_string()]);
        let mut flags: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (flag, value) in &self.node_flags {
            flags.entry(flag).or_default().push(value.clone());
        }
        for (flag, values) in flags {
            line(&format!("{NODE_KEY_PREFIX}{}", flag.replace('-', "_")), values);
        }
        lines
    }
}

impl Interface {
    /// Takes one of [`INTERFACE_KEYS`].
    fn take(&mut self, key: &str, entry: &Entry) -> Result<(), ConfigError> {
        match key {
            "address" => self.addresses = parse_each(entry, ADDRESSES_MAX, str::parse)?,
            "gateway" => {
                self.gateways = parse_each(entry, 2, |text| text.parse().map_err(|_no| "no IP address"))?;
                if self.gateways.len() == 2 && self.gateways[0].is_ipv4() == self.gateways[1].is_ipv4() {
                    return Err(ConfigError::Gateways { place: entry.place });
                }
            }
            "neighbours" => self.neighbours = parse_each(entry, NEIGHBOURS_MAX, str::parse)?,
            "mac" => self.mac = Some(one(entry, str::parse)?),
            "mtu" => self.mtu = Some(one(entry, mtu)?),
            other => unreachable!("{other} is no key of an interface"),
        }
        Ok(())
    }
}

/// The position of the interface to which a key belongs, and the key without its prefix.
fn interface_key(key: &str) -> Option<(usize, &'static str)> {
    let (position, key) = match key.strip_prefix(INTERFACE_KEY_PREFIX).and_then(|rest| rest.split_once('.')) {
        // The keys of the first have no number.
        Some((number, key)) => (number.parse::<usize>().ok().filter(|number| *number > 1)? - 1, key),
        None => (0, key),
    };
    let known = INTERFACE_KEYS.into_iter().find(|known| *known == key)?;
    (position < INTERFACES_MAX).then_some((position, known))
}

/// A packet's length.
fn mtu(text: &str) -> Result<u32, &'static str> {
    let mtu = text.parse().ok().filter(|mtu| (MTU_BYTES_MIN..=MTU_BYTES_MAX).contains(mtu));
    mtu.ok_or("no MTU: 576 to 65535 bytes are allowed")
}

/// What must not travel in the open: every user of a machine reads its command line, and a host's its neighbours' own.
fn is_secret(key: &str) -> bool {
    key.to_ascii_lowercase().contains("secret")
}

/// The one spelling of a key that has two: `node.http-listen` is `node.http_listen`.
fn canonical(key: &str) -> String {
    if key.starts_with(NODE_KEY_PREFIX) { key.replace('-', "_") } else { key.to_owned() }
}

/// The flag of a node's key: `http_listen` is `http-listen`.
fn node_flag(key: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let begins = key.starts_with(|c: char| c.is_ascii_lowercase());
    (begins && key.chars().all(is_plain)).then(|| key.replace('_', "-"))
}

/// A name that hosts can have (RFC 1123, 2.1).
fn hostname(text: &str) -> Result<String, &'static str> {
    let is_label = |label: &str| {
        let is_plain = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        !label.is_empty() && is_plain && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() > HOSTNAME_BYTES_MAX || !text.split('.').all(is_label) {
        return Err("no host name: letters, digits and hyphens between dots, 1 to 64 bytes");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
