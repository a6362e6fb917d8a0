//! What is asked of ELF files: the machine they are for, what they are linked with, PVH, a module's description; and a
//! program without what only debuggers read.

use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection};

/// Why an ELF file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// Not ELF, or damaged.
    #[error("this is no ELF file of 64 bits, or a damaged one")]
    Malformed(#[from] object::Error),
    /// For another processor.
    #[error("this is for {0}; the appliance is for x86_64 only")]
    Machine(String),
    /// It wants a dynamic linker, which the appliance does not have.
    #[error(
        "this program is linked dynamically: build it with RUSTFLAGS='-C target-feature=+crt-static' and an explicit \
         --target x86_64-unknown-linux-gnu"
    )]
    Dynamic,
    /// An object file, or a module.
    #[error("this ELF file has nothing to load: it is no program")]
    Unloadable,
    /// The end is missing.
    #[error("this ELF file is cut off: it has {bytes} bytes and speaks of {wanted}")]
    Truncated {
        /// How long it is.
        bytes: u64,
        /// How long it says it is.
        wanted: u64,
    },
}

type Header = FileHeader64<Endianness>;

/// The ELF note that says where a kernel is entered without boot code (`XEN_ELFNOTE_PHYS32_ENTRY`, xen/elfnote.h).
const PHYS32_ENTRY: u32 = 18;
/// Where `e_shoff` is, and where `e_shentsize`, `e_shnum` and `e_shstrndx` are (elf(5), 64 bits).
const SECTION_TABLE_OFFSET: std::ops::Range<usize> = 0x28..0x30;
const SECTION_TABLE_SIZES: std::ops::Range<usize> = 0x3a..0x40;

/// Checks that a program runs in the appliance, and returns its bytes up to the end of what the kernel loads: no symbols,
/// no debugging information, no section table.
///
/// # Errors
/// It does not run there.
pub fn static_program(bytes: &[u8]) -> Result<Vec<u8>, ElfError> {
    let (header, endian) = x86_64(bytes)?;
    let mut segments = header.program_headers(endian, bytes)?.iter();
    if segments.any(|segment| segment.p_type(endian) == elf::PT_INTERP) {
        return Err(ElfError::Dynamic);
    }
    loaded(bytes)
}

/// The bytes of a program up to the end of what the kernel loads: no symbols, no debugging information, no section table.
///
/// # Errors
/// It is no program for this machine.
pub fn loaded(bytes: &[u8]) -> Result<Vec<u8>, ElfError> {
    let (header, endian) = x86_64(bytes)?;
    let mut end = 0;
    for segment in header.program_headers(endian, bytes)? {
        end = end.max(segment.p_offset(endian).saturating_add(segment.p_filesz(endian)));
    }
    let loaded = usize::try_from(end).ok().and_then(|end| bytes.get(..end));
    let Some(loaded) = loaded else {
        return Err(ElfError::Truncated { bytes: bytes.len() as u64, wanted: end });
    };
    if loaded.len() < SECTION_TABLE_SIZES.end {
        return Err(ElfError::Unloadable);
    }
    let mut program = loaded.to_vec();
    program[SECTION_TABLE_OFFSET].fill(0);
    program[SECTION_TABLE_SIZES].fill(0);
    Ok(program)
}

/// What a program or library is linked with, as it says itself.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Linkage {
    /// The program that loads it; none for a static program and for a library.
    pub interpreter: Option<String>,
    /// The names of the libraries that it wants.
    pub needed: Vec<String>,
    /// The folders in which it wants them to be looked for, `$ORIGIN` for its own.
    pub folders: Vec<String>,
}

/// What a program or library is linked with.
///
/// # Errors
/// It is no ELF file for this machine.
pub fn linkage(bytes: &[u8]) -> Result<Linkage, ElfError> {
    let (header, endian) = x86_64(bytes)?;
    let segments = header.program_headers(endian, bytes)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut linkage = Linkage::default();
    for segment in segments {
        if let Some(interpreter) = segment.interpreter(endian, bytes)? {
            linkage.interpreter = Some(text(interpreter));
        }
        let Some(entries) = segment.dynamic(endian, bytes)? else { continue };
        let value =
            |tag| entries.iter().find(|entry| entry.tag(endian) == tag).map(|entry| entry.val(endian));
        let Some((address, length)) = value(elf::DT_STRTAB).zip(value(elf::DT_STRSZ)) else { continue };
        let mut loads = segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD);
        let strings = loads
            .find_map(|load| load.data_range(endian, bytes, address, length).ok().flatten())
            .unwrap_or(&[]);
        let string = |offset: u64| {
            let bytes = strings.get(usize::try_from(offset).ok()?..)?;
            Some(text(bytes.split(|byte| *byte == 0).next()?))
        };
        for entry in entries {
            match entry.tag(endian) {
                elf::DT_NEEDED => linkage.needed.extend(string(entry.val(endian))),
                elf::DT_RPATH | elf::DT_RUNPATH => {
                    let paths = string(entry.val(endian)).unwrap_or_default();
                    linkage
                        .folders
                        .extend(paths.split(':').filter(|path| !path.is_empty()).map(str::to_owned));
                }
                _ => {}
            }
        }
    }
    Ok(linkage)
}

