//! What `lab image inspect` prints: an image from its manifest, and from its files themselves.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::assemble::files;
use super::bounded;
use super::disk::{self, DiskError};
use super::initramfs;
use super::manifest::{Manifest, ManifestError, SIGNATURE_FILE};
use super::uki::{self, UkiError};
use crate::limits::image::UKI_BYTES_MAX;

/// Why an image cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file.
    #[error("cannot read {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The EFI program.
    #[error(transparent)]
    Uki(#[from] UkiError),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Everything about the image in a folder.
///
/// # Errors
/// [`InspectError`].
pub fn inspect(folder: &Path) -> Result<String, InspectError> {
    let manifest = Manifest::read(folder)?;
    let mut text = summary(&manifest);
    text += &sizes(folder, &manifest)?;
    text += "\ninitramfs, unpacked\n";
    let packed = read(&folder.join(files::INITRAMFS))?;
    let listed = initramfs::list(&packed)
        .map_err(|source| InspectError::File { path: folder.join(files::INITRAMFS), source })?;
    for (path, bytes) in listed {
        line(&mut text, &path, &mib(u64::from(bytes)));
    }
    if folder.join(files::UKI).is_file() {
        text += "\nsections of aspen.efi\n";
        let efi = read(&folder.join(files::UKI))?;
        for (name, bytes) in uki::sections(&efi)? {
            line(&mut text, name.trim_end_matches('\0'), &mib(bytes.len() as u64));
        }
    }
    if folder.join(files::RAW).is_file() {
        text += "\npartitions of disk.raw\n";
        for partition in disk::partitions(&folder.join(files::RAW))? {
            line(
                &mut text,
                &partition.name,
                &format!("{} at {}", mib(partition.bytes), mib(partition.start)),
            );
        }
    }
    text += "\ninputs\n";
    for input in &manifest.inputs {
        line(&mut text, &input.name, &format!("{}, {}", input.origin, input.licence));
        line(&mut text, "", &format!("sha256 {}", input.sha256));
        line(&mut text, "", &format!("source: {}", input.source));
    }
    let signed = if folder.join(SIGNATURE_FILE).is_file() {
        "signed; lab image verify says by whom"
    } else {
        "not signed"
    };
    line(&mut text, "\nsignature", signed);
    Ok(text)
}

/// What an image is.
fn summary(manifest: &Manifest) -> String {
    let kernel = &manifest.kernel;
    let mut text = String::new();
    line(
        &mut text,
        "image",
        &format!("{} {} for {}", manifest.name, manifest.version, manifest.architecture),
    );
    line(&mut text, "kernel", &format!("Linux {}", kernel.version_line));
    let pvh = if kernel.pvh { "yes" } else { "no: hypervisors that boot ELF files cannot boot this vmlinux" };
    line(&mut text, "PVH entry", pvh);
    let modules =
        if kernel.modules.is_empty() { "none, all is built in".to_owned() } else { kernel.modules.join(" ") };
    line(&mut text, "modules", &modules);
    if !kernel.absent_modules.is_empty() {
        line(&mut text, "absent", &kernel.absent_modules.join(" "));
    }
    text
}

/// Every file with its size, what a sparse one takes, and the share of each part of the initramfs.
///
/// # Errors
/// A file cannot be looked at.
pub fn sizes(folder: &Path, manifest: &Manifest) -> Result<String, InspectError> {
    let mut text = String::from("\nfiles\n");
    for output in &manifest.outputs {
        let path = folder.join(&output.path);
        let metadata = std::fs::metadata(&path).map_err(|source| InspectError::File { path, source })?;
        let allocated = metadata.blocks() * 512;
        let sparse = if allocated.saturating_add(1 << 20) < output.bytes {
            format!(", {} allocated", mib(allocated).trim_start())
        } else {
            String::new()
        };
        // A blob is found by the digest in its name.
        if !output.path.contains("/blobs/") {
            line(&mut text, &output.path, &format!("{}{sparse}", mib(output.bytes)));
        }
    }
    for layout in [files::OCI, files::CONTAINER_DISK] {
        let blobs =
            manifest.outputs.iter().filter(|output| output.path.starts_with(&format!("{layout}/blobs/")));
        let bytes = blobs.fold(0, |sum: u64, output| sum.saturating_add(output.bytes));
        if bytes > 0 {
            line(&mut text, &format!("{layout}/blobs"), &mib(bytes));
        }
    }
    let total = manifest.parts.iter().fold(0, |sum, part| sum + u128::from(part.bytes));
    text += "\nparts of the initramfs, unpacked\n";
    for part in &manifest.parts {
        let share = u128::from(part.bytes) * 100 / total.max(1);
        line(&mut text, &part.name, &format!("{} {share:>3} %", mib(part.bytes)));
    }
    Ok(text)
}

fn read(path: &Path) -> Result<Vec<u8>, InspectError> {
    bounded::read_file(path, UKI_BYTES_MAX)
        .map_err(|source| InspectError::File { path: path.to_owned(), source })
}

fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _infallible = writeln!(text, "  {name:<34} {value}");
}

/// Mebibytes with two digits.
fn mib(bytes: u64) -> String {
    let hundredths = (u128::from(bytes) * 100 + (1 << 19)) >> 20;
    format!("{:>5}.{:02} MiB", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::Part;
    use super::super::manifest::tests::sample;
    use super::*;

    #[test]
    fn sizes_are_told_with_the_share_of_each_part() {
        let (home, mut manifest) = sample();
        let part = |name: &str, bytes| Part { name: name.to_owned(), bytes };
        manifest.parts = vec![part("node", 3 << 20), part("init", 1 << 20)];
        let text = sizes(home.path(), &manifest).unwrap();
        let has = |line: &str| assert!(text.lines().any(|found| found == line), "{text}");
        has("  oci/index.json                         0.00 MiB");
        has("  node                                   3.00 MiB  75 %");
        has("  init                                   1.00 MiB  25 %");
        assert_eq!(mib(32 << 20), "   32.00 MiB");
        assert_eq!(mib((1 << 20) + (1 << 19)), "    1.50 MiB");
    }

    #[test]
    fn summary_says_whether_hypervisors_can_enter_the_kernel() {
        let (_home, mut manifest) = sample();
        assert!(summary(&manifest).contains("PVH entry                          yes"));
        manifest.kernel.pvh = false;
        assert!(summary(&manifest).contains("no: hypervisors that boot ELF files cannot boot this vmlinux"));
    }
}
