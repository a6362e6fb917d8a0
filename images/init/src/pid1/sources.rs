//! Finds what the appliance is told: asks each source, and keeps what the config disk brings along.

mod config_disk;
mod smbios;

use std::fs;
use std::path::Path;

use aspen_init::config::{self, ConfigError, Entry, Settings, Source};
use aspen_init::layout::{FW_CFG_PREFIX, NODE_PRIVATE};
use aspen_init::limits::VALUE_READ_BYTES_MAX;
use aspen_init::texts::head;
use nix::errno::Errno;

use super::console::Console;
use super::devices::{Settled, Uevents, VirtioKind, block_devices, missing_driver};

pub(super) use self::config_disk::{ConfigDisk, ConfigDiskError};

/// Why the appliance does not know what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    /// The config disk.
    #[error(transparent)]
    Disk(#[from] ConfigDiskError),
    /// What a source says.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of the firmware that is there and cannot be read.
    #[error("fw_cfg: {key} cannot be read: take it away, or give it as a text")]
    Unreadable {
        /// The key.
        key: String,
        /// The kernel's.
        source: std::io::Error,
    },
    /// No source says anything.
    #[error(
        "no configuration: there is no disk labelled ASPEN-CFG, and neither the kernel command line nor fw_cfg nor smbios has \
         aspen.KEY=value: attach a config disk{}", missing.map(|text| format!(" ({text})")).unwrap_or_default()
    )]
    Nothing {
        /// Why a disk might not be seen.
        missing: Option<&'static str>,
    },
    /// No news of devices.
    #[error("cannot listen to the kernel's news of devices: it needs CONFIG_NET")]
    Uevents(#[source] std::io::Error),
}

/// What the appliance was told.
#[derive(Debug)]
pub(super) struct Told {
    /// Its settings.
    pub(super) settings: Settings,
    /// Where they came from, and the node's own files.
    pub(super) disk: Option<ConfigDisk>,
}

/// Asks every source.
///
/// # Errors
/// Nothing was said, or something that cannot stand.
pub(super) fn gather(sys: &Path, uevents: &Uevents, console: &Console) -> Result<Told, SourceError> {
    let entries =
        open_entries(sys, &head(Path::new("/proc/cmdline"), VALUE_READ_BYTES_MAX).unwrap_or_default())?;
    let look = || config_disk::find(&block_devices(sys)).transpose();
    // A machine that is told otherwise may have no config disk: it is waited for as long as devices come.
    let is_enough = |settled: Settled| settled.0 && !entries.is_empty();
    let found = uevents.wait_for_settled(|settled| match look() {
        None if is_enough(settled) => Some(None),
        found => found.map(Some),
    });
    let disk = found.flatten().transpose()?;
    if disk.is_none() && entries.is_empty() {
        return Err(SourceError::Nothing { missing: missing_driver(sys, VirtioKind::Block) });
    }
    let told = combine(entries, disk)?;
    tell(&told, console);
    Ok(told)
}

fn combine(mut entries: Vec<Entry>, disk: Option<ConfigDisk>) -> Result<Told, SourceError> {
    if let Some(text) = disk.as_ref().and_then(|disk| disk.config.as_deref()) {
        entries.extend(config::file(text)?);
    }
    Ok(Told { settings: Settings::from_entries(entries)?, disk })
}

/// The entries of every source but the config disk.
fn open_entries(sys: &Path, command_line: &str) -> Result<Vec<Entry>, SourceError> {
    let mut entries = config::command_line(command_line)?;
    let files = fs::read_dir(sys.join("firmware/qemu_fw_cfg/by_name").join(FW_CFG_PREFIX));
    for file in files.into_iter().flatten().flatten() {
        let key = file.file_name().to_string_lossy().into_owned();
        match head(&file.path().join("raw"), VALUE_READ_BYTES_MAX) {
            Ok(value) => entries.push(config::text(Source::FwCfg, &key, &value)),
            Err(source) => return Err(SourceError::Unreadable { key, source }),
        }
    }
    let table = fs::read(sys.join("firmware/dmi/tables/DMI")).unwrap_or_default();
    for text in smbios::oem_strings(&table) {
        config::smbios_string(&mut entries, &text)?;
    }
    Ok(entries)
}

/// Says where each key came from, one line a source.
fn tell(told: &Told, console: &Console) {
    if let Some(disk) = &told.disk {
        console.say(format_args!("config disk {}", disk.device.display()));
        let private: Vec<&str> = disk.private.iter().map(|(name, _)| name.as_str()).collect();
        if !private.is_empty() {
            console.say(format_args!("{} for the node, in {NODE_PRIVATE}", private.join(", ")));
        }
    }
    for source in [Source::ConfigDisk, Source::CommandLine, Source::FwCfg, Source::Smbios] {
        let keys: Vec<&str> = told
            .settings
            .places
            .iter()
            .filter(|(_, place)| place.source == source)
            .map(|(key, _)| key.as_str())
            .collect();
        if !keys.is_empty() {
            console.say(format_args!("{} from {source}", keys.join(", ")));
        }
    }
}

/// Gives the machine its name.
///
/// # Errors
/// The kernel's.
pub(super) fn set_hostname(settings: &Settings) -> Result<String, Errno> {
    let name = settings.hostname.clone().unwrap_or_else(|| "aspen".to_owned());
    nix::unistd::sethostname(&name)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::super::devices::tests::sysfs;
    use super::*;

    #[test]
    fn firmware_and_command_line_are_asked() {
        let oem = b"\x0b\x05\0\0\x01aspen.mac=02:00:00:00:00:01\0\0\x7f\x04\0\0\0\0";
        let sys = sysfs(&[
            ("firmware/qemu_fw_cfg/by_name/opt/org.aspen/hostname/raw", "from-firmware"),
            ("firmware/qemu_fw_cfg/by_name/opt/org.aspen/data.format/raw", "never\n"),
            ("firmware/qemu_fw_cfg/by_name/opt/com.other/hostname/raw", "other"),
            ("firmware/dmi/tables/DMI", std::str::from_utf8(oem).unwrap()),
        ]);
        let entries = open_entries(sys.path(), "quiet aspen.hostname=n1").unwrap();
        let told = combine(entries, None).unwrap();
        assert_eq!(told.settings.hostname.as_deref(), Some("n1"));
        assert_eq!(told.settings.data_format, config::DataFormat::Never);
        assert_eq!(told.settings.interfaces[0].mac.unwrap().to_string(), "02:00:00:00:00:01");
        let out = tempfile::NamedTempFile::new().unwrap();
        tell(&told, &Console::at(out.path()));
        assert_eq!(
            fs::read_to_string(out.path()).unwrap(),
            "aspen-init: hostname from the kernel command line\naspen-init: data.format from fw_cfg\n\
             aspen-init: mac from smbios type 11\n"
        );
    }

    #[test]
    fn file_of_the_firmware_that_cannot_be_read_is_named() {
        let sys = sysfs(&[("firmware/qemu_fw_cfg/by_name/opt/org.aspen/hostname/size", "1")]);
        let error = open_entries(sys.path(), "").unwrap_err();
        assert_eq!(error.to_string(), "fw_cfg: hostname cannot be read: take it away, or give it as a text");
    }

    #[test]
    fn nothing_said_names_every_way_to_say_something() {
        let text = SourceError::Nothing { missing: Some("why") }.to_string();
        assert_eq!(
            text,
            "no configuration: there is no disk labelled ASPEN-CFG, and neither the kernel command line nor fw_cfg nor \
             smbios has aspen.KEY=value: attach a config disk (why)"
        );
    }
}
