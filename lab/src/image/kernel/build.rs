//! `lab image kernel`: the small kernel of the appliance, from a source tree or from Debian's package of it.
//!
//! Everything is off but what images/kernel.fragment wants and what that needs.

use std::io;
use std::path::{Path, PathBuf};

use super::super::bounded;
use super::super::debian::{self, DebianError, Named};
use super::super::workshop::{Workshop, WorkshopError, make_anew, make_folder};
use super::options::{self, OptionsError};
use crate::limits::image::{
    KERNEL_BUILD_MAX, KERNEL_BZIMAGE_BYTES_MAX, KERNEL_CONFIG_BYTES_MAX, KERNEL_CONFIGURE_MAX,
    KERNEL_UNPACK_MAX,
};
use crate::program::Program;

/// What the appliance wants.
pub const FRAGMENT: &str = include_str!("../../../../images/kernel.fragment");
/// What the lab's own guest wants besides: it is a host of machines itself.
pub const LAB_FRAGMENT: &str = include_str!("../../../../images/kernel-lab.fragment");

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Not a source tree.
    #[error("{} is no source tree of Linux: it has no Kconfig and no arch/x86", .0.display())]
    NoTree(PathBuf),
    /// A program for the build is missing.
    #[error("cannot build a kernel without {}: run apt-get install {}", .programs.join(", "), .packages.join(" "))]
    Tools {
        /// The programs.
        programs: Vec<&'static str>,
        /// The packages that have them.
        packages: Vec<&'static str>,
    },
    /// A file or folder.
    #[error("cannot use {}", .path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Larger than it may become.
    #[error(
        "the kernel has {0} bytes, at most {KERNEL_BZIMAGE_BYTES_MAX} are wanted: which option made it grow?"
    )]
    TooLarge(u64),
    /// The options.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The package of the source.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// A step failed.
    #[error(transparent)]
    Workshop(#[from] WorkshopError),
}

/// What is to be built.
#[derive(Debug, Clone)]
pub struct KernelRequest {
    /// A source tree, instead of Debian's.
    pub source: Option<PathBuf>,
    /// Where the result goes.
    pub out: PathBuf,
    /// Whether the lab's own options are wanted, too.
    pub is_for_lab: bool,
    /// Whether to stop once the configuration has been made and checked.
    pub only_configure: bool,
}

/// What each program of the build is good for, and the package that has it.
const TOOLS: [(&str, &str); 8] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("lz4", "lz4"),
    ("xz", "xz-utils"),
];

/// Checks that a configuration has every option that is wanted, whoever has made it; how many those are.
///
/// # Errors
/// [`BuildError::Options`] with those that it has not, or [`BuildError::File`].
pub fn check_configuration(config: &Path, is_for_lab: bool) -> Result<usize, BuildError> {
    let wanted = wanted(is_for_lab);
    let text = bounded::read_file(config, KERNEL_CONFIG_BYTES_MAX).map_err(file_error(config))?;
    let text = String::from_utf8_lossy(&text);
    let lost = options::lost(&wanted, &text);
    if !lost.is_empty() {
        return Err(OptionsError::Lacking { path: config.to_owned(), options: lost }.into());
    }
    options::check(&text, config, &options::APPLIANCE, false)?;
    Ok(options::parse(&wanted).len())
}

fn source_tree(tree: PathBuf) -> Result<PathBuf, BuildError> {
    if tree.join("Kconfig").is_file() && tree.join("arch/x86").is_dir() {
        Ok(tree)
    } else {
        Err(BuildError::NoTree(tree))
    }
}

