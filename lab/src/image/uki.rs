//! The unified kernel image: the systemd stub with command line, kernel and initramfs as sections of one EFI program.
//!
//! The sections are those of the UAPI group's specification of unified kernel images. It is not signed for Secure Boot.

use object::LittleEndian as LE;
use object::pe::{IMAGE_FILE_MACHINE_AMD64, ImageSectionHeader};
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile64};

use crate::limits::image::UKI_BYTES_MAX;

/// Why there is no unified kernel image.
#[derive(Debug, thiserror::Error)]
pub enum UkiError {
    /// Not an EFI program.
    #[error("the stub is no EFI program of 64 bits, or a damaged one")]
    Malformed(#[from] object::Error),
    /// For another machine.
    #[error("the stub is for PE machine {0:#06x}; the appliance is for x86_64 only")]
    Machine(u16),
    /// Half of it.
    #[error(
        "the stub has {bytes} bytes, by its own header at least {wanted}: it was truncated, fetch it again"
    )]
    Truncated {
        /// How many there are.
        bytes: usize,
        /// How many there have to be.
        wanted: u64,
    },
    /// Its header is full.
    #[error("the header of the stub has room for {room} more sections, {needed} are needed")]
    NoRoom {
        /// How many fit.
        room: usize,
        /// How many are wanted.
        needed: usize,
    },
    /// Too large.
    #[error("kernel and initramfs make an image of {0} bytes, at most {UKI_BYTES_MAX} fit")]
    TooLarge(u64),
}

/// A section to be appended: its name, of at most 8 bytes, and what it holds.
type Section<'a> = (&'a str, &'a [u8]);

