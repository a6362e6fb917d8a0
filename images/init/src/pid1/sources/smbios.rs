//! Strings of SMBIOS type 11, "OEM Strings" (DSP0134 3.7, 7.12), in the table as the kernel shows it.

const OEM_STRINGS: u8 = 11;
const END_OF_TABLE: u8 = 127;

/// Every such string. A table that breaks off ends there.
pub(super) fn oem_strings(table: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = table;
    // A structure: type, length of its formatted part, handle (u16), …; behind it strings, each ended by a zero, and one
    // more zero.
    while let [kind, length, _, _, ..] = *rest {
        let Some(behind) = rest.get(usize::from(length)..) else { break };
        let end = behind.windows(2).position(|pair| pair == [0, 0]);
        if kind == END_OF_TABLE || length < 4 {
            break;
        }
        let Some(end) = end else { break };
        if kind == OEM_STRINGS {
            let texts = behind[..end].split(|byte| *byte == 0).filter(|text| !text.is_empty());
            found.extend(texts.map(|text| String::from_utf8_lossy(text).into_owned()));
        }
        rest = &behind[end + 2..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(table: &[u8], want: &[&str]) {
        assert_eq!(oem_strings(table), want);
    }

    const SYSTEM: &[u8] = b"\x01\x04\0\0QEMU\0aspen.not=this\0\0";

    #[test]
    fn strings_of_type_11_are_found() {
        let oem = b"\x0b\x05\0\0\x02aspen.a=1\0aspen.b=2 3\0\0";
        let end = b"\x7f\x04\0\0\0\0";
        check(&[SYSTEM, oem, end].concat(), &["aspen.a=1", "aspen.b=2 3"]);
        check(
            &[oem.as_slice(), oem, end].concat(),
            &["aspen.a=1", "aspen.b=2 3", "aspen.a=1", "aspen.b=2 3"],
        );
        // What stands behind the end is no structure.
        check(&[SYSTEM, end, oem].concat(), &[]);
    }

    #[test]
    fn broken_table_ends_where_it_breaks() {
        check(b"", &[]);
        check(b"\x0b\x05\0\0\x01aspen.a=1", &[]);
        check(b"\x0b\x00\0\0\0\0", &[]);
        check(b"\x0b\xff\0\0\0\0", &[]);
        check(&[SYSTEM, b"\x0b"].concat(), &[]);
    }
}
