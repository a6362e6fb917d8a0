//! What a virtual machine keeps on its host: a folder with its config disk, its data disk and its console.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aspen_init::config::{self, Address, DataFormat, Interface, Neighbour, Settings};
use aspen_init::layout;
use data_encoding::HEXLOWER;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::block::ServedDisk;
use crate::cluster::pace::Pace;
use crate::fabric::tap::TapConfig;
use crate::image::config_disk;
use crate::image::fat::FatFile;
use crate::limits::machines::DATA_DISK_BYTES;
use crate::machine::cluster::SetUpError;
use crate::machine::networks::{self, Attachment};
use crate::machine::node_files::{SECRET_FILE, cluster_secret, node_toml};
use crate::plan::{MacAddress, NodeIndex, Plan};

/// The file of what survives a kill, in the machine's folder.
pub(super) const DATA_DISK: &str = "data.raw";

/// Where a machine keeps what it has.
#[derive(Debug)]
pub(in crate::machine) struct Home {
    /// The machine's own folder.
    pub(in crate::machine) folder: PathBuf,
    /// What the appliance is told.
    pub(in crate::machine) config_disk: PathBuf,
    /// What survives a kill.
    pub(in crate::machine) data_disk: PathBuf,
    /// The same, if it loses with its power what was not flushed: then a hypervisor gets it from the lab.
    pub(in crate::machine) served_disk: Option<ServedDisk>,
    /// What the machine prints; made by whoever starts it.
    pub(in crate::machine) console: PathBuf,
}

impl Home {
    /// Makes it below the run's directory. A data disk that is there stays as it is.
    pub(in crate::machine) fn make(
        directory: &Path,
        plan: &Plan,
        index: NodeIndex,
        pace: Pace,
    ) -> Result<Self, SetUpError> {
        let node = &plan.nodes[index.position()];
        let folder = directory.join("nodes").join(&node.name);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|source| SetUpError::Io { path: folder.clone(), source })?;
        let (config_disk, data_disk) = (folder.join("config.raw"), folder.join(DATA_DISK));
        write_config_disk(&config_disk, plan, index, pace)?;
        make_data_disk(&data_disk).map_err(|source| SetUpError::Io { path: data_disk.clone(), source })?;
        let served_disk = plan.cuts_power().then(|| ServedDisk::open(&data_disk)).transpose()?;
        let console = folder.join("console.log");
        Ok(Self { folder, config_disk, data_disk, served_disk, console })
    }
}

/// What the appliance is told, on a disk.
fn write_config_disk(path: &Path, plan: &Plan, index: NodeIndex, pace: Pace) -> Result<(), SetUpError> {
    let node = &plan.nodes[index.position()];
    let settings = aspen_conf(plan, index);
    let (data, private) = (Path::new(layout::NODE_DATA), Path::new(layout::NODE_PRIVATE));
    let node_settings = node_toml(plan, node, data, private, pace);
    let secret = HEXLOWER.encode(&node.secret_key_seed.0) + "\n";
    let cluster_secret = cluster_secret(plan);
    let secret_path = format!("{}/{SECRET_FILE}", layout::CONFIG_PRIVATE_FOLDER);
    let mut files = vec![
        FatFile { path: layout::CONFIG_FILE, bytes: settings.as_bytes() },
        FatFile { path: layout::CONFIG_NODE_FILE, bytes: node_settings.as_bytes() },
        FatFile { path: layout::CONFIG_SECRET_FILE, bytes: secret.as_bytes() },
    ];
    files.extend(cluster_secret.iter().map(|text| FatFile { path: &secret_path, bytes: text.as_bytes() }));
    Ok(config_disk::write(path, &files)?)
}

/// The text of aspen.conf. Neighbours are permanent, as on every port of the switch: no ARP crosses the fabric.
fn aspen_conf(plan: &Plan, index: NodeIndex) -> String {
    let interface = |attachment: Attachment| {
        let TapConfig { mac, addresses, mtu, neighbours, .. } = attachment.interface;
        let address = |(address, prefix_bits)| Address::Static { address, prefix_bits };
        let neighbour =
            |(address, mac): (_, MacAddress)| Neighbour { address, mac: config::MacAddress(mac.0) };
        Interface {
            addresses: addresses.into_iter().map(address).collect(),
            neighbours: neighbours.into_iter().map(neighbour).collect(),
            mac: Some(config::MacAddress(mac.0)),
            mtu: Some(mtu),
            ..Interface::default()
        }
    };
    let settings = Settings {
        hostname: Some(plan.nodes[index.position()].name.clone()),
        interfaces: networks::of_node(plan, index).into_iter().map(interface).collect(),
        data_format: DataFormat::IfBlank,
        ..Settings::default()
    };
    settings.to_file()
}