/// Builds the kernel: `bzImage` and `config` in the folder, which `lab image build` takes as it is.
///
/// # Errors
/// [`BuildError`].
pub fn build(request: &KernelRequest, workshop: &mut Workshop<'_>) -> Result<(), BuildError> {
    let given = request.source.as_deref().map(|tree| absolute(tree).and_then(source_tree)).transpose()?;
    check_tools()?;
    let tree = match given {
        Some(tree) => tree,
        None => source_tree(debian_source(workshop)?)?,
    };
    make_folder(&request.out)?;
    let out = absolute(&request.out)?;
    let objects = out.join("build");
    make_folder(&objects)?;
    // Whatever fails from here on, no kernel stays that is not of the configuration beside it.
    for name in ["bzImage", "config"] {
        remove(&out.join(name))?;
    }
    let wanted = wanted(request.is_for_lab);
    let fragment = out.join("kernel.fragment");
    std::fs::write(&fragment, &wanted).map_err(file_error(&fragment))?;
    let log = out.join("build.log");
    let configure = make(&tree, &objects).env("KCONFIG_ALLCONFIG", &fragment).arg("allnoconfig");
    workshop.long("make allnoconfig", &configure, &log, KERNEL_CONFIGURE_MAX)?;
    let config = objects.join(".config");
    let options_count = check_configuration(&config, request.is_for_lab).map_err(|error| match error {
        BuildError::Options(OptionsError::Lacking { options, .. }) => OptionsError::Lost(options).into(),
        error => error,
    })?;
    copy(&config, &out.join("config"))?;
    workshop.tell(&format!("all {options_count} wanted options survived"));
    if request.only_configure {
        return Ok(());
    }
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let compile = make(&tree, &objects).arg(format!("-j{jobs}")).arg("bzImage");
    workshop.long("make bzImage", &compile, &log, KERNEL_BUILD_MAX)?;
    let bzimage = objects.join("arch/x86/boot/bzImage");
    let bytes = std::fs::metadata(&bzimage).map_err(file_error(&bzimage))?.len();
    if bytes > KERNEL_BZIMAGE_BYTES_MAX && !request.is_for_lab {
        return Err(BuildError::TooLarge(bytes));
    }
    copy(&bzimage, &out.join("bzImage"))?;
    workshop.tell(&format!("{} has {bytes} bytes", out.join("bzImage").display()));
    Ok(())
}

/// The fragment, or both.
fn wanted(is_for_lab: bool) -> String {
    if is_for_lab { format!("{FRAGMENT}{LAB_FRAGMENT}") } else { FRAGMENT.to_owned() }
}

