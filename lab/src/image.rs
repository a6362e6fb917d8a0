//! The appliance image, assembled from a kernel and two static programs.
//!
//! One folder holds it in every form that hypervisors and clouds take, with a manifest that names each file by its
//! SHA-256. It boots nothing: machines do.

pub mod assemble;
mod bounded;
pub mod cache;
pub mod command;
pub mod config_disk;
pub mod data;
pub mod debian;
pub mod digest;
pub mod disk;
pub mod elf;
pub mod fat;
pub mod initramfs;
pub mod inspect;
pub mod kernel;
pub mod manifest;
pub mod modules;
pub mod oci;
mod origins;
pub mod programs;
pub mod qcow2;
pub mod sbom;
pub mod sign;
pub mod uki;
pub mod workshop;

pub use self::cache::{ImageError, ImageFolder, ensure, open};
