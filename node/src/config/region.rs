//! Where a node is, and where the cluster's leader should be.

use super::file::FileConfig;
use super::source::Sources;
use super::{ConfigError, RunArgs};
use crate::limits::PREFERRED_REGIONS_MAX;
use crate::network::about::About;
use crate::types::Label;

/// What a node says of itself, wherever that is said.
pub(super) fn about(args: &RunArgs, file: &FileConfig, sources: &mut Sources) -> Result<About, ConfigError> {
    let typed = Some(args.preferred_regions.clone()).filter(|regions| !regions.is_empty());
    let listed = file.preferred_regions.clone().filter(|regions| !regions.is_empty());
    let preferred_regions = sources.pick("preferred_regions", typed, listed).unwrap_or_default();
    if preferred_regions.len() > PREFERRED_REGIONS_MAX as usize {
        return Err(ConfigError::PreferredRegions(preferred_regions.len()));
    }
    let mut before = preferred_regions.iter();
    while let Some(region) = before.next() {
        if before.as_slice().contains(region) {
            return Err(ConfigError::RegionTwice(region.clone()));
        }
    }
    Ok(About {
        region: sources.pick("region", args.region.clone(), file.region.clone()),
        zone: sources.pick("zone", args.zone.clone(), file.zone.clone()),
        preferred_regions,
    })
}

/// A list of regions as TOML, unless there are none.
pub(super) fn list(regions: &[Label]) -> Option<String> {
    if regions.is_empty() {
        return None;
    }
    let quoted: Vec<String> = regions.iter().map(|region| format!("\"{region}\"")).collect();
    Some(format!("[{}]", quoted.join(", ")))
}
