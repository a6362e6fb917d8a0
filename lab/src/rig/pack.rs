//! What goes into a guest for one command, and what the guest is told to do.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use super::bundle::{Bundle, BundleError};
use super::errand::{Errand, Machines};
use super::host::terminal_size;
use super::kernel::{GuestKernel, OTHER_KVM};
use super::wire::{Order, Word};
use super::{IMAGE_FOLDER, INIT, MODULES_LIST, OTHER_KVM_LIST, RigError, VARIABLE, say, shell};
use crate::causes::causes;
use crate::cli::RigArgs;
use crate::image::assemble::files;
use crate::image::cache::{IMAGE_VARIABLE, KERNEL_VARIABLE, KEY_VARIABLE, built};
use crate::image::modules::Module;
use crate::image::workshop::{Workshop, variable};
use crate::image::{ImageFolder, manifest};
use crate::limits::rig::MEMORY_MIB_DEFAULT;
use crate::machine::qemu::arguments::QEMU;
use crate::program::{Program, quoted};

/// Where the guest looks for programs first; each is a link to where it is on this host.
pub(super) const PROGRAMS: &str = "/usr/local/bin";
/// The guest's search path.
const PATH: &str = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/busybox";
/// The hypervisor.
const CLOUD_HYPERVISOR: &str = "cloud-hypervisor";
/// What the lab drives, where it is here; the doctor puts a process to sleep.
const DRIVEN: [&str; 4] = ["nft", "ip", "tc", "sleep"];
/// What programs look up.
const TEXTS: [(&str, &str); 3] = [
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 rig\n"),
];
/// What QEMU loads into its machines.
const FIRMWARE: [&str; 6] =
    ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "linuxboot.bin", "pvh.bin", "multiboot_dma.bin"];
/// Where QEMU has what it loads only when it is needed, and what the lab needs of it.
const MODULE_FOLDERS: [&str; 3] = ["/usr/lib/x86_64-linux-gnu/qemu", "/usr/lib64/qemu", "/usr/lib/qemu"];
const MODULES: [&str; 1] = ["accel-tcg-x86_64.so"];
/// What of the environment goes into the guest, besides all that begins with ASPEN_.
const PASSED: [&str; 10] = [
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "LANG",
    "LC_ALL",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SOURCE_DATE_EPOCH",
];

/// The image that machines in the guest boot where none is named: built here, since the guest has no compiler.
///
/// # Errors
/// There is none, and machines were asked for.
pub(super) fn image_for(
    errand: &Errand,
    workshop: &mut Workshop<'_>,
) -> Result<Option<ImageFolder>, RigError> {
    if errand.image.is_some() || variable(IMAGE_VARIABLE).is_some() {
        return Ok(None);
    }
    match errand.machines {
        Machines::None | Machines::Tried => Ok(None),
        Machines::Wanted => built(variable(KERNEL_VARIABLE), workshop).map(Some).map_err(RigError::Image),
        Machines::Perhaps => {
            let without =
                if errand.is_shell { "" } else { "; `--driver process` behind the command needs none" };
            say(&format!(
                "rig: the guest can run virtual machines, so their image is built first, unless it is here{without}"
            ));
            let image = built(variable(KERNEL_VARIABLE), workshop).inspect_err(|error| {
                say(&format!(
                    "rig: no image for machines in the guest: {}",
                    causes(error).replace('\n', " ")
                ));
            });
            Ok(image.ok())
        }
    }
}

