//! What is in the initramfs, and what the manifest says of the kernel.

use aspen_init::blocks::{BlockList, BlocksError};
use aspen_init::layout;

use super::super::initramfs::{Entry, Initramfs};
use super::super::manifest::{KernelFacts, Part};
use super::{AssembleError, Materials};

/// What one wants to know of the kernel before it is booted.
pub(super) fn kernel_facts(materials: &Materials) -> KernelFacts {
    let selection = &materials.selection;
    // A kernel without a folder of modules lacks none of them.
    let absent = selection.absent.iter().map(|name| (*name).to_owned()).collect();
    KernelFacts {
        release: materials.kernel.release.clone(),
        version_line: materials.kernel.version_line.clone(),
        pvh: materials.kernel.has_pvh,
        modules: selection.modules.iter().map(|module| module.name.clone()).collect(),
        absent_modules: absent,
    }
}

/// The content of the initramfs, and what takes how much of it.
pub(super) fn initramfs(materials: &Materials, ext4: &[u8]) -> Result<(Initramfs, Vec<Part>), AssembleError> {
    let mut blocks = Vec::new();
    BlockList::from_image(ext4)?.write(&mut blocks).map_err(BlocksError::from)?;
    let modules = &materials.selection.modules;
    let part = |name: &str, bytes: usize| Part { name: name.to_owned(), bytes: bytes as u64 };
    let parts = vec![
        part("node", materials.programs.node.bytes.len()),
        part("init", materials.programs.init.bytes.len()),
        part("modules", modules.iter().map(|module| module.bytes.len()).sum()),
        part("empty data disk", blocks.len()),
    ];
    let program = |bytes: &[u8]| Entry::File { bytes: bytes.to_vec(), is_program: true };
    let mut initramfs = Initramfs::default();
    initramfs.add(layout::INIT, program(&materials.programs.init.bytes));
    initramfs.add(layout::NODE, program(&materials.programs.node.bytes));
    initramfs.add_file(layout::DATA_BLOCKS, blocks);
    initramfs.add_file(layout::OS_RELEASE, os_release(&materials.programs.version));
    // What the kernel opens as PID 1's input and output, before there is a devtmpfs.
    initramfs.add("/dev/console", Entry::Device(5, 1));
    for folder in layout::MOUNT_POINTS.into_iter().filter(|folder| *folder != "/dev") {
        initramfs.add(folder, Entry::Folder);
    }
    if !modules.is_empty() {
        initramfs.add_modules(&materials.kernel.release, modules, layout::MODULES);
    }
    Ok((initramfs, parts))
}

/// What the appliance calls itself (os-release(5)).
pub(super) fn os_release(version: &str) -> String {
    let word = version.split(' ').next().unwrap_or_default();
    format!(
        "ID=aspen\nNAME=\"Aspen\"\nPRETTY_NAME=\"Aspen {word}\"\nVERSION_ID={word}\nVARIANT_ID=appliance\nIMAGE_ID=aspen-appliance\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appliance_names_itself_by_the_first_word_of_its_version() {
        assert!(os_release("0.1.0 (planted)").contains("VERSION_ID=0.1.0\n"));
    }
}
