//! A kernel's configuration: what is needed of it, and what became of what was wanted.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::super::bounded;
use crate::limits::image::KERNEL_CONFIG_BYTES_MAX;

/// The options that somebody needs of a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Who that is, in the middle of a sentence.
    pub whose: &'static str,
    /// Without these nothing starts. They must be built in, since the initramfs itself needs them.
    pub built_in: &'static [&'static str],
    /// A module will do where the kernel has modules.
    pub any: &'static [&'static str],
}

/// What the appliance needs: without it, it finds no disk, network, console or control channel, or does not see the power button.
pub const APPLIANCE: Needs = Needs {
    whose: "the appliance",
    built_in: &[
        "64BIT",
        "BLK_DEV_INITRD",
        "RD_ZSTD",
        "BINFMT_ELF",
        "DEVTMPFS",
        "PROC_FS",
        "SYSFS",
        "TMPFS",
        "UNIX",
        "INET",
        "FUTEX",
        "EPOLL",
    ],
    any: &[
        "VIRTIO_PCI",
        "VIRTIO_BLK",
        "VIRTIO_NET",
        "VIRTIO_CONSOLE",
        "EXT4_FS",
        "SERIAL_8250",
        "ACPI_BUTTON",
        "INPUT_EVDEV",
    ],
};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// It cannot be read.
    #[error("cannot read the kernel's configuration {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Something is missing.
    #[error("the kernel of {} cannot run {whose}, it lacks {}", .path.display(), .missing.join(", "))]
    Missing {
        /// The configuration.
        path: PathBuf,
        /// Whom it cannot run.
        whose: &'static str,
        /// What is missing.
        missing: Vec<String>,
    },
    /// A configuration that somebody has made lacks wanted options.
    #[error("{} has {} of the wanted options not as wanted: {}", .path.display(), .options.len(), .options.join(", "))]
    Lacking {
        /// The configuration.
        path: PathBuf,
        /// Which ones.
        options: Vec<String>,
    },
    /// Wanted options are gone.
    #[error(
        "{} of the wanted options did not survive make allnoconfig: {}; this source does not know them, or they depend \
         on something that is off",
        .0.len(), .0.join(", ")
    )]
    Lost(Vec<String>),
}

/// The options of a configuration or of a fragment: name without `CONFIG_` to value, `n` for one that is not set.
pub fn parse(text: &str) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some((name, value)) = line.strip_prefix("CONFIG_").and_then(|line| line.split_once('=')) {
            options.insert(name.to_owned(), value.to_owned());
        } else if let Some(name) =
            line.strip_prefix("# CONFIG_").and_then(|line| line.strip_suffix(" is not set"))
        {
            options.insert(name.to_owned(), "n".to_owned());
        }
    }
    options
}

/// The wanted options that a configuration does not have as wanted, each as `CONFIG_NAME=WANTED (is VALUE)`.
pub fn lost(wanted: &str, configuration: &str) -> Vec<String> {
    let has = parse(configuration);
    let value = |name: &str| has.get(name).map_or("n", String::as_str);
    let gone = parse(wanted).into_iter().filter(|(name, want)| value(name) != want);
    gone.map(|(name, want)| format!("CONFIG_{name}={want} (is {})", value(&name))).collect()
}

/// Checks that a kernel with this configuration has what is needed.
///
/// # Errors
/// [`OptionsError::Missing`] with all that is missing.
pub fn check_file(path: &Path, needs: &Needs, has_modules: bool) -> Result<(), OptionsError> {
    let text = bounded::read_file(path, KERNEL_CONFIG_BYTES_MAX);
    let text = text.map_err(|source| OptionsError::Read { path: path.to_owned(), source })?;
    check(&String::from_utf8_lossy(&text), path, needs, has_modules)
}

/// The same for a configuration that was found in or beside the kernel of this file.
///
/// # Errors
/// [`OptionsError::Missing`] with all that is missing.
pub fn check(configuration: &str, path: &Path, needs: &Needs, has_modules: bool) -> Result<(), OptionsError> {
    let missing = missing(configuration, needs, has_modules);
    if missing.is_empty() {
        return Ok(());
    }
    Err(OptionsError::Missing { path: path.to_owned(), whose: needs.whose, missing })
}