/// Whether a kernel can be entered as PVH guests are: hypervisors that boot ELF files need it.
///
/// # Errors
/// It is no ELF file for this machine.
pub fn has_pvh(bytes: &[u8]) -> Result<bool, ElfError> {
    let (header, endian) = x86_64(bytes)?;
    for segment in header.program_headers(endian, bytes)? {
        let Some(mut notes) = segment.notes(endian, bytes)? else { continue };
        while let Some(note) = notes.next()? {
            if note.name() == b"Xen" && note.n_type(endian).0 == PHYS32_ENTRY {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Checks that the end of a kernel is there: all that is loaded, and the table of its sections.
///
/// # Errors
/// It is cut off, or no ELF file for this machine.
pub fn check_whole(bytes: &[u8]) -> Result<(), ElfError> {
    let (header, endian) = x86_64(bytes)?;
    let sections = u64::from(header.e_shentsize(endian)) * u64::from(header.e_shnum(endian));
    let mut wanted = header.e_shoff(endian).saturating_add(sections);
    for segment in header.program_headers(endian, bytes)? {
        wanted = wanted.max(segment.p_offset(endian).saturating_add(segment.p_filesz(endian)));
    }
    let bytes = bytes.len() as u64;
    if wanted > bytes { Err(ElfError::Truncated { bytes, wanted }) } else { Ok(()) }
}

/// The strings `KEY=VALUE` with which a kernel module describes itself (modinfo(8)).
///
/// # Errors
/// It is no module for this machine.
pub fn module_information(bytes: &[u8]) -> Result<Vec<(String, String)>, ElfError> {
    x86_64(bytes)?;
    let file = ElfFile64::<Endianness>::parse(bytes)?;
    let section = file.section_by_name(".modinfo").map(|section| section.data()).transpose()?;
    Ok(key_values(section.unwrap_or_default()))
}

/// Strings `KEY=VALUE`, each ended by a NUL.
pub(super) fn key_values(bytes: &[u8]) -> Vec<(String, String)> {
    let strings = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    strings.filter_map(|text| text.split_once('=').map(|(key, value)| (key.into(), value.into()))).collect()
}

fn x86_64(bytes: &[u8]) -> Result<(&Header, Endianness), ElfError> {
    if bytes.get(4) == Some(&elf::ELFCLASS32.0) && bytes.starts_with(b"\x7fELF") {
        return Err(ElfError::Machine("a processor of 32 bits".to_owned()));
    }
    let header = Header::parse(bytes)?;
    let endian = header.endian()?;
    match header.e_machine(endian) {
        elf::EM_X86_64 => Ok((header, endian)),
        elf::EM_AARCH64 => Err(ElfError::Machine("aarch64".to_owned())),
        elf::EM_RISCV => Err(ElfError::Machine("riscv64".to_owned())),
        elf::EM_PPC64 => Err(ElfError::Machine("ppc64".to_owned())),
        elf::EM_S390 => Err(ElfError::Machine("s390x".to_owned())),
        other => Err(ElfError::Machine(format!("ELF machine {}", other.0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_program() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], want: &str) {
        assert_eq!(static_program(bytes).unwrap_err().to_string(), want);
    }

    #[test]
    fn program_says_what_it_is_linked_with() {
        let Linkage { interpreter, needed, .. } = linkage(&own_program()).unwrap();
        assert!(interpreter.is_some_and(|path| path.starts_with('/') && path.contains("ld-")));
        assert!(needed.iter().any(|name| name.starts_with("libc.")), "{needed:?}");
        // What debuggers read is not needed for that.
        assert_eq!(linkage(&loaded(&own_program()).unwrap()).unwrap().needed, needed);
    }

    #[test]
    fn file_whose_end_is_missing_is_cut_off() {
        let program = own_program();
        check_whole(&program).unwrap();
        let cut = &program[..program.len() - 1];
        let want =
            format!("this ELF file is cut off: it has {} bytes and speaks of {}", cut.len(), program.len());
        assert_eq!(check_whole(cut).unwrap_err().to_string(), want);
    }

    #[test]
    fn program_that_cannot_run_in_the_appliance_is_refused_with_the_reason() {
        let mut program = own_program();
        check_refused(
            &program,
            "this program is linked dynamically: build it with RUSTFLAGS='-C target-feature=+crt-static' and an \
             explicit --target x86_64-unknown-linux-gnu",
        );
        check_refused(b"#!/bin/sh\n", "this is no ELF file of 64 bits, or a damaged one");
        // A header that names no segment.
        let mut object = program.clone();
        object[0x38] = 0;
        object[0x39] = 0;
        check_refused(&object, "this ELF file has nothing to load: it is no program");
        // e_machine of aarch64.
        program[0x12] = 183;
        check_refused(&program, "this is for aarch64; the appliance is for x86_64 only");
        program[4] = 1;
        check_refused(&program, "this is for a processor of 32 bits; the appliance is for x86_64 only");
    }

    #[test]
    fn only_what_the_kernel_loads_is_kept_and_a_cut_is_seen() {
        // The interpreter's segment becomes one of no meaning.
        let mut program = own_program();
        let offset = usize::from(program[0x20]);
        for segment in 0..usize::from(program[0x38]) {
            let place = offset + 56 * segment;
            if program[place..place + 4] == elf::PT_INTERP.0.to_le_bytes() {
                program[place..place + 4].fill(0);
            }
        }
        let kept = static_program(&program).unwrap();
        assert!(kept.len() < program.len());
        // What is kept is kept again.
        assert!(static_program(&kept).unwrap() == kept);
        let cut = &kept[..kept.len() - 1];
        let want =
            format!("this ELF file is cut off: it has {} bytes and speaks of {}", cut.len(), kept.len());
        check_refused(cut, &want);
        assert!(!has_pvh(&kept).unwrap());
    }

    #[test]
    fn strings_of_a_module_are_keys_and_values() {
        let strings = b"license=GPL\0depends=jbd2,crc16\0\0no pair\0alias=a=b\0";
        let want = [("license", "GPL"), ("depends", "jbd2,crc16"), ("alias", "a=b")];
        let want: Vec<_> = want.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(key_values(strings), want);
    }
}
