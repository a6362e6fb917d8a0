//! Makes the bridges, their ports, and on each port of the first a class for every sender.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::devices::{self, port_name};
use super::tc::{self, Netem};
use super::{KernelError, Part, numbered};
use crate::fabric::netlink::{Interface, ask};
use crate::fabric::{NetworkPort, NetworkPorts, TapError};
use crate::link::{LinkRule, PortIndex};

/// The index of a port's interface, and its TAP, if it has one.
pub(super) type Made = (u32, Option<Arc<OwnedFd>>);

/// Everything but the rules, in the calling thread's namespace: the ports, and whether there is netem.
pub(super) async fn make(
    handle: &Handle,
    networks: &[NetworkPorts],
) -> Result<(Vec<Vec<Made>>, bool), KernelError> {
    Interface::find(handle.clone(), "lo").await?.set_up().await?;
    let mut made = Vec::new();
    for (network, NetworkPorts { mtu, ports }) in networks.iter().enumerate() {
        let bridge = devices::bridge(handle, network, *mtu).await?;
        let mut of_this = Vec::new();
        for (number, spec) in numbered(ports) {
            let port = NetworkPort { network, port: PortIndex(number) };
            of_this.push(devices::port(handle, bridge, *mtu, port, *spec).await?);
        }
        made.push(of_this);
    }
    let has_netem = add_classes(handle, &made[0]).await?;
    Ok((made, has_netem))
}

/// Sorts what a port sends by its senders; whether there is netem.
async fn add_classes(handle: &Handle, made: &[Made]) -> Result<bool, KernelError> {
    let mut has_netem = true;
    for (to, (index, _)) in numbered(made) {
        let root = RouteNetlinkMessage::NewQueueDiscipline(tc::root(*index));
        let told = tell(handle, to, "adding an htb", root, NLM_F_CREATE | NLM_F_EXCL).await;
        told.map_err(|error| Part::Htb.refused(error))?;
        for (from, _) in numbered(made).filter(|(from, _)| *from != to) {
            let class = RouteNetlinkMessage::NewTrafficClass(tc::class(*index, from));
            tell(handle, to, "adding a class", class, NLM_F_CREATE | NLM_F_EXCL).await?;
            has_netem = has_netem && add_netem(handle, to, *index, from).await?;
        }
    }
    Ok(has_netem)
}

/// Puts a netem that does nothing yet into a class; whether this host has one.
async fn add_netem(handle: &Handle, to: u16, index: u32, from: u16) -> Result<bool, KernelError> {
    let leaf = tc::leaf(index, from, false, &Netem::of(&LinkRule::default()), 0);
    let message = RouteNetlinkMessage::NewQueueDiscipline(leaf);
    match tell(handle, to, "adding a netem", message, NLM_F_CREATE | NLM_F_EXCL).await {
        Ok(()) => Ok(true),
        Err(error) if Part::is_unknown(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Asks something about a port.
pub(super) async fn tell(
    handle: &Handle,
    port: u16,
    doing: &'static str,
    message: RouteNetlinkMessage,
    flags: u16,
) -> Result<(), TapError> {
    let told = ask(handle, message, flags).await;
    told.map_err(|source| TapError::Netlink { doing, name: port_name(port), source })
}
