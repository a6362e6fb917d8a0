//! Which disk is the data disk.

use std::path::Path;

use aspen_init::config::DataDevice;
use aspen_init::layout::DATA_NAME;

use super::super::devices::{BlockDevice, Settled};

/// Why it is none of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum FindError {
    /// There is none.
    #[error("no data disk: attach a virtio disk with the serial number {DATA_NAME}")]
    None,
    /// None with the serial number that was asked for.
    #[error("no disk has the serial number {0:?}: attach it, or change data.device")]
    Serial(String),
    /// Not the one that was asked for.
    #[error("there is no disk {0}: attach it, or change data.device")]
    Path(String),
    /// Too many.
    #[error("{} could each be the data disk: give one the serial number {DATA_NAME}, or set data.device", .0.join(" and "))]
    Many(Vec<String>),
    /// One that cannot be written to.
    #[error("the data disk {0} is read-only: attach it writable")]
    ReadOnly(String),
}

impl FindError {
    /// Whether it is worth waiting for.
    pub(super) fn may_still_come(&self) -> bool {
        matches!(self, Self::None | Self::Serial(_) | Self::Path(_))
    }
}

/// The data disk among these devices. One that has no name is taken only when no other can come before it any more.
///
/// # Errors
/// None, more than one, or one that cannot be written to.
pub(super) fn find(
    devices: &[BlockDevice],
    wanted: &DataDevice,
    config_device: Option<&Path>,
    settled: Settled,
) -> Result<BlockDevice, FindError> {
    let path = |device: &BlockDevice| device.path().display().to_string();
    let all = |is_it: &dyn Fn(&BlockDevice) -> bool| devices.iter().filter(|device| is_it(device)).collect();
    let found: Vec<&BlockDevice> = match wanted {
        DataDevice::Path(wanted) => all(&|device| path(device) == *wanted),
        DataDevice::Serial(serial) => all(&|device| device.serial.as_ref() == Some(serial)),
        DataDevice::Auto => {
            let by_serial: Vec<_> = all(&|device| device.serial.as_deref() == Some(DATA_NAME));
            let by_name: Vec<_> = all(&|device| device.partition_name.as_deref() == Some(DATA_NAME));
            let is_config = |device: &BlockDevice| config_device == Some(&device.path());
            let by_rest = all(&|device| {
                let is_whole = device.disk.is_none() && !device.has_partitions;
                settled.0 && is_whole && !device.is_read_only && !is_config(device)
            });
            [by_serial, by_name, by_rest].into_iter().find(|found| !found.is_empty()).unwrap_or_default()
        }
    };
    match (found.as_slice(), wanted) {
        ([device], _) if device.is_read_only => Err(FindError::ReadOnly(path(device))),
        ([device], _) => Ok((*device).clone()),
        ([], DataDevice::Auto) => Err(FindError::None),
        ([], DataDevice::Serial(serial)) => Err(FindError::Serial(serial.clone())),
        ([], DataDevice::Path(path)) => Err(FindError::Path(path.clone())),
        (many, _) => Err(FindError::Many(many.iter().map(|device| path(device)).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str) -> BlockDevice {
        BlockDevice {
            name: name.to_owned(),
            bytes: 1 << 20,
            serial: None,
            partition_name: None,
            disk: None,
            has_partitions: false,
            is_read_only: false,
        }
    }

    fn with_serial(name: &str, serial: &str) -> BlockDevice {
        BlockDevice { serial: Some(serial.to_owned()), ..disk(name) }
    }

    #[track_caller]
    fn check(devices: &[BlockDevice], wanted: &DataDevice, want: Result<&str, &str>) {
        let found = find(devices, wanted, Some(Path::new("/dev/vda")), Settled(true));
        let found = found.map(|device| device.name).map_err(|error| error.to_string());
        assert_eq!(found, want.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn serial_goes_before_name_and_name_before_the_only_disk() {
        let auto = DataDevice::Auto;
        let config = disk("vda");
        let partition = BlockDevice {
            partition_name: Some("aspen-data".to_owned()),
            disk: Some("vdc".to_owned()),
            ..disk("vdc2")
        };
        let parted = BlockDevice { has_partitions: true, ..disk("vdc") };
        let all = [
            config.clone(),
            disk("vdb"),
            parted.clone(),
            partition.clone(),
            with_serial("vdd", "aspen-data"),
        ];
        check(&all, &auto, Ok("vdd"));
        check(&all[..4], &auto, Ok("vdc2"));
        check(&all[..3], &auto, Ok("vdb"));
        check(
            &[config, parted],
            &auto,
            Err("no data disk: attach a virtio disk with the serial number aspen-data"),
        );
    }

    /// Found when a blank disk on a fast bus came before the one with the serial number.
    #[test]
    fn nameless_disk_is_not_taken_while_others_may_come() {
        let early = |devices: &[BlockDevice], wanted: &DataDevice| {
            let found = find(devices, wanted, Some(Path::new("/dev/vda")), Settled(false));
            found.map(|device| device.name)
        };
        let disks = [disk("vda"), disk("vdb"), with_serial("sda", DATA_NAME)];
        let error = early(&disks[..2], &DataDevice::Auto).unwrap_err();
        assert!(error.may_still_come(), "{error}");
        // What has a name is waited for no longer than until it is there, and so is what was asked for by its path.
        assert_eq!(early(&disks, &DataDevice::Auto).unwrap(), "sda");
        assert_eq!(early(&disks, &DataDevice::Path("/dev/vdb".to_owned())).unwrap(), "vdb");
    }

    #[test]
    fn more_than_one_are_named() {
        let rest = "could each be the data disk: give one the serial number aspen-data, or set data.device";
        let two = [disk("vda"), disk("vdb"), disk("vdc")];
        check(&two, &DataDevice::Auto, Err(&format!("/dev/vdb and /dev/vdc {rest}")));
        let twins = [with_serial("vdb", "aspen-data"), with_serial("vdc", "aspen-data"), disk("vdd")];
        check(&twins, &DataDevice::Auto, Err(&format!("/dev/vdb and /dev/vdc {rest}")));
    }

    #[test]
    fn wanted_disk_is_taken_or_missed_by_name() {
        let disks =
            [disk("vda"), with_serial("vdb", "mine"), BlockDevice { is_read_only: true, ..disk("vdc") }];
        check(&disks, &DataDevice::Serial("mine".to_owned()), Ok("vdb"));
        check(
            &disks,
            &DataDevice::Serial("other".to_owned()),
            Err("no disk has the serial number \"other\": attach it, or change data.device"),
        );
        check(
            &disks,
            &DataDevice::Path("/dev/vdz".to_owned()),
            Err("there is no disk /dev/vdz: attach it, or change data.device"),
        );
        check(
            &disks,
            &DataDevice::Path("/dev/vdc".to_owned()),
            Err("the data disk /dev/vdc is read-only: attach it writable"),
        );
        check(&disks, &DataDevice::Auto, Ok("vdb"));
    }
}
