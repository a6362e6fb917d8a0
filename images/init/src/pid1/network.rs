//! The interfaces: which card each is, its addresses, neighbours and routes.

mod dhcp;
mod netlink;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use aspen_init::config::{self, Address, MacAddress};
use aspen_init::limits::{ADDRESS_LOOK_INTERVAL, ADDRESS_WAIT_MAX, READ_BYTES_MAX};
use aspen_init::report::Reason;
use aspen_init::texts::head;

use self::dhcp::{Change, Client, Lease};
use self::netlink::Netlink;
use super::clock::uptime;
use super::console::Console;
use super::devices::{Uevents, VirtioKind, missing_driver};
use super::events::Event;

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkError {
    /// No interface.
    #[error("no network interface: {}", .0.unwrap_or("attach a virtio network card"))]
    None(Option<&'static str>),
    /// None with that address.
    #[error("no network interface has the address {wanted}, there are {}: change mac", .found.join(", "))]
    Mac {
        /// What was asked for.
        wanted: MacAddress,
        /// What there is.
        found: Vec<String>,
    },
    /// More than one.
    #[error("{} network interfaces ({}): set mac to say which one", .0.len(), .0.join(", "))]
    Many(Vec<String>),
    /// A request to the kernel.
    #[error("cannot {doing} on {interface}")]
    Refused {
        /// What was to be done.
        doing: String,
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No address came.
    #[error("{interface} got no address within {} s: {hint}", ADDRESS_WAIT_MAX.as_secs())]
    NoAddress {
        /// The interface.
        interface: String,
        /// What to do.
        hint: &'static str,
    },
}

impl NetworkError {
    /// Whether another kernel would help.
    pub(super) fn is_of_the_kernel(&self) -> bool {
        matches!(self, Self::None(Some(_)))
    }
}

/// An interface of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    name: String,
    index: u32,
    mac: MacAddress,
}

/// An interface when it is up.
#[derive(Debug)]
pub(super) struct Network {
    told: config::Interface,
    /// How many are before it.
    rank: u32,
    interface: Interface,
    has_ipv6: bool,
    /// What was set, and what a server gave.
    addresses: Arc<Mutex<Vec<(IpAddr, u8)>>>,
}

/// Finds an interface and sets it up, all but the addresses that others give.
///
/// # Errors
/// No interface, several, or a request that the kernel refuses.
pub(super) fn set_up(
    sys: &Path,
    (rank, told): (u32, &config::Interface),
    uevents: &Uevents,
    console: &Arc<Console>,
) -> Result<Network, NetworkError> {
    let look = || match choose(interfaces(sys), told.mac) {
        Err(NetworkError::None(_) | NetworkError::Mac { .. }) => None,
        decided => Some(decided),
    };
    let interface = match uevents.wait_for(look) {
        Some(decided) => decided?,
        None => choose(interfaces(sys), told.mac).map_err(|error| match error {
            NetworkError::None(_) => NetworkError::None(missing_driver(sys, VirtioKind::Net)),
            other => other,
        })?,
    };
    let is_v6 = |address: &Address| match address {
        Address::Static { address, .. } => address.is_ipv6(),
        Address::Auto => true,
        Address::Dhcp => false,
    };
    let has_ipv6 = told.addresses.iter().any(is_v6);
    let network = Network { told: told.clone(), rank, interface, has_ipv6, addresses: Arc::default() };
    network.configure()?;
    if told.addresses.is_empty() || told.addresses.contains(&Address::Dhcp) {
        network.ask_server(console)?;
    }
    Ok(network)
}

/// The machine's Ethernet interfaces that stand for hardware, by name.
fn interfaces(sys: &Path) -> Vec<Interface> {
    let entries = fs::read_dir(sys.join("class/net")).into_iter().flatten().flatten();
    let interface = |entry: fs::DirEntry| {
        let text = |file: &str| head(&entry.path().join(file), READ_BYTES_MAX).ok();
        // ARPHRD_ETHER (linux/if_arp.h); those without a device are made by the kernel or by programs.
        let is_card = text("type")? == "1" && entry.path().join("device").exists();
        let name = entry.file_name().into_string().ok().filter(|_| is_card)?;
        Some(Interface { name, index: text("ifindex")?.parse().ok()?, mac: text("address")?.parse().ok()? })
    };
    let mut found: Vec<Interface> = entries.filter_map(interface).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn choose(mut found: Vec<Interface>, wanted: Option<MacAddress>) -> Result<Interface, NetworkError> {
    let named = |found: &[Interface]| found.iter().map(|one| format!("{} {}", one.name, one.mac)).collect();
    match wanted {
        _ if found.is_empty() => Err(NetworkError::None(None)),
        Some(wanted) => {
            let place = found.iter().position(|interface| interface.mac == wanted);
            let missing = NetworkError::Mac { wanted, found: named(&found) };
            place.map(|place| found.swap_remove(place)).ok_or(missing)
        }
        None if found.len() > 1 => Err(NetworkError::Many(named(&found))),
        None => Ok(found.swap_remove(0)),
    }
}

impl Network {
    fn configure(&self) -> Result<(), NetworkError> {
        let config::Interface { addresses, gateways, neighbours, mtu, .. } = &self.told;
        let index = self.interface.index;
        self.set_ipv6(addresses.contains(&Address::Auto))?;
        let open = Netlink::open();
        let mut netlink = open.map_err(|source| self.refused("talk to the kernel", source))?;
        // The loopback interface is always the first.
        netlink.set_up(1).map_err(|source| self.refused("set up the loopback interface", source))?;
        if let Some(mtu) = *mtu {
            let set = netlink.set_mtu(index, mtu);
            set.map_err(|source| self.refused(format!("set the MTU to {mtu} bytes"), source))?;
        }
        netlink.set_up(index).map_err(|source| self.refused("set the interface up", source))?;
        for address in addresses {
            let Address::Static { address, prefix_bits } = *address else { continue };
            let added = netlink.add_address(index, address, prefix_bits);
            added
                .map_err(|source| self.refused(format!("set the address {address}/{prefix_bits}"), source))?;
            lock(&self.addresses).push((address, prefix_bits));
        }
        for neighbour in neighbours {
            let added = netlink.add_neighbour(index, neighbour.address, neighbour.mac);
            added.map_err(|source| self.refused(format!("add the neighbour {neighbour}"), source))?;
        }
        for gateway in gateways {
            let set = netlink.set_gateway(index, self.rank, *gateway);
            set.map_err(|source| self.refused(format!("set the gateway {gateway}"), source))?;
        }
        Ok(())
    }

    /// IPv6 only where it was asked for, and routers heard only then: nothing else may stray over the network.
    fn set_ipv6(&self, is_auto: bool) -> Result<(), NetworkError> {
        let folder = Path::new("/proc/sys/net/ipv6/conf").join(&self.interface.name);
        // Who knows its neighbours needs no address of this link alone, which would be announced to all of them.
        let is_closed = !is_auto && !self.told.neighbours.is_empty();
        let settings =
            [("addr_gen_mode", is_closed), ("accept_ra", is_auto), ("disable_ipv6", !self.has_ipv6)];
        for (name, value) in settings {
            match fs::write(folder.join(name), if value { "1" } else { "0" }) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.has_ipv6 => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let source = io::Error::other("the kernel has no IPv6: it needs CONFIG_IPV6");
                    return Err(self.refused("use IPv6", source));
                }
                result => result.map_err(|source| self.refused(format!("set {name}"), source))?,
            }
        }
        Ok(())
    }

    /// Begins to ask a DHCP server, and goes on asking as long as the machine runs.
    fn ask_server(&self, console: &Arc<Console>) -> Result<(), NetworkError> {
        let client = Client::new(self.interface.index, self.interface.mac);
        let client = client.map_err(|source| self.refused("ask a DHCP server (CONFIG_PACKET)", source))?;
        let (interface, rank, addresses) = (self.interface.clone(), self.rank, Arc::clone(&self.addresses));
        let console = Arc::clone(console);
        let keep = move || {
            if let Err(error) = keep_lease(client, (&interface, rank), &addresses, &console) {
                console.say(format_args!("DHCP on {} ended: {error}", interface.name));
            }
        };
        let started = thread::Builder::new().name("dhcp".to_owned()).spawn(keep);
        started.map(|_runs_on| ()).map_err(|source| self.refused("start a thread", source))
    }

    /// Waits for the first address; or the reason why the machine is to stop, if somebody says so meanwhile.
    ///
    /// # Errors
    /// None came in time.
    pub(super) fn wait_for_address(&self, events: &Receiver<Event>) -> Result<Option<Reason>, NetworkError> {
        // What is set is there at once; an answer of a server or a router takes a few looks.
        let deadline = uptime() + ADDRESS_WAIT_MAX;
        while self.addresses().is_empty() {
            if uptime() >= deadline {
                return Err(self.no_address());
            }
            if let Ok(Event::Stop(reason)) = events.recv_timeout(ADDRESS_LOOK_INTERVAL) {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }

    fn no_address(&self) -> NetworkError {
        let hint = if self.told.addresses.contains(&Address::Auto) {
            "no router advertised a prefix: set address"
        } else {
            "no DHCP server answered: set address"
        };
        NetworkError::NoAddress { interface: self.interface.name.clone(), hint }
    }

    /// The addresses that the interface has now.
    pub(super) fn addresses(&self) -> Vec<(IpAddr, u8)> {
        let mut addresses = lock(&self.addresses).clone();
        if self.has_ipv6 {
            let text = head(Path::new("/proc/net/if_inet6"), READ_BYTES_MAX).unwrap_or_default();
            for address in global_ipv6(&text, &self.interface.name) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses
    }

    fn refused(&self, doing: impl Into<String>, source: io::Error) -> NetworkError {
        NetworkError::Refused { doing: doing.into(), interface: self.interface.name.clone(), source }
    }
}

/// Keeps the interface at what the server says.
fn keep_lease(
    mut client: Client,
    (interface, rank): (&Interface, u32),
    addresses: &Mutex<Vec<(IpAddr, u8)>>,
    console: &Console,
) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let mut held: Option<Lease> = None;
    loop {
        let lease = match client.next()? {
            Change::Lease(lease) => Some(lease),
            Change::Lost => None,
        };
        if let Some(old) = held.filter(|old| lease.map(|lease| lease.address) != Some(old.address)) {
            console.say(format_args!("DHCP: {} is no longer ours", old.address));
            let _ = netlink.remove_address(interface.index, old.address.into(), old.prefix_bits);
        }
        if let Some(lease) = lease {
            // What the kernel refuses, such as a gateway in no network of ours, another answer of the server's may mend.
            if let Err(error) = apply(&mut netlink, interface, rank, lease) {
                console.say(format_args!("DHCP: cannot use all of {}: {error}", lease.address));
            }
            if held != Some(lease) {
                console.say(format_args!(
                    "DHCP: {} has {}/{}",
                    interface.name, lease.address, lease.prefix_bits
                ));
            }
        }
        let mut addresses = lock(addresses);
        addresses.retain(|(address, _)| held.is_none_or(|old| *address != IpAddr::V4(old.address)));
        addresses.extend(lease.map(|lease| (lease.address.into(), lease.prefix_bits)));
        held = lease;
    }
}

/// Sets what a server gave.
fn apply(netlink: &mut Netlink, interface: &Interface, rank: u32, lease: Lease) -> io::Result<()> {
    netlink.add_address(interface.index, lease.address.into(), lease.prefix_bits)?;
    let set = lease.gateway.map(|gateway| netlink.set_gateway(interface.index, rank, gateway.into()));
    set.unwrap_or(Ok(()))
}

/// The global addresses of an interface that may be used (`/proc/net/if_inet6`: address, index, prefix, scope, flags, name).
fn global_ipv6(text: &str, interface: &str) -> Vec<(IpAddr, u8)> {
    const TENTATIVE: u8 = 0x40;
    let address = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _index, prefix, scope, flags, name] = *words.as_slice() else { return None };
        let number = |text| u8::from_str_radix(text, 16).ok();
        let is_usable = name == interface && number(scope)? == 0 && number(flags)? & TENTATIVE == 0;
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        Some((IpAddr::V6(address), number(prefix)?)).filter(|_| is_usable)
    };
    text.lines().filter_map(address).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::devices::tests::sysfs;
    use super::*;

    #[test]
    fn cards_are_found_and_others_are_not() {
        let sys = sysfs(&[
            ("class/net/lo/type", "772\n"),
            ("class/net/eth0/type", "1\n"),
            ("class/net/eth0/device/vendor", ""),
            ("class/net/eth0/ifindex", "2\n"),
            ("class/net/eth0/address", "52:54:00:00:00:01\n"),
            ("class/net/bridge0/type", "1\n"),
            ("class/net/bridge0/ifindex", "3\n"),
            ("class/net/bridge0/address", "52:54:00:00:00:02\n"),
        ]);
        let mac = "52:54:00:00:00:01".parse().unwrap();
        assert_eq!(interfaces(sys.path()), [Interface { name: "eth0".to_owned(), index: 2, mac }]);
    }

    #[test]
    fn choice_is_the_only_one_or_the_wanted_one() {
        let card = |n: u8| Interface {
            name: format!("eth{n}"),
            index: u32::from(n) + 2,
            mac: MacAddress([2, 0, 0, 0, 0, n]),
        };
        assert_eq!(choose(vec![card(0)], None).unwrap(), card(0));
        let wanted = Some(MacAddress([2, 0, 0, 0, 0, 1]));
        assert_eq!(choose(vec![card(0), card(1)], wanted).unwrap(), card(1));
        let error = |found, wanted| choose(found, wanted).unwrap_err().to_string();
        assert_eq!(
            error(vec![card(0), card(1)], None),
            "2 network interfaces (eth0 02:00:00:00:00:00, eth1 02:00:00:00:00:01): set mac to say which one"
        );
        assert_eq!(
            error(vec![card(0)], wanted),
            "no network interface has the address 02:00:00:00:00:01, there are eth0 02:00:00:00:00:00: change mac"
        );
        assert_eq!(error(vec![], None), "no network interface: attach a virtio network card");
    }

    #[test]
    fn tentative_and_local_addresses_do_not_count() {
        let text = "fd000000000000000000000000000001 02 40 00 80 eth0\n\
                    fd000000000000000000000000000002 02 40 00 c0 eth0\n\
                    fe800000000000000000000000000001 02 40 20 80 eth0\n\
                    fd000000000000000000000000000003 03 40 00 80 eth1\nnonsense\n";
        assert_eq!(global_ipv6(text, "eth0"), [("fd00::1".parse().unwrap(), 64)]);
    }
}
