//! OCI image layouts of one layer: the appliance's files, and the container disk that `KubeVirt` takes.
//!
//! Everything about them comes from their content: no time but the given one, one owner, a sorted archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use flate2::{Compression, GzBuilder};
use oci_spec::OciSpecError;
use oci_spec::image::{
    ANNOTATION_REF_NAME, Arch, ConfigBuilder, Descriptor, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, RootFsBuilder, SCHEMA_VERSION, Sha256Digest,
};
use sha2::Digest as _;

use super::digest::{self, Digest};

/// Why there is no layout.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A file.
    #[error("cannot use {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A document.
    #[error("cannot describe the layout")]
    Document(#[from] OciSpecError),
}

/// A file of the layer.
#[derive(Debug, Clone)]
pub struct LayerFile {
    /// Its path in the layer, without a slash in front.
    pub path: String,
    /// Where its content is.
    pub from: PathBuf,
}

/// What a layer is made of.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its files; their folders are made.
    pub files: Vec<LayerFile>,
    /// User and group of all of it.
    pub owner: u64,
    /// The time of all of it, in seconds since 1970.
    pub epoch: u64,
}

/// Writes a layout into a new folder, its image named `tag`.
///
/// # Errors
/// [`OciError`].
pub fn write(folder: &Path, tag: &str, version: &str, layer: &Layer) -> Result<(), OciError> {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).map_err(file_error(&blobs))?;
    let (packed, unpacked, bytes) = write_layer(&blobs, layer)?;
    let layer = Descriptor::new(MediaType::ImageLayerGzip, bytes, name(packed)?);
    let labels = HashMap::from([("org.opencontainers.image.version".to_owned(), version.to_owned())]);
    let config = ImageConfigurationBuilder::default()
        .architecture(Arch::Amd64)
        .os(Os::Linux)
        .config(ConfigBuilder::default().labels(labels).build()?)
        .rootfs(RootFsBuilder::default().typ("layers").diff_ids(vec![format!("sha256:{unpacked}")]).build()?)
        .history(vec![])
        .build()?;
    let config = write_blob(&blobs, MediaType::ImageConfig, &config.to_string()?)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(vec![layer])
        .build()?;
    let mut manifest = write_blob(&blobs, MediaType::ImageManifest, &manifest.to_string()?)?;
    manifest.set_annotations(Some(HashMap::from([(ANNOTATION_REF_NAME.to_owned(), tag.to_owned())])));
    let index = ImageIndexBuilder::default().schema_version(SCHEMA_VERSION).media_type(MediaType::ImageIndex);
    let index = index.manifests(vec![manifest]).build()?.to_string()?;
    let layout = OciLayoutBuilder::default().image_layout_version("1.0.0").build()?.to_string()?;
    for (file, text) in [("index.json", index), ("oci-layout", layout)] {
        let path = folder.join(file);
        std::fs::write(&path, text).map_err(file_error(&path))?;
    }
    Ok(())
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> OciError {
    let path = path.to_owned();
    move |source| OciError::File { path: path.clone(), source }
}

fn name(digest: Digest) -> Result<Sha256Digest, OciSpecError> {
    Sha256Digest::from_str(&digest.to_string())
}

fn write_blob(blobs: &Path, kind: MediaType, text: &str) -> Result<Descriptor, OciError> {
    let digest = digest::of_bytes(text.as_bytes());
    let path = blobs.join(digest.to_string());
    std::fs::write(&path, text).map_err(file_error(&path))?;
    Ok(Descriptor::new(kind, text.len() as u64, name(digest)?))
}

