//! The end-to-end tests: real binaries, real namespaces, real verdicts.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod appliance;
mod bench;
mod browser;
mod by_hand;
mod client;
mod cloud_hypervisor;
mod disks;
mod etcd;
mod fabric;
mod formats;
mod fuzz_seeds;
mod host;
mod html;
mod http_client;
mod image;
mod joining;
mod kills;
mod lab;
mod leases;
mod members;
mod metrics;
mod nodes;
mod programs;
mod qemu;
mod receipts;
mod report;
mod rig;
mod runs;
mod sandbox;
mod selftest;
mod snapshots;
mod tidy;
mod up;
mod verify;