const SECTION_HEADER_BYTES: usize = size_of::<ImageSectionHeader>();
/// Every new section begins a page, as those of the stub do.
const SECTION_ALIGNMENT: u64 = 4096;
/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ` (the PE format, Section Flags).
const CHARACTERISTICS: u32 = 0x4000_0040;
/// Offsets in the optional header (the PE format, Optional Header Standard and Windows-Specific Fields).
const SIZE_OF_IMAGE: usize = 56;
const CHECKSUM: usize = 64;

/// Appends the sections to the stub.
///
/// # Errors
/// [`UkiError`].
pub fn assemble(stub: &[u8], sections: &[Section<'_>]) -> Result<Vec<u8>, UkiError> {
    let file = PeFile64::parse(stub)?;
    let header = file.nt_headers();
    let machine = header.file_header().machine.get(LE);
    if machine != IMAGE_FILE_MACHINE_AMD64 {
        return Err(UkiError::Machine(machine.0));
    }
    let optional = header.optional_header();
    let file_alignment = u64::from(optional.file_alignment()).max(512);
    let nt_offset = file.dos_header().nt_headers_offset() as usize;
    // Signature and file header have 24 bytes.
    let optional_offset = nt_offset + 24;
    let count = usize::from(header.file_header().number_of_sections.get(LE));
    let table_end = optional_offset
        + usize::from(header.file_header().size_of_optional_header.get(LE))
        + count * SECTION_HEADER_BYTES;
    let wanted = file.section_table().iter().map(|section| {
        u64::from(section.pointer_to_raw_data.get(LE)) + u64::from(section.size_of_raw_data.get(LE))
    });
    if let Some(wanted) = wanted.max().filter(|wanted| *wanted > stub.len() as u64) {
        return Err(UkiError::Truncated { bytes: stub.len(), wanted });
    }
    // A section without data in the file, such as .bss, points nowhere.
    let pointers = file.section_table().iter().map(|section| section.pointer_to_raw_data.get(LE));
    let first_data = pointers.filter(|pointer| *pointer > 0).min();
    let room = (first_data.unwrap_or_default() as usize).saturating_sub(table_end) / SECTION_HEADER_BYTES;
    if room < sections.len() {
        return Err(UkiError::NoRoom { room, needed: sections.len() });
    }
    let ends = file
        .section_table()
        .iter()
        .map(|section| u64::from(section.virtual_address.get(LE)) + u64::from(section.virtual_size.get(LE)));
    let mut address = ends.max().unwrap_or_default();
    let mut image = stub.to_vec();
    for (place, (name, bytes)) in sections.iter().enumerate() {
        image.resize(round_up(image.len() as u64, file_alignment)?, 0);
        address = round_up(address, SECTION_ALIGNMENT)? as u64;
        let section = section_header(name, address, image.len() as u64, bytes, file_alignment)?;
        let at = table_end + place * SECTION_HEADER_BYTES;
        image[at..at + SECTION_HEADER_BYTES].copy_from_slice(&section);
        image.extend_from_slice(bytes);
        address += bytes.len() as u64;
    }
    image.resize(round_up(image.len() as u64, file_alignment)?, 0);
    let total = number(round_up(address, u64::from(optional.section_alignment()))? as u64)?;
    put(&mut image, optional_offset + SIZE_OF_IMAGE, &total.to_le_bytes());
    // Nobody checks it for EFI programs, and that of the stub is no longer right.
    put(&mut image, optional_offset + CHECKSUM, &[0; 4]);
    let count = u16::try_from(count + sections.len())
        .map_err(|_| UkiError::NoRoom { room, needed: sections.len() })?;
    put(&mut image, nt_offset + 6, &count.to_le_bytes());
    Ok(image)
}

fn section_header(
    name: &str,
    address: u64,
    pointer: u64,
    bytes: &[u8],
    file_alignment: u64,
) -> Result<[u8; SECTION_HEADER_BYTES], UkiError> {
    assert!(name.len() <= 8);
    let size = bytes.len() as u64;
    let fields = [size, address, round_up(size, file_alignment)? as u64, pointer];
    let mut header = [0; SECTION_HEADER_BYTES];
    put(&mut header, 0, name.as_bytes());
    for (place, field) in fields.into_iter().enumerate() {
        put(&mut header, 8 + 4 * place, &number(field)?.to_le_bytes());
    }
    put(&mut header, 36, &CHARACTERISTICS.to_le_bytes());
    Ok(header)
}

/// The sections of an EFI program: name, and what it holds.
///
/// # Errors
/// It is none.
pub fn sections(image: &[u8]) -> Result<Vec<(String, &[u8])>, UkiError> {
    let file = PeFile64::parse(image)?;
    let mut found = Vec::new();
    for section in file.section_table().iter() {
        let name = String::from_utf8_lossy(section.raw_name()).into_owned();
        let bytes = section.pe_data(image)?;
        let used = bytes.len().min(section.virtual_size.get(LE) as usize);
        found.push((name, &bytes[..used]));
    }
    Ok(found)
}

/// The version that a stub of systemd names, as `systemd-stub 252.39-1~deb12u2`.
pub fn stub_version(stub: &[u8]) -> Option<String> {
    const START: &[u8] = b"#### LoaderInfo: ";
    let start = stub.windows(START.len()).position(|window| window == START)? + START.len();
    let text = stub[start..].split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).trim_end_matches([' ', '#']).to_owned())
}

fn put(bytes: &mut [u8], place: usize, value: &[u8]) {
    bytes[place..place + value.len()].copy_from_slice(value);
}

fn number(value: u64) -> Result<u32, UkiError> {
    u32::try_from(value).map_err(|_| UkiError::TooLarge(value))
}

fn round_up(value: u64, alignment: u64) -> Result<usize, UkiError> {
    let rounded = value.next_multiple_of(alignment.max(1));
    if rounded > UKI_BYTES_MAX { Err(UkiError::TooLarge(rounded)) } else { Ok(number(rounded)? as usize) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The smallest stub: headers with room for some sections, and one section `.text`.
    pub(in crate::image) fn stub(room: usize) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[..2].copy_from_slice(b"MZ");
        put(&mut bytes, 0x3c, &0x40_u32.to_le_bytes());
        put(&mut bytes, 0x40, b"PE\0\0");
        put(&mut bytes, 0x44, &0x8664_u16.to_le_bytes());
        put(&mut bytes, 0x46, &1_u16.to_le_bytes());
        put(&mut bytes, 0x54, &112_u16.to_le_bytes());
        // The optional header of PE32+: magic, alignments, no data directories.
        put(&mut bytes, 0x58, &0x20b_u16.to_le_bytes());
        put(&mut bytes, 0x58 + 32, &[0, 16, 0, 0, 0, 2, 0, 0]);
        let table = 0x58 + 112;
        put(&mut bytes, table, b".text");
        let data = u32::try_from(table + SECTION_HEADER_BYTES * (room + 1)).unwrap();
        for (place, field) in [16, 0x1000, 16, data].into_iter().enumerate() {
            put(&mut bytes, table + 8 + 4 * place, &field.to_le_bytes());
        }
        put(&mut bytes, 0x3a0, b"#### LoaderInfo: systemd-stub 252 ####\0");
        bytes
    }

    #[test]
    fn image_has_the_sections_of_the_stub_and_those_appended() {
        let kernel = vec![7; 10_000];
        let wanted = [(".cmdline", &b"console=ttyS0"[..]), (".linux", &kernel), (".initrd", b"x")];
        let image = assemble(&stub(5), &wanted).unwrap();
        let found = sections(&image).unwrap();
        assert_eq!(found[0].0.trim_end_matches('\0'), ".text");
        for ((name, bytes), (found_name, found_bytes)) in wanted.iter().zip(&found[1..]) {
            assert_eq!((*name, *bytes), (found_name.trim_end_matches('\0'), *found_bytes));
        }
        let file = PeFile64::parse(&*image).unwrap();
        assert_eq!(file.nt_headers().optional_header().size_of_image.get(LE) % 4096, 0);
        let addresses: Vec<u32> =
            file.section_table().iter().map(|section| section.virtual_address.get(LE)).collect();
        assert_eq!(addresses, [0x1000, 0x2000, 0x3000, 0x6000]);
    }

    #[test]
    fn stub_without_room_or_for_another_machine_is_refused() {
        let error = assemble(&stub(1), &[(".linux", b"x"), (".initrd", b"y")]).unwrap_err();
        assert_eq!(error.to_string(), "the header of the stub has room for 1 more sections, 2 are needed");
        let mut arm = stub(1);
        put(&mut arm, 0x44, &0xaa64_u16.to_le_bytes());
        let error = assemble(&arm, &[]).unwrap_err();
        assert_eq!(error.to_string(), "the stub is for PE machine 0xaa64; the appliance is for x86_64 only");
        let half = &stub(5)[..0x1b0];
        let error = assemble(half, &[]).unwrap_err().to_string();
        assert!(error.starts_with("the stub has 432 bytes, by its own header at least "), "{error}");
        let error = assemble(b"MZ", &[]).unwrap_err();
        assert_eq!(error.to_string(), "the stub is no EFI program of 64 bits, or a damaged one");
    }

    /// Found by reading: a stub with .bss had room for nothing.
    #[test]
    fn section_without_data_takes_no_room_from_the_header() {
        let mut with_bss = stub(3);
        put(&mut with_bss, 0x46, &2_u16.to_le_bytes());
        let bss = 0x58 + 112 + SECTION_HEADER_BYTES;
        put(&mut with_bss, bss, b".bss");
        for (place, field) in [0x800_u32, 0x2000, 0, 0].into_iter().enumerate() {
            put(&mut with_bss, bss + 8 + 4 * place, &field.to_le_bytes());
        }
        let image = assemble(&with_bss, &[(".linux", b"x"), (".initrd", b"y")]).unwrap();
        let file = PeFile64::parse(&*image).unwrap();
        let addresses: Vec<u32> =
            file.section_table().iter().map(|section| section.virtual_address.get(LE)).collect();
        assert_eq!(addresses, [0x1000, 0x2000, 0x3000, 0x4000]);
        let error = assemble(&with_bss, &[(".a", b""), (".b", b""), (".c", b"")]).unwrap_err();
        assert_eq!(error.to_string(), "the header of the stub has room for 2 more sections, 3 are needed");
    }

    #[test]
    fn version_of_the_stub_is_read() {
        assert_eq!(stub_version(&stub(1)).as_deref(), Some("systemd-stub 252"));
        assert_eq!(stub_version(b"no"), None);
    }
}
