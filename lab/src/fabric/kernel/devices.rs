//! The devices of the fabric: bridges that learn nothing, and a port for every machine, with the address that is behind it.
//!
//! All of them live in the fabric's network namespace and end with it; only the far ends of veth pairs are moved into
//! the namespaces of machines.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{BridgePortState, InfoBridgePort, InfoPortData, LinkAttribute, LinkInfo};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth};

use super::build::Made;
use super::{KernelError, Part, PortKind, offload, steer};
use crate::fabric::namespace::Namespace;
use crate::fabric::netlink::{Interface, refused, with_netlink};
use crate::fabric::tap::{self, TapConfig};
use crate::fabric::{NetworkPort, TapError};
use crate::plan::MacAddress;

/// The bridge of a network.
fn bridge_name(network: usize) -> String {
    format!("fabric{network}")
}

/// The name of a port of the first network.
pub(super) fn port_name(port: u16) -> String {
    port_name_in(0, port)
}

/// The name of a port.
pub(super) fn port_name_in(network: usize, port: u16) -> String {
    if network == 0 { format!("port{port}") } else { format!("net{network}port{port}") }
}

/// The name that the far end of a port has until it is moved to its machine.
fn end_name(network: usize, port: u16) -> String {
    format!("net{network}end{port}")
}

/// Makes the bridge of a network.
pub(super) async fn bridge(handle: &Handle, network: usize, mtu: u32) -> Result<u32, KernelError> {
    let name = bridge_name(network);
    // Who is behind which port is known before the first frame: nothing is learnt. Frames to a group go to every port.
    let message = LinkBridge::new(&name).mcast_snooping(false).mtu(mtu).build();
    let made = handle.link().add(message).execute().await;
    made.map_err(|error| Part::Bridge.refused(refused("making a bridge", &name, error)))?;
    Ok(Interface::find(handle.clone(), &name).await?.index)
}

/// Makes a port of the bridge.
pub(super) async fn port(
    handle: &Handle,
    bridge: u32,
    mtu: u32,
    port: NetworkPort,
    (mac, kind): (MacAddress, PortKind),
) -> Result<Made, KernelError> {
    let name = port_name_in(port.network, port.port.0);
    let tap = match kind {
        PortKind::Veth => {
            let end = end_name(port.network, port.port.0);
            let made = handle.link().add(LinkVeth::new(&name, &end).build()).execute().await;
            made.map_err(|error| Part::Veth.refused(refused("making a pair of interfaces", &name, error)))?;
            offload::off(&end)?;
            None
        }
        PortKind::Tap => Some(Arc::new(tap::open_for_hypervisor(&name)?)),
    };
    offload::off(&name)?;
    let interface = Interface::find(handle.clone(), &name).await?;
    let message = LinkUnspec::new_with_index(interface.index).mtu(mtu).controller(bridge).up().build();
    interface.change("connecting it to the bridge", message).await?;
    let message = LinkBridgePort::new(interface.index).learning(false).flood(false).build();
    interface.change("switching learning and flooding off", message).await?;
    // A static entry: a permanent one would be an address of the bridge itself.
    let entry = handle.neighbours().add_bridge(interface.index, &mac.0).state(NeighbourState::Noarp);
    let added = entry.flags(NeighbourFlags::Controller).execute().await;
    added.map_err(|error| refused("telling the bridge who is behind it", &name, error))?;
    Ok((interface.index, tap))
}

/// Whether a port carries frames: the bridge hears a moment later that both its ends are up.
pub(super) async fn forwards(handle: &Handle, name: &str) -> Result<bool, TapError> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await.map_err(|error| refused("asking for the state", name, error))?;
    let attributes = link.map(|link| link.attributes).unwrap_or_default();
    let infos = attributes.into_iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let state = infos.flatten().find_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => data.into_iter().find_map(|data| match data {
            InfoBridgePort::State(state) => Some(state),
            _ => None,
        }),
        _ => None,
    });
    Ok(state == Some(BridgePortState::Forwarding))
}

/// Moves the far end of a port into the namespace of its machine, and configures it there as a TAP would be.
pub(super) fn connect(
    fabric: &Namespace,
    port: NetworkPort,
    machine: &Namespace,
    config: &TapConfig,
) -> Result<(), TapError> {
    tap::check_name(&config.name)?;
    // What comes into a namespace is as its default says.
    machine.run(tap::ipv6_off)??;
    let end = end_name(port.network, port.port.0);
    fabric.run(|| {
        with_netlink(async |handle| {
            let interface = Interface::find(handle, &end).await?;
            let message = LinkUnspec::new_with_index(interface.index)
                .setns_by_fd(machine.as_fd().as_raw_fd())
                .name(config.name.clone())
                .build();
            interface.change("moving it to its machine", message).await
        })
    })??;
    machine.run(|| tap::configure(config))??;
    machine.run(|| steer::to_one_processor_each(&[(config.name.clone(), port.port.0)]))?;
    Ok(())
}
