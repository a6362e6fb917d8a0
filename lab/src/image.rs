//! The appliance image, assembled from a kernel and two static programs.

pub mod config_disk;
pub mod fat;