/// Packs everything that the command needs, and says what the guest is to do.
///
/// # Errors
/// [`RigError`].
pub(super) fn pack(
    args: &RigArgs,
    errand: &Errand,
    kernel: &GuestKernel,
    image: Option<&ImageFolder>,
    folder: &Path,
    workshop: &mut Workshop<'_>,
) -> Result<(Bundle, Order), RigError> {
    let mut bundle = Bundle::new();
    // By this path it is there even if it was built again meanwhile.
    bundle.program_as(Path::new("/proc/self/exe"), Path::new(INIT))?;
    for (path, text) in TEXTS {
        bundle.text(path, text);
    }
    bundle.link(&format!("{PROGRAMS}/lab"), INIT);
    let (other, modules): (Vec<Module>, Vec<Module>) =
        kernel.modules.iter().cloned().partition(|module| module.name == OTHER_KVM);
    bundle.modules(&kernel.release, &modules, MODULES_LIST);
    bundle.modules(&kernel.release, &other, OTHER_KVM_LIST);
    bundle.folder(folder)?;
    for path in errand.scenario.iter().chain(&errand.files) {
        bundle.tree(path)?;
    }
    if let Some(image) = &errand.image {
        named_image(image, &mut bundle)?;
    }
    for path in &errand.programs {
        bundle.program(path)?;
    }
    // What exists has to exist there, too, so that it is refused as it would be here.
    for path in errand.out.iter().filter(|path| path.is_dir()) {
        bundle.folder(path)?;
    }
    for name in DRIVEN {
        on_search_path(&mut bundle, name)?;
    }
    hypervisors(args, errand, folder, &mut bundle, workshop)?;
    match image {
        Some(image) => booted_files(image.folder(), Path::new(IMAGE_FOLDER), &mut bundle)?,
        None if errand.machines != Machines::None => {
            if let Some(path) = variable(IMAGE_VARIABLE) {
                named_image(&folder.join(path), &mut bundle)?;
            }
            if let Some(path) = variable(KEY_VARIABLE) {
                bundle.tree(&folder.join(path))?;
            }
        }
        None => {}
    }
    let words = if errand.is_shell {
        shell::pack(&mut bundle, workshop)?
    } else {
        std::iter::once(format!("{PROGRAMS}/lab").into()).chain(args.words.iter().cloned()).collect()
    };
    Ok((bundle, order(args, errand, words, image.is_some(), folder)))
}

/// Adds a program of the search path, if it is there; whether it is.
pub(super) fn on_search_path(bundle: &mut Bundle, name: &str) -> Result<bool, BundleError> {
    // Where only root's search path has it.
    let roots = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
    let found = Program::find(name).or_else(|| roots.into_iter().find(|path| path.is_file()));
    let Some(path) = found else { return Ok(false) };
    with_link(bundle, &path, name)?;
    Ok(true)
}

/// Adds a program, and a link to it where the guest looks first.
fn with_link(bundle: &mut Bundle, path: &Path, name: &str) -> Result<(), BundleError> {
    bundle.program(path)?;
    let link = format!("{PROGRAMS}/{name}");
    if Path::new(&link) != path {
        bundle.link(&link, &path.to_string_lossy());
    }
    Ok(())
}

fn hypervisors(
    args: &RigArgs,
    errand: &Errand,
    folder: &Path,
    bundle: &mut Bundle,
    workshop: &Workshop<'_>,
) -> Result<(), RigError> {
    match &args.cloud_hypervisor {
        Some(path) => {
            let path = folder.join(path);
            if !path.is_file() {
                return Err(RigError::NoProgram { option: "--cloud-hypervisor", path });
            }
            with_link(bundle, &path, CLOUD_HYPERVISOR)?;
        }
        None if errand.machines != Machines::None => {
            on_search_path(bundle, CLOUD_HYPERVISOR)?;
        }
        None => {}
    }
    if errand.machines == Machines::None || !on_search_path(bundle, QEMU)? {
        return Ok(());
    }
    // QEMU names the folders in which it looks.
    let qemu = Program::find(QEMU).unwrap_or_else(|| QEMU.into());
    let folders = workshop.helper(Program::new(qemu).args(["-L", "help"]))?.stdout;
    for folder in folders.lines().filter_map(|folder| Path::new(folder).canonicalize().ok()) {
        for path in FIRMWARE.iter().map(|name| folder.join(name)).filter(|path| path.is_file()) {
            bundle.file(&path)?;
        }
    }
    for folder in MODULE_FOLDERS.map(Path::new) {
        for path in MODULES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()) {
            bundle.program(&path)?;
        }
    }
    Ok(())
}

/// Adds an image that was named, at its own path.
fn named_image(path: &Path, bundle: &mut Bundle) -> Result<(), BundleError> {
    if !path.is_dir() {
        // Refused as it would be here.
        return bundle.tree(path);
    }
    bundle.folder(path)?;
    booted_files(path, path, bundle)
}

/// Adds what is booted of an image, and what says that it is whole; its disks are far larger.
fn booted_files(from: &Path, to: &Path, bundle: &mut Bundle) -> Result<(), BundleError> {
    for name in [manifest::FILE, manifest::SIGNATURE_FILE, files::VMLINUX, files::BZIMAGE, files::INITRAMFS] {
        let file = from.join(name);
        if file.is_file() {
            bundle.file_as(&file, &to.join(name))?;
        }
    }
    Ok(())
}

