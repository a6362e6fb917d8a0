//! The values of keys: what each is, how it is read and how it is written.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{ConfigError, Entry};
use crate::limits::VALUE_BYTES_MAX;

/// How the interface comes to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// This one.
    Static {
        /// The address.
        address: IpAddr,
        /// Length of its network's prefix, in bits.
        prefix_bits: u8,
    },
    /// From a server (DHCP for IPv4, RFC 2131).
    Dhcp,
    /// From an IPv6 router's advertisements (SLAAC, RFC 4862).
    Auto,
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "dhcp" => return Ok(Self::Dhcp),
            "auto" => return Ok(Self::Auto),
            _ => {}
        }
        let refused = "no address: ADDRESS/PREFIX such as 10.1.2.10/24, dhcp or auto";
        let (address, prefix) = text.split_once('/').ok_or(refused)?;
        let address: IpAddr = address.parse().map_err(|_no| refused)?;
        let prefix_bits: u8 = prefix.parse().map_err(|_no| refused)?;
        if prefix_bits > if address.is_ipv4() { 32 } else { 128 } {
            return Err("the prefix has 0 to 32 bits for IPv4, 0 to 128 for IPv6");
        }
        Ok(Self::Static { address, prefix_bits })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static { address, prefix_bits } => write!(f, "{address}/{prefix_bits}"),
            Self::Dhcp => f.write_str("dhcp"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl FromStr for MacAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = "no Ethernet address: six pairs of hexadecimal digits with colons between";
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(refused)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_no| refused)?;
        }
        if parts.next().is_some() { Err(refused) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&pairs.join(":"))
    }
}

/// A permanent neighbour, so that nobody asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddress,
}

impl FromStr for Neighbour {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = "no neighbour: ADDRESS=MAC such as 10.1.2.11=52:54:00:00:00:0b";
        let (address, mac) = text.split_once('=').ok_or(refused)?;
        let address = address.parse().map_err(|_no| refused)?;
        Ok(Self { address, mac: mac.parse().map_err(|_no| refused)? })
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.address, self.mac)
    }
}

/// Which disk holds the data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DataDevice {
    /// A disk with the serial number or a partition with the name `aspen-data`, or the only other disk.
    #[default]
    Auto,
    /// The disk with this serial number.
    Serial(String),
    /// A file in /dev.
    Path(String),
}

impl FromStr for DataDevice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("serial:") {
            _ if text == "auto" => Ok(Self::Auto),
            // A virtio block device has 20 bytes for it (virtio 1.2, 5.2.6).
            Some(serial) if (1..=20).contains(&serial.len()) => Ok(Self::Serial(serial.to_owned())),
            Some(_) => Err("a serial number has 1 to 20 bytes"),
            None if text.starts_with("/dev/") && !text.contains("..") => Ok(Self::Path(text.to_owned())),
            None => Err("no disk: auto, serial:NAME or a path in /dev"),
        }
    }
}

impl fmt::Display for DataDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Serial(serial) => write!(f, "serial:{serial}"),
            Self::Path(path) => f.write_str(path),
        }
    }
}

/// What happens to a data disk that is blank. One that is not is never written over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DataFormat {
    /// It gets an empty file system.
    #[default]
    IfBlank,
    /// It is refused.
    Never,
}

impl FromStr for DataFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "if-blank" => Ok(Self::IfBlank),
            "never" => Ok(Self::Never),
            _ => Err("if-blank and never are allowed"),
        }
    }
}

impl fmt::Display for DataFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IfBlank => "if-blank",
            Self::Never => "never",
        })
    }
}

/// Refuses values that no machine needs.
pub(super) fn bounded(entry: &Entry) -> Result<(), ConfigError> {
    let bytes = entry.values.iter().map(String::len).sum();
    if bytes > VALUE_BYTES_MAX {
        return Err(ConfigError::Long { place: entry.place, key: entry.key.clone(), bytes });
    }
    match entry.values.iter().find(|value| value.chars().any(char::is_control)) {
        Some(value) => {
            Err(refused(entry, &value.escape_debug().to_string(), "control characters are not allowed"))
        }
        None => Ok(()),
    }
}

/// The one value of an entry.
pub(super) fn one<T>(
    entry: &Entry,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<T, ConfigError> {
    match entry.values.as_slice() {
        [value] => parse(value).map_err(|reason| refused(entry, value, reason)),
        values => Err(ConfigError::Count { place: entry.place, key: entry.key.clone(), count: values.len() }),
    }
}

/// The values of an entry, each of which may be a list with commas.
pub(super) fn parse_each<T>(
    entry: &Entry,
    max: usize,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, ConfigError> {
    let items: Vec<&str> = entry.values.iter().flat_map(|value| value.split(',')).map(str::trim).collect();
    if items.is_empty() || items.len() > max {
        let (place, key, count) = (entry.place, entry.key.clone(), items.len());
        return Err(ConfigError::ListCount { place, key, count, max });
    }
    items.into_iter().map(|item| parse(item).map_err(|reason| refused(entry, item, reason))).collect()
}

fn refused(entry: &Entry, value: &str, reason: &'static str) -> ConfigError {
    let (place, key) = (entry.place, entry.key.clone());
    ConfigError::Value { place, key, value: value.to_owned(), reason: reason.to_owned() }
}
