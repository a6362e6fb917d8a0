//! `lab image …`: what was typed becomes an image, a kernel, a signature, or a text.

use std::io::{self, Write};
use std::path::PathBuf;

use super::assemble::{self, AssembleError, Extent, Materials, Sources};
use super::inspect::{self, InspectError};
use super::kernel::build::{self, BuildError, KernelRequest};
use super::sign::{self, SignError};
use super::workshop::{Workshop, WorkshopError};
use crate::cli::{Flavour, ImageBuildArgs, ImageCommand, ImageKernelArgs};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The image.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The kernel.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The signature.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Looking at it.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The workshop.
    #[error(transparent)]
    Workshop(#[from] WorkshopError),
    /// The terminal.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

/// Carries out a command. What it found goes to `out`, what goes on to `progress`.
///
/// # Errors
/// [`CommandError`].
pub fn run(
    command: &ImageCommand,
    out: &mut impl Write,
    progress: &mut impl Write,
) -> Result<(), CommandError> {
    // A closed terminal does not end a build.
    let mut tell = |text: &str| drop(writeln!(progress, "lab: {text}"));
    match command {
        ImageCommand::Build(args) => {
            let mut workshop = Workshop::of_user(&mut tell)?;
            let text = build_image(args, &mut workshop)?;
            out.write_all(text.as_bytes())?;
        }
        ImageCommand::Kernel(args) => {
            let mut workshop = Workshop::of_user(&mut tell)?;
            writeln!(out, "{}", build_kernel(args, &mut workshop)?)?;
        }
        ImageCommand::Sign { folder, key } => {
            let path = sign::sign(folder, key)?;
            writeln!(out, "signed: {}", path.display())?;
        }
        ImageCommand::Verify { folder, key } => {
            let manifest = sign::verify(folder, key)?;
            let count = manifest.outputs.len();
            writeln!(
                out,
                "{} {}: signed by this key, and all {count} files are whole",
                manifest.name, manifest.version
            )?;
        }
        ImageCommand::Inspect { folder } => out.write_all(inspect::inspect(folder)?.as_bytes())?,
    }
    Ok(())
}

fn build_image(args: &ImageBuildArgs, workshop: &mut Workshop<'_>) -> Result<String, CommandError> {
    let sources = Sources {
        kernel: args.kernel.clone(),
        init: args.init.clone(),
        node: args.node.clone(),
        stub: args.stub.clone(),
    };
    // Before minutes are spent on what has no place to go.
    if std::fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(AssembleError::NotEmpty(args.out.clone()).into());
    }
    let materials = Materials::gather(&sources, workshop)?;
    let extent = if args.boot_only { Extent::Boot } else { Extent::All };
    let manifest = assemble::assemble(&args.out, &sources, &materials, extent, workshop)?;
    let out: PathBuf = args.out.clone();
    let sizes = inspect::sizes(&out, &manifest)?;
    let kernel = &manifest.kernel.release;
    Ok(format!("{} {} with Linux {kernel} in {}\n{sizes}", manifest.name, manifest.version, out.display()))
}

fn build_kernel(args: &ImageKernelArgs, workshop: &mut Workshop<'_>) -> Result<String, CommandError> {
    if let Some(config) = &args.check {
        let options_count = build::check_configuration(config, args.flavour == Flavour::Lab)?;
        return Ok(format!("{} has all {options_count} wanted options", config.display()));
    }
    let request = KernelRequest {
        source: args.source.clone(),
        out: args.out.clone(),
        is_for_lab: args.flavour == Flavour::Lab,
        only_configure: args.config_only,
    };
    build::build(&request, workshop)?;
    Ok(args.out.display().to_string())
}
