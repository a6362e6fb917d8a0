//! What the lab may do once its sandbox is there, also where its user is root: what it needs for that, and nothing for good that
//! reaches beyond.
//!
//! Machines are connected, started again and probed for as long as a run lasts, each in a namespace of its own, and disks that
//! lose power are mounted anew: that takes `CAP_SYS_ADMIN` (setns(2), mount(2)). The kernel's modules, its clock, its logs and
//! its end are nobody's business here, nor are the memory and the messages of other users' programs.

use std::collections::HashSet;

use caps::errors::CapsError;
use caps::{CapSet, Capability};

/// What is left (capabilities(7)).
pub(super) const KEPT: [Capability; 9] = [
    // Namespaces and mounts.
    Capability::CAP_SYS_ADMIN,
    // Interfaces, bridges and their rules, and frames as they are.
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    // Nodes and hypervisors are started without most or all of them.
    Capability::CAP_SETPCAP,
    Capability::CAP_KILL,
    // Files of whoever has started the lab, or gave it something.
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_CHOWN,
];

/// Lets everything else go, for this process and all that it starts.
///
/// # Errors
/// The kernel knows no bounding set.
pub(super) fn keep_what_is_needed() -> Result<(), CapsError> {
    let kept: HashSet<Capability> = KEPT.into_iter().collect();
    for capability in caps::runtime::thread_all_supported().difference(&kept) {
        if caps::has_cap(None, CapSet::Bounding, *capability)? {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    let left: HashSet<Capability> = permitted.intersection(&kept).copied().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Inheritable, &HashSet::new())?;
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)
}