/// An empty disk, of which nothing is on the host's before it is written. What a disk already holds stays.
fn make_data_disk(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    if bytes == 0 {
        // It is new, and nobody need look whether it holds anything.
        file.write_all_at(layout::UNFINISHED, 0)?;
    }
    if bytes < DATA_DISK_BYTES { file.set_len(DATA_DISK_BYTES) } else { Ok(()) }
}

/// Copies a file with all its holes.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = fs::File::open(from)?;
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let end = from.metadata()?.len();
    to.set_len(end)?;
    let mut at = 0;
    // No data from here on, or a file system that knows no holes and gives all of it.
    while let Some(data) = seek_to(&from, at, Whence::SeekData)? {
        let hole = seek_to(&from, data, Whence::SeekHole)?.unwrap_or(end);
        from.seek(SeekFrom::Start(data))?;
        to.seek(SeekFrom::Start(data))?;
        io::copy(&mut (&mut from).take(hole - data), &mut to)?;
        at = hole;
    }
    Ok(())
}

/// The next data or hole of a file; `None` past its end.
fn seek_to(file: &fs::File, at: u64, whence: Whence) -> io::Result<Option<u64>> {
    let at = i64::try_from(at).map_err(io::Error::other)?;
    match lseek(file, at, whence) {
        Ok(found) => Ok(Some(u64::try_from(found).map_err(io::Error::other)?)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// What the files of a folder take on the host's disk.
pub(super) fn bytes_in(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        // In units of 512 bytes (stat(2)).
        sum += entry?.metadata()?.blocks() * 512;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use aspen_init::config::file;

    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn appliance_understands_what_it_is_told() {
        let text = "name: a\nabout: A test.\nnodes: { count: 3 }\nchecks: [raft]\n\
                    networks: [{ id: cluster, subnet: ipv6 }, { id: clients, mtu: 9000, nodes: [n1, n2] }]\n";
        let plan = Plan::new(&Scenario::parse("a.yaml", text).unwrap(), 1);
        let text = aspen_conf(&plan, NodeIndex(1));
        let settings = Settings::from_entries(file(&text).unwrap()).unwrap();
        assert_eq!(settings.hostname.as_deref(), Some("n2"));
        assert_eq!(settings.data_format, DataFormat::IfBlank);
        let [cluster, clients] = settings.interfaces.try_into().unwrap();
        assert_eq!((cluster.addresses.len(), cluster.mtu), (1, Some(1500)));
        // The two other nodes and the lab.
        assert_eq!(cluster.neighbours.len(), 3);
        assert!(cluster.gateways.is_empty());
        assert_eq!((clients.neighbours.len(), clients.mtu), (2, Some(9000)));
        assert_ne!(cluster.mac, clients.mac);
    }

    #[test]
    fn appliance_knows_how_its_node_refuses_to_run_and_says_that_it_serves() {
        use aspen_node::cluster::identity::IDENTITY_FILE;
        use aspen_node::cluster::retired::RETIRED_FILE;
        use aspen_node::config::EXIT_USAGE;
        use aspen_node::run::{ENDPOINT_ID, EXIT_RETIRED};
        assert_eq!((layout::NODE_SECRET_FILE, layout::NODE_RETIRED_FILE), (IDENTITY_FILE, RETIRED_FILE));
        assert_eq!(
            (layout::NODE_EXIT_USAGE, layout::NODE_EXIT_RETIRED),
            (EXIT_USAGE.into(), EXIT_RETIRED.into())
        );
        assert_eq!(layout::NODE_ENDPOINT_ID, ENDPOINT_ID);
    }

    #[test]
    fn copy_has_the_same_bytes_and_holes() {
        let home = tempfile::tempdir().unwrap();
        let (from, to) = (home.path().join("from"), home.path().join("to"));
        let file = fs::File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"begins", 0).unwrap();
        file.write_all_at(b"in the middle", 20 << 20).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20, "the holes were filled");
        assert!(copy(&from, &to).is_err(), "what is there is not written over");
    }

    #[test]
    fn data_disk_keeps_what_it_holds() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data.raw");
        make_data_disk(&path).unwrap();
        let mut disk = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert_eq!(disk.metadata().unwrap().len(), DATA_DISK_BYTES);
        disk.write_all(b"written").unwrap();
        make_data_disk(&path).unwrap();
        let mut bytes = [0; 7];
        disk.seek(SeekFrom::Start(0)).unwrap();
        disk.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"written");
    }
}