/// The configuration inside a kernel that is not packed, if it has one (`CONFIG_IKCONFIG`: gzip between two marks,
/// kernel/configs.c).
///
/// # Errors
/// It cannot be unpacked.
pub fn embedded(vmlinux: &[u8]) -> io::Result<Option<String>> {
    // In two parts, so that this program itself holds no such mark.
    let mark = [b"IKCFG".as_slice(), b"_ST", &[0x1f, 0x8b]].concat();
    let Some(place) = vmlinux.windows(mark.len()).position(|window| window == mark) else { return Ok(None) };
    let packed = flate2::bufread::GzDecoder::new(&vmlinux[place + mark.len() - 2..]);
    let text = String::from_utf8(bounded::read(packed, KERNEL_CONFIG_BYTES_MAX)?);
    text.map(Some).map_err(io::Error::other)
}

fn missing(configuration: &str, needs: &Needs, has_modules: bool) -> Vec<String> {
    let has = parse(configuration);
    let is = |name: &&str, value: &str| has.get(*name).is_some_and(|found| found == value);
    let built_in = needs.built_in.iter().filter(|name| !is(name, "y"));
    let is_there = |name: &&str| is(name, "y") || has_modules && is(name, "m");
    let any = needs.any.iter().filter(|name| !is_there(name));
    built_in.chain(any).map(|name| format!("CONFIG_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lost_options_are_named_with_what_became_of_them() {
        let wanted = "# a comment\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=\"-aspen\"\nCONFIG_D=64\n";
        let built = "CONFIG_A=m\n# CONFIG_B is not set\nCONFIG_C=\"-aspen\"\nCONFIG_D=64\n";
        assert_eq!(lost(wanted, built), ["CONFIG_A=y (is m)"]);
        assert_eq!(lost(wanted, "CONFIG_B=y\n").len(), 4);
        let error = OptionsError::Lost(vec!["CONFIG_A=y (is m)".to_owned()]);
        let want = "1 of the wanted options did not survive make allnoconfig: CONFIG_A=y (is m); this source does not \
                    know them, or they depend on something that is off";
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn configuration_inside_a_kernel_is_found() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"CONFIG_64BIT=y\n").unwrap();
        let packed = gzip.finish().unwrap();
        let kernel = [b"a kernel IKCFG_ST, IKCFG_ST".as_slice(), &packed, b"IKCFG_ED and more"].concat();
        assert_eq!(embedded(&kernel).unwrap().as_deref(), Some("CONFIG_64BIT=y\n"));
        assert_eq!(embedded(b"a kernel IKCFG_ST, IKCFG_ED").unwrap(), None);
        assert!(embedded(&kernel[..kernel.len() - 30]).is_err(), "it is cut off");
    }

    #[test]
    fn kernel_that_cannot_run_the_appliance_is_refused_with_all_that_it_lacks() {
        let lines: Vec<String> =
            APPLIANCE.built_in.iter().chain(APPLIANCE.any).map(|name| format!("CONFIG_{name}=y\n")).collect();
        let all = lines.concat();
        let with = |from: &str, to: &str| {
            let path = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(path.path(), all.replace(from, to)).unwrap();
            path
        };
        let check_file = |path: &Path, has_modules| check_file(path, &APPLIANCE, has_modules);
        check_file(with("", "").path(), false).unwrap();
        let modular = with("EXT4_FS=y", "EXT4_FS=m");
        check_file(modular.path(), true).unwrap();
        let error = check_file(modular.path(), false).unwrap_err().to_string();
        assert!(error.ends_with("cannot run the appliance, it lacks CONFIG_EXT4_FS"), "{error}");
        let error = check_file(with("RD_ZSTD=y", "RD_ZSTD=m").path(), true).unwrap_err().to_string();
        assert!(error.ends_with("it lacks CONFIG_RD_ZSTD"), "{error}");
    }
}
