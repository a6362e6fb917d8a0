//! What a program was linked with besides its crates, as its own bytes tell it: Rust's standard library, the C library.

/// Versions, where the program names them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// Rust's, such as `1.95.0 (59807616e 2026-04-14)`: the compiler brings its standard library.
    pub rust: Option<String>,
    /// glibc's, such as `2.36 (Debian GLIBC 2.36-9+deb12u14)`.
    pub glibc: Option<String>,
}

impl Toolchain {
    /// Reads it from a program with everything that only debuggers read.
    pub fn of(program: &[u8]) -> Self {
        let is_digit = |character: char| character.is_ascii_digit();
        Self {
            // In the section .comment, which every linker keeps.
            rust: behind(program, b"rustc version ", b'\0').find(|version| version.starts_with(is_digit)),
            // What libc.so prints when it is started as a program, and libc.a keeps.
            glibc: behind(program, b"GNU C Library (", b'\n').find_map(|line| {
                let (packager, version) = line.split_once(") stable release version ")?;
                Some(format!("{} ({packager})", version.trim_end_matches('.')))
            }),
        }
    }
}

/// The texts behind a mark, each up to the byte that ends it, if that comes soon.
fn behind<'a>(bytes: &'a [u8], mark: &'a [u8], end: u8) -> impl Iterator<Item = String> + 'a {
    const BYTES_MAX: usize = 200;
    let places = bytes.windows(mark.len()).enumerate().filter(move |(_, window)| *window == mark);
    places.filter_map(move |(place, _)| {
        let rest = &bytes[place + mark.len()..];
        let length = rest.iter().take(BYTES_MAX).position(u8::is_ascii_control)?;
        String::from_utf8(rest[..length].to_vec()).ok().filter(|_| rest[length] == end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_that_the_program_names() {
        let program = b"\x7fELF\0GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\n\0\
            GCC: (Debian 12.2.0) 12.2.0\0rustc version 1.95.0 (59807616e 2026-04-14)\0";
        let found = Toolchain::of(program);
        assert_eq!(found.rust.as_deref(), Some("1.95.0 (59807616e 2026-04-14)"));
        assert_eq!(found.glibc.as_deref(), Some("2.36 (Debian GLIBC 2.36-9)"));
        let others = b"rustc version {}\0GNU C Library (%s) %s\n\0GNU C Library (";
        assert_eq!(Toolchain::of(others), Toolchain::default());
        assert_eq!(Toolchain::of(&[others, program.as_slice()].concat()), found);
    }

    #[test]
    fn own_program_names_its_compiler() {
        let own = Toolchain::of(&std::fs::read("/proc/self/exe").unwrap());
        assert!(own.rust.is_some());
    }
}
