//! The rows about the appliance's image: everything that its first build needs here, tried out.

use std::fs;
use std::path::Path;

use super::DoctorError;
use super::rows::{Fix, Row, is_x86_64, trials};
use crate::causes::causes;
use crate::image::cache::{IMAGE_VARIABLE, KERNEL_VARIABLE, KEY_VARIABLE};
use crate::image::workshop::{Workshop, WorkshopError, variable};
use crate::image::{self, data, debian, programs};
use crate::limits::image::{RUSTC_TRIAL_MAX, RUSTC_VERSION_MAX};
use crate::program::{Program, ProgramError, ProgramLog};
use crate::rig;

/// What the rows are about.
const PART: &str = "image";

/// The static program of the trial.
const SOURCE: &str = "fn main() { println!(\"static\"); }\n";

/// Why no static program can be made here.
#[derive(Debug, PartialEq, Eq)]
enum Obstacle {
    NoSources,
    NoRust(String),
    NoLinker(String),
    Broken(String),
}

/// What a first build of the image needs.
pub(super) fn rows() -> Result<Vec<Row>, DoctorError> {
    if let Some(row) = is_x86_64(PART, "build") {
        return Ok(vec![row]);
    }
    if let Some(folder) = variable(IMAGE_VARIABLE) {
        return Ok(vec![given(&folder)]);
    }
    if rig::is_inside() {
        // Images are built outside.
        return Ok(vec![]);
    }
    let folder = trials()?;
    let mut tell = |_: &str| {};
    // It lies in a folder that was made just now.
    let workshop = Workshop::open(folder.path(), &mut tell).map_err(DoctorError::Workshop)?;
    Ok(vec![static_programs(folder.path())?, file_system(folder.path(), &workshop), kernel(&workshop)])
}

/// An image that is named is not built.
fn given(folder: &Path) -> Row {
    let opened = image::open(folder, variable(KEY_VARIABLE).as_deref());
    let found = opened.map(|image| format!("{IMAGE_VARIABLE} is one with Linux {}", image.release()));
    Row::new(PART, "given", found.map_err(|error| in_a_line(&error)))
}

/// Rust, a linker, and a libc to link statically.
fn static_programs(folder: &Path) -> Result<Row, DoctorError> {
    let log = ProgramLog::open(Path::new("/dev/null"))?;
    let made =
        programs::sources().ok_or(Obstacle::NoSources).and_then(|sources| compile(&sources, folder, &log));
    Ok(programs_row(made))
}

fn programs_row(made: Result<String, Obstacle>) -> Row {
    let row = |found| Row::new(PART, "programs", found);
    match made {
        Ok(version) => row(Ok(format!("{version} made a static program, and it ran"))),
        Err(Obstacle::NoSources) => {
            row(Err("no sources here: run it in a checkout, or give --init and --node".to_owned()))
        }
        Err(Obstacle::NoRust(why)) => row(Err(format!("no Rust, see https://rustup.rs: {why}"))),
        // libc6-dev has the libc.a, and gcc the rest.
        Err(Obstacle::NoLinker(why)) => row(Err(why)).fix(Fix::Packages("gcc libc6-dev")),
        Err(Obstacle::Broken(why)) => row(Err(why)),
    }
}

/// Makes a static program with the toolchain of the checkout and lets it run; which Rust it was.
fn compile(sources: &Path, folder: &Path, log: &ProgramLog) -> Result<String, Obstacle> {
    // The toolchain is chosen by the folder, and found by the environment.
    let tool = |name: &str| Program::new(name).inherit_environment().in_folder(sources);
    let version = tool("cargo").arg("--version").run_short(RUSTC_VERSION_MAX, log);
    let version = version.map_err(|error| Obstacle::NoRust(in_short(&error)))?;
    let (source, program) = (folder.join("trial.rs"), folder.join("trial"));
    fs::write(&source, SOURCE).map_err(|error| Obstacle::Broken(format!("{}: {error}", source.display())))?;
    let compiled = tool(&variable("RUSTC").unwrap_or_else(|| "rustc".into()).to_string_lossy())
        .args(["--target", programs::TARGET, "-C", "target-feature=+crt-static", "-o"])
        .args([&program, &source])
        .run_short(RUSTC_TRIAL_MAX, log);
    compiled.map_err(|error| of_compiler(&error))?;
    let ran = Program::new(&program).run_short(RUSTC_VERSION_MAX, log);
    match ran {
        Ok(output) if output.stdout == "static\n" => {
            Ok(version.stdout.lines().next().unwrap_or_default().to_owned())
        }
        Ok(output) => Err(Obstacle::Broken(format!("the trial program says {:?}", output.stdout))),
        Err(error) => Err(Obstacle::Broken(in_short(&error))),
    }
}

