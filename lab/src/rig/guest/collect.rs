//! What comes out: everything new below the folders that the order names, and nothing that came in.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::super::wire::{Entry, EntryKind, ToHost, Word};
use super::Link;
use super::layers::Layers;
use crate::check::counted;
use crate::limits::rig::CHUNK_BYTES;

/// Sends it; what the user should know of what could not be sent.
pub(super) fn bring_out(out: &[Word], layers: &Layers, link: &Link) -> io::Result<Vec<String>> {
    bring(out, layers, &mut |message| link.send(&message))
}

fn bring(
    out: &[Word],
    layers: &Layers,
    send: &mut dyn FnMut(ToHost) -> io::Result<()>,
) -> io::Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut changed_count = 0_u64;
    for (root, folder) in out.iter().enumerate() {
        let folder = PathBuf::from(folder.clone());
        // What is in a folder comes after it.
        let mut waiting = vec![PathBuf::new()];
        while let Some(path) = waiting.pop() {
            let here = folder.join(&path);
            let Ok(found) = fs::symlink_metadata(layers.above(&here)) else { continue };
            let came_in = fs::symlink_metadata(layers.below(&here)).ok();
            if came_in.is_some_and(|before| !(before.is_dir() && found.is_dir())) {
                // What is removed is a device here (Documentation/filesystems/overlayfs.rst).
                changed_count += u64::from(!is_removal(&found));
                continue;
            }
            if let Err(error) = send_one(root, &path, &layers.above(&here), &found, send) {
                match error {
                    Trouble::Wire(error) => return Err(error),
                    Trouble::Read(error) => notes.push(format!("cannot read {}: {error}", here.display())),
                }
            }
            if found.is_dir() {
                let entries = fs::read_dir(layers.above(&here))?;
                waiting.extend(entries.flatten().map(|entry| path.join(entry.file_name())));
            }
        }
    }
    if changed_count > 0 {
        let files = counted(changed_count, "file");
        notes.push(format!("what the guest has changed of {files} that came in went with it"));
    }
    Ok(notes)
}

/// Why something was not sent.
enum Trouble {
    Wire(io::Error),
    Read(io::Error),
}

fn send_one(
    root: usize,
    path: &Path,
    from: &Path,
    found: &Metadata,
    send: &mut dyn FnMut(ToHost) -> io::Result<()>,
) -> Result<(), Trouble> {
    let kind = if found.is_dir() {
        EntryKind::Folder { mode: found.mode() & 0o777 }
    } else if found.is_file() {
        EntryKind::File { mode: found.mode() & 0o777, bytes: found.len() }
    } else if found.is_symlink() {
        EntryKind::Link { target: fs::read_link(from).map_err(Trouble::Read)?.as_path().into() }
    } else {
        // A socket or a pipe is of no use without its program.
        return Ok(());
    };
    let file = found.is_file().then(|| File::open(from)).transpose().map_err(Trouble::Read)?;
    send(ToHost::Entry(Entry { root, path: path.into(), kind })).map_err(Trouble::Wire)?;
    let Some(file) = file else { return Ok(()) };
    let mut place = 0;
    while let Some((start, end)) = next_data(&file, place).map_err(Trouble::Read)? {
        send_data(&file, start, end, send)?;
        place = end;
    }
    Ok(())
}

/// The next part of a file that is no hole (lseek(2)).
fn next_data(file: &File, from: u64) -> io::Result<Option<(u64, u64)>> {
    let offset = |place: u64| i64::try_from(place).map_err(io::Error::other);
    let start = match lseek(file, offset(from)?, Whence::SeekData) {
        Ok(start) => start,
        // Nothing but a hole to the end.
        Err(Errno::ENXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let end = lseek(file, start, Whence::SeekHole)?;
    Ok(Some((start.cast_unsigned(), end.cast_unsigned())))
}

fn send_data(
    file: &File,
    start: u64,
    end: u64,
    send: &mut dyn FnMut(ToHost) -> io::Result<()>,
) -> Result<(), Trouble> {
    let mut place = start;
    while place < end {
        let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(end - place).unwrap_or(CHUNK_BYTES))];
        let count = file.read_at(&mut chunk, place).map_err(Trouble::Read)?;
        if count == 0 {
            break;
        }
        chunk.truncate(count);
        send(ToHost::Data(place, chunk)).map_err(Trouble::Wire)?;
        place += count as u64;
    }
    Ok(())
}

fn is_removal(found: &Metadata) -> bool {
    found.rdev() == 0 && !found.is_file() && !found.is_dir() && !found.is_symlink()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::super::out::Out;
    use super::*;

    #[test]
    fn what_is_new_comes_out_and_what_came_in_does_not() {
        let home = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = home.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("below/w/scenario.yaml", "came in");
        write("above/w/scenario.yaml", "changed");
        write("above/w/runs/a/report.json", "{}");
        write("above/elsewhere", "stays");
        symlink("a", home.path().join("above/w/runs/last")).unwrap();
        let disk = File::create(home.path().join("above/w/runs/disk.raw")).unwrap();
        disk.write_all_at(b"middle", 1 << 25).unwrap();
        disk.set_len(1 << 26).unwrap();
        let layers = Layers::of(&home.path().join("below"), &home.path().join("above"));
        let to = home.path().join("host");
        fs::create_dir(&to).unwrap();
        let mut out = Out::new(vec![to.clone()]);
        let mut data_bytes = 0;
        let notes = bring(&[Path::new("/w").into()], &layers, &mut |message| {
            match message {
                ToHost::Entry(entry) => out.begin(entry).unwrap(),
                ToHost::Data(place, bytes) => {
                    data_bytes += bytes.len();
                    out.data(place, &bytes).unwrap();
                }
                other => panic!("{other:?}"),
            }
            Ok(())
        });
        assert_eq!(notes.unwrap(), ["what the guest has changed of 1 file that came in went with it"]);
        assert!(out.finish().unwrap().is_empty());
        assert_eq!(fs::read_to_string(to.join("runs/a/report.json")).unwrap(), "{}");
        assert_eq!(fs::read_link(to.join("runs/last")).unwrap(), Path::new("a"));
        assert!(!to.join("scenario.yaml").exists() && !to.join("elsewhere").exists());
        let disk = fs::read(to.join("runs/disk.raw")).unwrap();
        assert_eq!((disk.len(), &disk[1 << 25..][..6]), (1 << 26, b"middle".as_slice()));
        assert!(data_bytes < 1 << 20, "holes are not sent: {data_bytes}");
    }
}
