//! What a host needs for a kernel fabric, and how to get it.

use std::error::Error;
use std::fmt;

use nix::errno::Errno;

use super::KernelError;
use crate::fabric::TapError;

/// Something that the kernel fabric is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Connects the ports.
    Bridge,
    /// Connects a machine to its port.
    Veth,
    /// Sorts the frames of a port by their senders.
    Htb,
    /// Delays and loses frames.
    Netem,
    /// The program that tells the kernel the rules.
    Nft,
    /// Rules for frames that are bridged.
    BridgeRules,
    /// Rules that copy frames.
    Copies,
}

impl Part {
    /// What the user can do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Bridge => {
                "load it (`sudo modprobe bridge`), run the command in `lab rig`, or take --fabric switch"
            }
            Self::Veth => {
                "load it (`sudo modprobe veth`), run the command in `lab rig`, or take --fabric switch"
            }
            Self::Htb => {
                "load it (`sudo modprobe sch_htb`), run the command in `lab rig`, or take --fabric switch"
            }
            Self::Netem => {
                "links cannot be slow or lossy without it: load it (`sudo modprobe sch_netem`), run the command in `lab rig`, \
                 or take --fabric switch"
            }
            Self::Nft => "get it (`sudo apt-get install nftables`), or take --fabric switch",
            Self::Copies => {
                "`duplicate` cannot be had without it: load it (`sudo modprobe nft_dup_netdev`), run the command in `lab rig`, or \
                 take --fabric switch"
            }
            Self::BridgeRules => {
                "load it (`sudo modprobe nf_tables`), run the command in `lab rig`, or take --fabric switch"
            }
        }
    }

    /// What the kernel says to a kind of thing that it does not know.
    pub(super) fn is_unknown(error: &TapError) -> bool {
        let TapError::Netlink { source, .. } = error else { return false };
        let unknown = [Errno::ENOENT, Errno::EOPNOTSUPP];
        source.raw_os_error().is_some_and(|code| unknown.contains(&Errno::from_raw(code)))
    }

    /// That it is lacking, if that is what the kernel says.
    pub(super) fn refused(self, error: TapError) -> KernelError {
        if Self::is_unknown(&error) { self.lacking(error) } else { error.into() }
    }

    /// That it is lacking, as this error says.
    pub(crate) fn lacking(self, error: impl Error + Send + Sync + 'static) -> KernelError {
        KernelError::Lacks { part: self, source: Box::new(error) }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge (CONFIG_BRIDGE)",
            Self::Veth => "veth (CONFIG_VETH)",
            Self::Htb => "htb (CONFIG_NET_SCH_HTB)",
            Self::Netem => "netem (CONFIG_NET_SCH_NETEM)",
            Self::Nft => "program nft",
            Self::Copies => "nftables that copy frames (CONFIG_NFT_DUP_NETDEV, CONFIG_NFT_NUMGEN)",
            Self::BridgeRules => "nftables for bridges (CONFIG_NF_TABLES_BRIDGE)",
        })
    }
}