/// `make` with everything fixed that would make two builds differ.
fn make(tree: &Path, objects: &Path) -> Program {
    let program = Program::new("nice")
        .args(["-n", "10", "make", "-C"])
        .arg(tree)
        .arg(format!("O={}", objects.display()))
        .env("LC_ALL", "C")
        .env("KBUILD_BUILD_USER", "aspen")
        .env("KBUILD_BUILD_HOST", "aspen")
        .env("KBUILD_BUILD_VERSION", "1")
        .env("KBUILD_BUILD_TIMESTAMP", "1980-01-01 00:00:00 UTC");
    let set = ["PATH", "HOME", "TMPDIR"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    set.fold(program, |program, (name, value)| program.env(name, value))
}

fn check_tools() -> Result<(), BuildError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let mut missing: Vec<(&str, &str)> =
        TOOLS.into_iter().filter(|(name, _package)| !is_there(name)).collect();
    // objtool is linked with it.
    if !Path::new("/usr/include/libelf.h").is_file() && std::env::var_os("NIX_BUILD_TOP").is_none() {
        missing.push(("libelf", "libelf-dev"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let (programs, packages) = missing.into_iter().unzip();
    Err(BuildError::Tools { programs, packages })
}

/// The newest linux-source package of this Debian, unpacked in the cache.
fn debian_source(workshop: &mut Workshop<'_>) -> Result<PathBuf, BuildError> {
    const INSTEAD: &str = "--source FOLDER";
    let shown = debian::newest("linux-source", INSTEAD, workshop)?;
    // The package of that name only depends on the one with the version in its name.
    let series = shown.version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let package = debian::newest(&format!("linux-source-{series}"), INSTEAD, workshop)?;
    let Named { package: name, version } = &package;
    let tree = workshop.folder().join("kernels").join(format!("{name}_{}", debian::file_word(version)));
    if tree.join("Kconfig").is_file() {
        return Ok(tree);
    }
    let file = debian::fetch(&package, INSTEAD, workshop)?;
    let unpacked = debian::unpack(&file, workshop)?;
    let archive = unpacked.folder.join("usr/src").join(format!("{name}.tar.xz"));
    let _turn = workshop.turn("kernels")?;
    if tree.join("Kconfig").is_file() {
        // Another lab was faster.
        return Ok(tree);
    }
    let parent = workshop.folder().join("kernels");
    let half = parent.join(".half");
    make_anew(&half)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tar = Program::new("tar").args(["--extract", "--strip-components=1", "--file"]).arg(&archive);
    let tar = tar.arg("--directory").arg(&half).env("PATH", path);
    let log = parent.join("tar.log");
    workshop.long("unpacking the source", &tar, &log, KERNEL_UNPACK_MAX)?;
    std::fs::rename(&half, &tree).map_err(file_error(&tree))?;
    Ok(tree)
}

fn absolute(path: &Path) -> Result<PathBuf, BuildError> {
    std::path::absolute(path).map_err(file_error(path))
}

fn copy(from: &Path, to: &Path) -> Result<(), BuildError> {
    std::fs::copy(from, to).map(|_bytes| ()).map_err(file_error(to))
}

fn remove(path: &Path) -> Result<(), BuildError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path)(error)),
        _ => Ok(()),
    }
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::File { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    #[test]
    fn fragments_want_what_the_appliance_needs_and_the_lab_wants_netem() {
        let has = |text: &str, name: &str| options::parse(text).get(name).map(String::as_str) == Some("y");
        for name in [
            "RD_ZSTD",
            "PVH",
            "VIRTIO_BLK",
            "VIRTIO_MMIO",
            "VIRTIO_CONSOLE",
            "EXT4_FS",
            "EFI_STUB",
            "INPUT_EVDEV",
        ] {
            assert!(has(&wanted(false), name), "{name}");
        }
        assert!(!has(&wanted(false), "NET_SCH_NETEM"));
        for name in ["NET_SCH_NETEM", "NET_SCH_HTB", "BRIDGE", "TUN", "VETH", "NF_TABLES"] {
            assert!(has(&wanted(true), name), "{name}");
        }
    }

    /// Found when a build failed over an earlier one: the new configuration lay beside the old kernel.
    #[test]
    fn failed_build_leaves_no_kernel_of_another_configuration() {
        let home = tempfile::tempdir().unwrap();
        let mut tell = |_: &str| {};
        let mut workshop = Workshop::open(&home.path().join("cache"), &mut tell).unwrap();
        let (tree, out) = (home.path().join("tree"), home.path().join("out"));
        make_folder(&tree.join("arch/x86")).unwrap();
        make_folder(&out).unwrap();
        std::fs::write(tree.join("Kconfig"), "").unwrap();
        std::fs::write(out.join("bzImage"), "old").unwrap();
        std::fs::write(out.join("config"), "old").unwrap();
        let request =
            KernelRequest { source: Some(tree), out: out.clone(), is_for_lab: false, only_configure: false };
        // A tree without a Makefile.
        let error = build(&request, &mut workshop).unwrap_err();
        if matches!(error, BuildError::Tools { .. }) {
            host::lacks("kernel-tools", &error.to_string());
            return;
        }
        assert!(error.to_string().starts_with("make allnoconfig ended with exit code 2"), "{error}");
        assert!(!out.join("bzImage").exists() && !out.join("config").exists());
    }

    #[test]
    fn configuration_that_was_made_elsewhere_is_checked_against_the_same_options() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("config");
        // What make allnoconfig would make of it, were there no dependencies.
        std::fs::write(&config, wanted(false)).unwrap();
        assert_eq!(check_configuration(&config, false).unwrap(), options::parse(&wanted(false)).len());
        let lost = check_configuration(&config, true).unwrap_err().to_string();
        assert!(lost.contains("CONFIG_NET_SCH_NETEM=y (is n)"), "{lost}");
        let none = check_configuration(&home.path().join("none"), false).unwrap_err().to_string();
        assert_eq!(none, format!("cannot use {}", home.path().join("none").display()));
    }

    #[test]
    fn folder_without_a_source_tree_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let mut tell = |_: &str| {};
        let mut workshop = Workshop::open(&home.path().join("cache"), &mut tell).unwrap();
        let request = KernelRequest {
            source: Some(home.path().to_owned()),
            out: home.path().join("out"),
            is_for_lab: false,
            only_configure: true,
        };
        let error = build(&request, &mut workshop).unwrap_err();
        let want = format!(
            "{} is no source tree of Linux: it has no Kconfig and no arch/x86",
            home.path().display()
        );
        assert_eq!(error.to_string(), want);
    }
}