/// What the guest is told.
fn order(args: &RigArgs, errand: &Errand, words: Vec<OsString>, has_image: bool, folder: &Path) -> Order {
    let [input, output, errors] =
        [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()];
    Order {
        words: words.into_iter().map(Word::from).collect(),
        environment: environment(args, has_image, std::env::vars_os()),
        folder: folder.into(),
        out: errand.out.iter().map(|path| path.as_path().into()).collect(),
        terminals: [input && errand.has_input, output, errors],
        size: terminal_size(),
        is_interactive: errand.is_shell && input && output,
        has_input: errand.has_input,
    }
}

/// The environment of the command.
fn environment(
    args: &RigArgs,
    has_image: bool,
    here: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(String, Word)> {
    let is_passed = |name: &str| PASSED.contains(&name) || name.starts_with("ASPEN_");
    let passed = here
        .filter_map(|(name, value)| Some((name.into_string().ok().filter(|name| is_passed(name))?, value)));
    let mut set: Vec<(String, Word)> = passed.map(|(name, value)| (name, value.into())).collect();
    if has_image {
        set.push((IMAGE_VARIABLE.to_owned(), Path::new(IMAGE_FOLDER).into()));
    }
    let own = [("PATH", PATH), ("HOME", "/root"), ("SHELL", "/bin/sh"), ("PS1", "rig:\\w\\$ ")];
    set.extend(own.map(|(name, value)| (name.to_owned(), Word::Text(value.to_owned()))));
    set.push((VARIABLE.to_owned(), Word::Text(words_again(args))));
    set
}

/// The rig's own words, as a shell takes them.
fn words_again(args: &RigArgs) -> String {
    let RigArgs { kernel, cloud_hypervisor, cpus, memory_mib, emulate, with, words: _ } = args;
    let path = |name: &str, path: &Option<PathBuf>| {
        path.as_ref().map(|path| format!("--{name} {}", quoted(path.as_os_str())))
    };
    let memory = (*memory_mib != MEMORY_MIB_DEFAULT).then(|| format!("--memory-mib {memory_mib}"));
    let options = [
        path("kernel", kernel),
        path("cloud-hypervisor", cloud_hypervisor),
        cpus.map(|cpus| format!("--cpus {cpus}")),
        memory,
        emulate.then(|| "--emulate".to_owned()),
    ];
    let with = with.iter().map(|path| format!("--with {}", quoted(path.as_os_str())));
    let words = std::iter::once("rig".to_owned()).chain(options.into_iter().flatten()).chain(with);
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn args() -> RigArgs {
        RigArgs {
            kernel: Some("a b.deb".into()),
            cloud_hypervisor: None,
            cpus: Some(2),
            memory_mib: MEMORY_MIB_DEFAULT,
            emulate: true,
            with: vec![],
            words: vec![],
        }
    }

    #[test]
    fn rig_can_be_made_again_by_its_words() {
        assert_eq!(words_again(&args()), "rig --kernel 'a b.deb' --cpus 2 --emulate");
        let plain = RigArgs { kernel: None, cpus: None, emulate: false, memory_mib: 2048, ..args() };
        assert_eq!(words_again(&plain), "rig --memory-mib 2048");
        let with = RigArgs { with: vec!["a".into(), "b c".into()], memory_mib: MEMORY_MIB_DEFAULT, ..plain };
        assert_eq!(words_again(&with), "rig --with a --with 'b c'");
    }

    #[test]
    fn guest_gets_what_the_lab_reads_and_nothing_of_this_host() {
        let here = [("PATH", "/opt"), ("TERM", "vt100"), ("ASPEN_PLANT", "x"), ("SECRET", "y")];
        let here = here.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let set = environment(&args(), true, here.into_iter());
        let value = |name: &str| {
            let found: Vec<_> = set.iter().filter(|(found, _value)| found == name).collect();
            assert!(found.len() <= 1, "{name}");
            found.first().map(|(_name, value)| OsString::from(value.clone()))
        };
        assert_eq!(value("TERM").as_deref(), Some(OsStr::new("vt100")));
        assert_eq!(value("ASPEN_PLANT").as_deref(), Some(OsStr::new("x")));
        assert_eq!(value(IMAGE_VARIABLE).as_deref(), Some(OsStr::new(IMAGE_FOLDER)));
        assert_eq!(value("PATH").as_deref(), Some(OsStr::new(PATH)));
        assert_eq!(value("SECRET"), None);
        assert!(value(VARIABLE).is_some());
    }
}
