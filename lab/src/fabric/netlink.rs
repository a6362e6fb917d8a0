//! What is asked of the kernel by rtnetlink, inside the network namespace of the calling thread: interfaces, their addresses
//! and neighbours, and messages that others make.
//!
//! It decides nothing: who is connected to whom is for its callers to know.

use std::io;
use std::net::IpAddr;

use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{Handle, LinkUnspec};

use super::TapError;
use super::tap::TapConfig;
use crate::plan::MacAddress;

/// Runs `work` with a netlink socket of the calling thread's namespace. The thread may be no runtime's.
pub(super) fn with_netlink<T, E: From<TapError>>(
    work: impl AsyncFnOnce(Handle) -> Result<T, E>,
) -> Result<T, E> {
    let failed = |source| TapError::Io { doing: "opening a netlink socket", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    runtime.block_on(async {
        let (connection, handle, _unasked) = rtnetlink::new_connection().map_err(failed)?;
        tokio::select! {
            outcome = work(handle) => outcome,
            () = connection => Err(failed(io::ErrorKind::ConnectionAborted.into()).into()),
        }
    })
}

/// Sends one message and waits until the kernel has carried it out.
pub(super) async fn ask(handle: &Handle, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut answers = handle.clone().request(request).map_err(answer)?;
    while let Some(message) = answers.next().await {
        if let NetlinkPayload::Error(error) = message.payload
            && error.code.is_some()
        {
            return Err(error.to_io());
        }
    }
    Ok(())
}

/// One interface, by its index.
pub(super) struct Interface<'a> {
    handle: Handle,
    name: &'a str,
    pub(super) index: u32,
}

impl<'a> Interface<'a> {
    pub(super) async fn find(handle: Handle, name: &'a str) -> Result<Self, TapError> {
        let mut links = handle.link().get().match_name(name.to_owned()).execute();
        let found = links.try_next().await.map_err(|error| refused("finding the index", name, error))?;
        drop(links);
        let Some(link) = found else {
            let source = io::ErrorKind::NotFound.into();
            return Err(TapError::Netlink { doing: "finding the index", name: name.to_owned(), source });
        };
        Ok(Self { handle, name, index: link.header.index })
    }

    /// Gives it its addresses and its MTU, sets it up, and tells it of its neighbours.
    pub(super) async fn configure(&self, config: &TapConfig) -> Result<(), TapError> {
        self.set_link_address(config.mac, config.mtu).await?;
        self.set_up().await?;
        // Only an interface that is up takes neighbours, and knows at once that an address is its own.
        for (address, prefix_bits) in &config.addresses {
            self.add_address(*address, *prefix_bits).await?;
        }
        for (address, mac) in &config.neighbours {
            self.add_neighbour(*address, *mac).await?;
        }
        Ok(())
    }

    pub(super) async fn set_up(&self) -> Result<(), TapError> {
        self.change("setting up", LinkUnspec::new_with_index(self.index).up().build()).await
    }

    /// Changes something about it.
    pub(super) async fn change(&self, doing: &'static str, message: LinkMessage) -> Result<(), TapError> {
        let outcome = self.handle.link().set(message).execute().await;
        outcome.map_err(|error| refused(doing, self.name, error))
    }

    async fn set_link_address(&self, mac: MacAddress, mtu: u32) -> Result<(), TapError> {
        let message = LinkUnspec::new_with_index(self.index).address(mac.0.to_vec()).mtu(mtu).build();
        self.change("setting the mac address and the mtu", message).await
    }

    async fn add_address(&self, address: IpAddr, prefix_bits: u8) -> Result<(), TapError> {
        let mut request = self.handle.address().add(self.index, address, prefix_bits);
        // Nobody else has it, and nobody is asked.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        let outcome = request.execute().await;
        outcome.map_err(|error| refused("setting the address", self.name, error))
    }

    async fn add_neighbour(&self, address: IpAddr, mac: MacAddress) -> Result<(), TapError> {
        let request = self.handle.neighbours().add(self.index, address);
        // Without a state of its own the request makes a permanent entry, also in place of one that the kernel has learned from
        // a frame since the interface is up.
        let outcome = request.link_layer_address(&mac.0).replace().execute().await;
        outcome.map_err(|error| refused("adding a neighbour", self.name, error))
    }
}

/// The kernel's answer to something that was asked of an interface.
pub(super) fn refused(doing: &'static str, name: &str, error: rtnetlink::Error) -> TapError {
    TapError::Netlink { doing, name: name.to_owned(), source: answer(error) }
}

/// What the kernel said.
pub(super) fn answer(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