/// Why rustc has made nothing.
fn of_compiler(error: &ProgramError) -> Obstacle {
    let ProgramError::Failed { stderr, .. } = error else { return Obstacle::NoRust(in_short(error)) };
    let line = |words: &[&str]| {
        stderr
            .lines()
            .find(|line| words.iter().any(|word| line.contains(word)))
            .map(|line| line.trim().to_owned())
    };
    // What the linker misses says more than that it failed.
    let missed = line(&["cannot find -l", "unable to find library", "cannot find crt"]);
    let linker = missed
        .or_else(|| line(&["error: linker ", "lld: error: ", "collect2: error: ", "error: linking with"]));
    match linker {
        Some(why) => Obstacle::NoLinker(why),
        None => Obstacle::Broken(line(&["error"]).unwrap_or_else(|| in_short(error))),
    }
}

/// The empty file system of the data disk.
fn file_system(folder: &Path, workshop: &Workshop<'_>) -> Row {
    let row = |found| Row::new(PART, "file system", found);
    match data::empty_ext4(folder, 0, workshop) {
        Ok(bytes) => row(Ok(format!("mke2fs made an empty ext4 of {} MiB", bytes.len() >> 20))),
        Err(data::DataError::Make(WorkshopError::Program(ProgramError::Start { source, .. }))) => {
            row(Err(format!("mke2fs does not start: {source}"))).fix(Fix::Packages("e2fsprogs"))
        }
        Err(error) => row(Err(in_a_line(&error))),
    }
}

/// The kernel: one that is given, or Debian's, which is fetched and unpacked.
fn kernel(workshop: &Workshop<'_>) -> Row {
    let row = |found| Row::new(PART, "kernel", found);
    if let Some(path) = variable(KERNEL_VARIABLE) {
        let found = fs::metadata(&path).map(|_| format!("{KERNEL_VARIABLE} is {}", path.display()));
        return row(found.map_err(|error| format!("{KERNEL_VARIABLE} is {}: {error}", path.display())));
    }
    let missing: Vec<&str> = ["apt-cache", "apt-get", "dpkg-deb"]
        .into_iter()
        .filter(|name| Program::find(name).is_none())
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(" and ");
        return row(Err(format!(
            "no {missing} to fetch Debian's with: set {KERNEL_VARIABLE} to a kernel, or give --kernel"
        )));
    }
    match debian::newest_kernel("--kernel PATH", workshop) {
        Ok(named) => row(Ok(format!("apt-get fetches {} {}", named.package, named.version))),
        // A fresh machine has no index of packages.
        Err(_) => row(Err(format!("apt-cache does not know {}", debian::KERNEL_PACKAGE))).fix(Fix::Index),
    }
}

/// An error with its causes on one line.
fn in_a_line(error: &dyn std::error::Error) -> String {
    causes(error).replace("\nbecause: ", ": ").replace('\n', " ")
}

/// What a program said itself, if it did.
fn in_short(error: &ProgramError) -> String {
    let said = match error {
        ProgramError::Failed { stderr, .. } => stderr.lines().find(|line| !line.trim().is_empty()),
        _ => None,
    };
    said.map_or_else(|| in_a_line(error), |line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Exit;

    #[track_caller]
    fn check(stderr: &str, want: Obstacle) {
        let (command, exit) = ("rustc".to_owned(), Exit::Code(1));
        assert_eq!(of_compiler(&ProgramError::Failed { command, exit, stderr: stderr.to_owned() }), want);
    }

    #[test]
    fn what_the_linker_misses_is_told_from_what_is_wrong_with_rust() {
        let linker = |why: &str| Obstacle::NoLinker(why.to_owned());
        // As Rust 1.95 and binutils 2.40 say it.
        check(
            "error: linker `cc` not found\n  |\n  = note: No such file or directory (os error 2)\n",
            linker("error: linker `cc` not found"),
        );
        check(
            "error: linking with `cc` failed: exit status: 1\n  = note: rust-lld: error: unable to find library -lc\n          \
             collect2: error: ld returned 1 exit status\n",
            linker("= note: rust-lld: error: unable to find library -lc"),
        );
        check(
            "          /usr/bin/ld: cannot find -lc: No such file or directory\n          collect2: error: ld returned 1\n",
            linker("/usr/bin/ld: cannot find -lc: No such file or directory"),
        );
        check(
            "error[E0463]: can't find crate for `std`\n",
            Obstacle::Broken("error[E0463]: can't find crate for `std`".to_owned()),
        );
    }

    #[test]
    fn rows_that_a_package_mends_name_it_and_others_do_not() {
        let check = |obstacle, fix: Option<Fix>| {
            let row = programs_row(Err(obstacle));
            assert_eq!((row.fix, row.wanting().as_deref()), (fix, Some("image programs")));
        };
        check(Obstacle::NoLinker("no".to_owned()), Some(Fix::Packages("gcc libc6-dev")));
        check(Obstacle::NoRust("no".to_owned()), None);
        check(Obstacle::NoSources, None);
        check(Obstacle::Broken("no".to_owned()), None);
        assert_eq!(programs_row(Ok("cargo 1".to_owned())).wanting(), None);
    }

    #[test]
    fn image_that_is_given_and_not_there_is_told() {
        let row = given(Path::new("/nowhere/image"));
        assert_eq!(row.wanting().as_deref(), Some("image given"));
    }
}
