//! A raw disk as qcow2, version 3 (docs/interop/qcow2.txt of QEMU): clusters of zeros are left out.
//!
//! No compression, no backing file, no snapshots.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::limits::image::QCOW2_SOURCE_BYTES_MAX;

/// Why there is no qcow2.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// Too large for what this writer makes.
    #[error("the disk has {0} bytes, at most {QCOW2_SOURCE_BYTES_MAX} can be written as qcow2")]
    TooLarge(u64),
    /// A file.
    #[error("cannot use {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_BYTES: usize = 1 << CLUSTER_BITS;
/// Entries of an L1 or L2 table in a cluster.
const ENTRIES: u64 = CLUSTER / 8;
/// Reference counts of 16 bits in a cluster.
const COUNTS: u64 = CLUSTER / 2;
/// `QCOW_OFLAG_COPIED`: the cluster has one reference.
const COPIED: u64 = 1 << 63;
/// Header, reference count table and L1 table have a cluster each.
const FIXED: u64 = 3;

const _: () = {
    // One cluster of L1 entries is enough, and so is one of the table of reference counts.
    assert!(QCOW2_SOURCE_BYTES_MAX <= ENTRIES * ENTRIES * CLUSTER);
};

/// Writes the qcow2 of a raw disk to a new file.
///
/// # Errors
/// [`Qcow2Error`].
pub fn convert(raw: &Path, qcow2: &Path) -> Result<(), Qcow2Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Qcow2Error::File { path: path.clone(), source }
    };
    let mut source = File::open(raw).map_err(failed(raw))?;
    let bytes = source.metadata().map_err(failed(raw))?.len();
    if bytes > QCOW2_SOURCE_BYTES_MAX {
        return Err(Qcow2Error::TooLarge(bytes));
    }
    let used = used_clusters(&mut source, bytes).map_err(failed(raw))?;
    let plan = Plan::new(bytes, used);
    let mut options = File::options();
    let target = options.write(true).create_new(true).open(qcow2).map_err(failed(qcow2))?;
    let mut target = BufWriter::with_capacity(1 << 20, target);
    plan.write_tables(&mut target).map_err(failed(qcow2))?;
    let mut cluster = vec![0; CLUSTER_BYTES];
    for index in &plan.used {
        let start = index * CLUSTER;
        let length = usize::try_from(CLUSTER.min(bytes - start)).unwrap_or_default();
        cluster[length..].fill(0);
        super::disk::read_at(&mut source, start, &mut cluster[..length]).map_err(failed(raw))?;
        target.write_all(&cluster).map_err(failed(qcow2))?;
    }
    target.flush().map_err(failed(qcow2))
}

/// Indexes of the clusters that are not zero.
fn used_clusters(source: &mut File, bytes: u64) -> io::Result<Vec<u64>> {
    let mut used = Vec::new();
    let mut cluster = vec![0; CLUSTER_BYTES];
    for index in 0..bytes.div_ceil(CLUSTER) {
        let length = usize::try_from(CLUSTER.min(bytes - index * CLUSTER)).unwrap_or_default();
        source.read_exact(&mut cluster[..length])?;
        if cluster[..length].iter().any(|byte| *byte != 0) {
            used.push(index);
        }
    }
    Ok(used)
}

/// Where everything is: header, table of reference counts, their blocks, L1, the L2 tables, the data.
struct Plan {
    bytes: u64,
    used: Vec<u64>,
    /// For each L1 entry the place of its L2 table among the L2 tables, if it has one.
    l2: Vec<Option<u64>>,
    count_blocks: u64,
}

impl Plan {
    fn new(bytes: u64, used: Vec<u64>) -> Self {
        let mut tables = 0;
        let mut l2 = Vec::new();
        for entry in 0..bytes.div_ceil(CLUSTER * ENTRIES) {
            let is_used = used.iter().any(|index| index / ENTRIES == entry);
            l2.push(is_used.then_some(tables));
            tables += u64::from(is_used);
        }
        let others = FIXED + tables + used.len() as u64;
        // The blocks count themselves, too.
        let mut count_blocks = 1;
        while (others + count_blocks).div_ceil(COUNTS) > count_blocks {
            count_blocks += 1;
        }
        Self { bytes, used, l2, count_blocks }
    }

    fn l1_cluster(&self) -> u64 {
        2 + self.count_blocks
    }

    fn l2_cluster(&self, table: u64) -> u64 {
        self.l1_cluster() + 1 + table
    }

    fn data_cluster(&self, place: u64) -> u64 {
        self.l2_cluster(self.l2.iter().flatten().count() as u64) + place
    }