/// Writes the layer; its digest packed, its digest unpacked, and its packed size.
fn write_layer(blobs: &Path, layer: &Layer) -> Result<(Digest, Digest, u64), OciError> {
    let scratch = blobs.join("layer");
    let failed = file_error(&scratch);
    let file = File::create_new(&scratch).map_err(&failed)?;
    let target = Hashed::new(BufWriter::with_capacity(1 << 20, file));
    // No name and no time in gzip's header.
    let gzip = GzBuilder::new().write(target, Compression::default());
    let mut archive = tar::Builder::new(Hashed::new(gzip));
    let mut files: Vec<&LayerFile> = layer.files.iter().collect();
    files.sort_by_key(|file| &file.path);
    let mut folders = std::collections::BTreeSet::new();
    for file in files {
        for (place, _slash) in file.path.match_indices('/') {
            if folders.insert(&file.path[..place]) {
                let head = header(layer, 0, 0o755, tar::EntryType::Directory);
                append(&mut archive, head, &file.path[..=place], io::empty()).map_err(&failed)?;
            }
        }
        let content = File::open(&file.from).map_err(file_error(&file.from))?;
        let size = content.metadata().map_err(file_error(&file.from))?.len();
        let head = header(layer, size, 0o644, tar::EntryType::Regular);
        append(&mut archive, head, &file.path, content).map_err(file_error(&file.from))?;
    }
    let (gzip, unpacked, _bytes) = archive.into_inner().map_err(&failed)?.end();
    let (mut file, packed, bytes) = gzip.finish().map_err(&failed)?.end();
    file.flush().map_err(&failed)?;
    let path = blobs.join(packed.to_string());
    std::fs::rename(&scratch, &path).map_err(file_error(&path))?;
    Ok((packed, unpacked, bytes))
}

fn header(layer: &Layer, size: u64, mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(layer.owner);
    header.set_gid(layer.owner);
    header.set_mtime(layer.epoch);
    header
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    mut header: tar::Header,
    path: &str,
    content: impl io::Read,
) -> io::Result<()> {
    archive.append_data(&mut header, path, content)
}

/// A writer that counts and digests what goes through it.
struct Hashed<W> {
    inner: W,
    digest: sha2::Sha256,
    bytes: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, digest: sha2::Sha256::new(), bytes: 0 }
    }

    fn end(self) -> (W, Digest, u64) {
        (self.inner, Digest(self.digest.finalize().into()), self.bytes)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};

    use super::*;

    fn write_sample(folder: &Path, home: &Path) {
        let from = home.join("content");
        std::fs::write(&from, b"what it holds").unwrap();
        let files =
            ["disk/disk.qcow2", "a"].map(|path| LayerFile { path: path.to_owned(), from: from.clone() });
        let layer = Layer { files: files.into(), owner: 107, epoch: 315_532_800 };
        write(folder, "latest", "0.1.0", &layer).unwrap();
    }

    #[test]
    fn layout_leads_from_its_index_to_its_files_and_has_the_same_bytes_again() {
        let home = tempfile::tempdir().unwrap();
        let folders = ["one", "two"].map(|name| home.path().join(name));
        for folder in &folders {
            write_sample(folder, home.path());
        }
        let index = |folder: &Path| std::fs::read_to_string(folder.join("index.json")).unwrap();
        assert_eq!(index(&folders[0]), index(&folders[1]));
        let blob = |descriptor: &Descriptor| {
            let path = folders[0].join("blobs/sha256").join(descriptor.as_digest_sha256().unwrap());
            let bytes = std::fs::read(path).unwrap();
            assert_eq!(bytes.len() as u64, descriptor.size());
            assert_eq!(digest::of_bytes(&bytes).to_string(), descriptor.as_digest_sha256().unwrap());
            bytes
        };
        let index = ImageIndex::from_file(folders[0].join("index.json")).unwrap();
        let manifest = ImageManifest::from_reader(&*blob(&index.manifests()[0])).unwrap();
        let config = ImageConfiguration::from_reader(&*blob(manifest.config())).unwrap();
        let layer = blob(&manifest.layers()[0]);
        let mut archive = Vec::new();
        flate2::read::GzDecoder::new(&*layer).read_to_end(&mut archive).unwrap();
        let diff_id = format!("sha256:{}", digest::of_bytes(&archive));
        assert_eq!(config.rootfs().diff_ids(), &[diff_id]);
        let mut names = Vec::new();
        for entry in tar::Archive::new(&*archive).entries().unwrap() {
            let entry = entry.unwrap();
            let (owner, mtime) = (entry.header().uid().unwrap(), entry.header().mtime().unwrap());
            assert_eq!((owner, mtime), (107, 315_532_800));
            names.push(entry.path().unwrap().to_str().unwrap().to_owned());
        }
        assert_eq!(names, ["a", "disk/", "disk/disk.qcow2"]);
        let blobs = std::fs::read_dir(folders[0].join("blobs/sha256")).unwrap().count();
        assert_eq!(blobs, 3, "nothing is left beside layer, configuration and manifest");
    }
}
