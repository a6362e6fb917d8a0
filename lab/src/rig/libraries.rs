//! Finds the libraries that a program wants, as its loader would (ld.so(8)), without running anything.
//!
//! Libraries for particular processors are left aside: the guest's may be another one.

use std::path::{Path, PathBuf};

use crate::image::elf::Linkage;

/// The loader's own list of libraries.
pub(super) const CACHE_FILE: &str = "/etc/ld.so.cache";
/// Where loaders look in the end: those of Debian, of others, and of musl.
const FOLDERS: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// How a list begins (sysdeps/generic/dl-cache.h of glibc; older files have it after another list).
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// Length of what is before the first entry, and of an entry.
const HEAD_BYTES: usize = 48;
const ENTRY_BYTES: usize = 24;
/// A library of glibc for `x86_64` (`FLAG_ELF_LIBC6 | FLAG_X8664_LIB64`).
const X86_64: u32 = 0x0303;

/// Where libraries are.
#[derive(Debug, Default)]
pub(super) struct Libraries {
    /// Names and paths, in the loader's order.
    listed: Vec<(String, PathBuf)>,
}

impl Libraries {
    /// Those of this host.
    pub(super) fn of_host() -> Self {
        // A host without a list, such as one with musl, has its libraries in the usual folders.
        Self { listed: parse(&std::fs::read(CACHE_FILE).unwrap_or_default()) }
    }

    /// The path of a library that a program, or one of its libraries, wants by this name. `of` is where that one is.
    pub(super) fn find(&self, name: &str, of: &Path, linkage: &Linkage) -> Option<PathBuf> {
        if name.contains('/') {
            return Some(PathBuf::from(name)).filter(|path| path.is_file());
        }
        // What is installed behind a link has its libraries beside itself.
        let real = of.canonicalize().unwrap_or_else(|_| of.to_owned());
        let origin = real.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        let own = linkage.folders.iter().map(|folder| {
            PathBuf::from(folder.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin)).join(name)
        });
        let listed =
            self.listed.iter().filter(|(found, _path)| found == name).map(|(_name, path)| path.clone());
        let usual = FOLDERS.iter().map(|folder| Path::new(folder).join(name));
        own.chain(listed).chain(usual).find(|path| path.is_file())
    }
}

/// The entries of a list; none where it is damaged.
fn parse(bytes: &[u8]) -> Vec<(String, PathBuf)> {
    let Some(start) = bytes.windows(MAGIC.len()).position(|window| window == MAGIC) else { return vec![] };
    let list = &bytes[start..];
    let number = |place: usize| {
        let bytes = list.get(place..place + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let text = |place: u32| {
        let bytes = list.get(usize::try_from(place).ok()?..)?;
        Some(String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next()?).into_owned())
    };
    let count = number(MAGIC.len()).map_or(0, |count| count as usize);
    let entry = |place: usize| {
        let (flags, name, path) = (number(place)?, number(place + 4)?, number(place + 8)?);
        let hwcap = [number(place + 16)?, number(place + 20)?];
        if flags != X86_64 || hwcap != [0, 0] {
            return None;
        }
        Some((text(name)?, text(path)?.into()))
    };
    // What is cut off has no more entries than bytes.
    let count = count.min(list.len() / ENTRY_BYTES);
    (0..count).filter_map(|index| entry(HEAD_BYTES + index * ENTRY_BYTES)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list as glibc writes it, of flags, hwcap, name and path.
    fn list(entries: &[(u32, u64, &str, &str)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
        bytes.resize(HEAD_BYTES, 0);
        let mut strings = Vec::new();
        let first = HEAD_BYTES + entries.len() * ENTRY_BYTES;
        for (flags, hwcap, name, path) in entries {
            let mut place = |text: &str| {
                let place = u32::try_from(first + strings.len()).unwrap();
                strings.extend(text.as_bytes());
                strings.push(0);
                place.to_le_bytes()
            };
            bytes.extend(flags.to_le_bytes());
            bytes.extend(place(name));
            bytes.extend(place(path));
            bytes.extend(0_u32.to_le_bytes());
            bytes.extend(hwcap.to_le_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn list_of_the_loader_is_read_without_those_for_other_processors() {
        let entries = [
            (X86_64, 1 << 62, "liba.so.1", "/v3/liba.so.1"),
            (0x0803, 0, "liba.so.1", "/x32/liba.so.1"),
            (X86_64, 0, "liba.so.1", "/lib/liba.so.1"),
        ];
        let bytes = list(&entries);
        let want = vec![("liba.so.1".to_owned(), PathBuf::from("/lib/liba.so.1"))];
        assert_eq!(parse(&bytes), want);
        assert_eq!(parse(&[b"ld.so-1.7.0 and more".as_slice(), &bytes].concat()), want);
        assert_eq!(parse(b"no list"), []);
        for cut in 0..bytes.len() {
            // Nothing but an end before the end.
            assert!(parse(&bytes[..cut]).len() <= 1);
        }
    }

    #[test]
    fn library_is_looked_for_where_the_program_says_before_where_the_host_says() {
        let home = tempfile::tempdir().unwrap();
        let place = |path: &str| {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let (own, listed, program) =
            (place("app/lib/liba.so"), place("lib/liba.so"), place("app/bin/program"));
        let libraries = Libraries { listed: vec![("liba.so".to_owned(), listed.clone())] };
        let linkage = |folders: &[&str]| Linkage {
            folders: folders.iter().map(|folder| (*folder).to_owned()).collect(),
            ..Linkage::default()
        };
        let find = |folders: &[&str]| libraries.find("liba.so", &program, &linkage(folders));
        let found = find(&["$ORIGIN/../lib"]).unwrap();
        assert_eq!(found.canonicalize().unwrap(), own.canonicalize().unwrap());
        assert_eq!(find(&["/nowhere"]), Some(listed.clone()));
        assert_eq!(libraries.find("libnone.so", &program, &linkage(&[])), None);
        let path = listed.to_str().unwrap();
        assert_eq!(libraries.find(path, &program, &linkage(&[])), Some(listed.clone()));
    }
}