    fn clusters(&self) -> u64 {
        self.data_cluster(self.used.len() as u64)
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Vec::new();
        let mut words = |words: &[u32]| words.iter().for_each(|word| header.extend(word.to_be_bytes()));
        words(&[0x5146_49fb, 3, 0, 0, 0, CLUSTER_BITS]);
        words(&halves(self.bytes));
        // No encryption.
        words(&[0, u32::try_from(self.l2.len()).unwrap_or_default()]);
        words(&halves(self.l1_cluster() * CLUSTER));
        words(&halves(CLUSTER));
        // One cluster for the table of reference counts; no snapshots, no features; counts of 2^4 bits.
        words(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 104]);
        header
    }

    /// Everything before the data.
    fn write_tables(&self, target: &mut impl Write) -> io::Result<()> {
        write_cluster(target, self.header())?;
        let blocks = (0..self.count_blocks).map(|block| (2 + block) * CLUSTER);
        write_cluster(target, blocks.flat_map(u64::to_be_bytes).collect())?;
        let counts = (0..self.count_blocks * COUNTS).map(|cluster| u16::from(cluster < self.clusters()));
        let counts: Vec<u8> = counts.flat_map(u16::to_be_bytes).collect();
        target.write_all(&counts)?;
        let entry =
            |table: &Option<u64>| table.map_or(0, |table| COPIED | (self.l2_cluster(table) * CLUSTER));
        write_cluster(target, self.l2.iter().map(entry).flat_map(u64::to_be_bytes).collect())?;
        let mut place = 0;
        for (l1, _table) in (0_u64..).zip(&self.l2).filter(|(_l1, table)| table.is_some()) {
            let mut entries = vec![0_u64; usize::try_from(ENTRIES).unwrap_or_default()];
            for index in self.used.iter().filter(|index| *index / ENTRIES == l1) {
                entries[usize::try_from(index % ENTRIES).unwrap_or_default()] =
                    COPIED | (self.data_cluster(place) * CLUSTER);
                place += 1;
            }
            write_cluster(target, entries.into_iter().flat_map(u64::to_be_bytes).collect())?;
        }
        Ok(())
    }
}

fn halves(value: u64) -> [u32; 2] {
    let bytes = value.to_be_bytes();
    let half = |place: usize| [bytes[place], bytes[place + 1], bytes[place + 2], bytes[place + 3]];
    [u32::from_be_bytes(half(0)), u32::from_be_bytes(half(4))]
}

fn write_cluster(target: &mut impl Write, mut bytes: Vec<u8>) -> io::Result<()> {
    assert!(bytes.len() as u64 <= CLUSTER);
    bytes.resize(CLUSTER_BYTES, 0);
    target.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn u64_at(file: &File, place: u64) -> u64 {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, place).unwrap();
        u64::from_be_bytes(bytes)
    }

    /// Reads a qcow2 back through its tables.
    fn read_back(path: &Path) -> Vec<u8> {
        let file = File::open(path).unwrap();
        let bytes = u64_at(&file, 24);
        let l1 = u64_at(&file, 40);
        let mut raw = vec![0; usize::try_from(bytes).unwrap()];
        for (index, cluster) in (0_u64..).zip(raw.chunks_mut(CLUSTER_BYTES)) {
            let l2 = u64_at(&file, l1 + index / ENTRIES * 8) & !COPIED;
            if l2 != 0 {
                let data = u64_at(&file, l2 + index % ENTRIES * 8) & !COPIED;
                if data != 0 {
                    file.read_exact_at(cluster, data).unwrap();
                }
            }
        }
        raw
    }

    #[test]
    fn qcow2_gives_back_its_disk_and_leaves_zeros_out() {
        let home = tempfile::tempdir().unwrap();
        let (raw, qcow2) = (home.path().join("disk.raw"), home.path().join("disk.qcow2"));
        // Past the first L2 table, and an end that is no whole cluster.
        let mut disk = vec![0; CLUSTER_BYTES * (CLUSTER_BYTES / 8 + 3) + 1000];
        for place in [0, 70_000, CLUSTER_BYTES * (CLUSTER_BYTES / 8) + 5, disk.len() - 1] {
            disk[place] = 7;
        }
        std::fs::write(&raw, &disk).unwrap();
        convert(&raw, &qcow2).unwrap();
        assert!(read_back(&qcow2) == disk);
        // Header, counts and their block, L1, two L2 tables, four clusters of data.
        assert_eq!(std::fs::metadata(&qcow2).unwrap().len(), 10 * CLUSTER);
        let error = convert(&raw, &qcow2).unwrap_err().to_string();
        assert_eq!(error, format!("cannot use {}", qcow2.display()));
    }
}
