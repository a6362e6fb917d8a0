use std::collections::BTreeSet;
use std::ffi::OsStr;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn random(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A volume with one durable file of four sectors, all `a`.
fn one_file() -> (Volume, Inode) {
    let mut volume = Volume::default();
    let file = volume.create(ROOT, name("file"), 0o600).unwrap();
    volume.write(file, 0, &[b'a'; 2048]).unwrap();
    volume.sync(file).unwrap();
    volume.sync(ROOT).unwrap();
    (volume, file)
}

fn text(volume: &Volume, file: Inode) -> String {
    String::from_utf8_lossy(volume.read(file, 0, u32::MAX).unwrap()).into_owned()
}

#[test]
fn what_was_synced_stays_and_the_rest_goes_or_stays_as_was_drawn() {
    for (loss, want) in [(Loss::All, 'a'), (Loss::Nothing, 'b')] {
        let (mut volume, file) = one_file();
        volume.write(file, 0, &[b'b'; 2048]).unwrap();
        let lost = volume.cut(loss, &mut random(1));
        assert_eq!(text(&volume, file), want.to_string().repeat(2048));
        assert_eq!(lost.sectors, if loss == Loss::All { 4 } else { 0 });
    }
}

#[test]
fn sectors_are_lost_each_by_itself_and_never_in_part() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let (mut volume, file) = one_file();
        for byte in [b'b', b'c'] {
            volume.write(file, 100, &[byte; 1000]).unwrap();
        }
        volume.cut(Loss::Some(50), &mut random(seed));
        let text = text(&volume, file);
        // 100 to 1100 lies in three sectors; each has what it had at one time.
        let mut parts = Vec::new();
        for (start, end) in [(100, 512), (512, 1024), (1024, 1100)] {
            let part: BTreeSet<char> = text[start..end].chars().collect();
            assert_eq!(part.len(), 1, "a sector is torn: {part:?}");
            parts.extend(part);
        }
        assert!(text[..100].chars().chain(text[1100..].chars()).all(|byte| byte == 'a'));
        seen.insert(parts);
    }
    assert!(seen.len() > 15, "{seen:?}");
}

#[test]
fn lengths_are_lost_like_sectors() {
    let mut lens = BTreeSet::new();
    for seed in 0..100 {
        let (mut volume, file) = one_file();
        volume.set_len(file, 100).unwrap();
        volume.write(file, 100, &[b'b'; 900]).unwrap();
        volume.cut(Loss::Some(50), &mut random(seed));
        let text = text(&volume, file);
        assert!(text.bytes().all(|byte| matches!(byte, 0 | b'a' | b'b')), "{text:?}");
        lens.insert(text.len());
    }
    assert_eq!(lens, [100, 1000, 2048].into());
    let (mut volume, file) = one_file();
    volume.set_len(file, 0).unwrap();
    volume.cut(Loss::All, &mut random(1));
    assert_eq!(text(&volume, file), "a".repeat(2048), "what was cut off is back");
}

#[test]
fn cut_says_what_the_disk_was_asked_since_its_power_came() {
    let (mut volume, file) = one_file();
    volume.cut(Loss::All, &mut random(1));
    volume.write(file, 0, b"b").unwrap();
    volume.write(file, 1, b"b").unwrap();
    volume.sync(file).unwrap();
    assert_eq!(volume.cut(Loss::All, &mut random(1)).asked, Asked { writes: 2, syncs: 1 });
    assert_eq!(volume.cut(Loss::All, &mut random(1)).asked, Asked::default());
}

#[test]
fn names_come_about_in_their_order_and_for_good_with_their_folder() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let (mut volume, file) = one_file();
        let folder = volume.create_folder(ROOT, name("folder"), 0o700).unwrap();
        volume.rename((ROOT, name("file")), (folder, name("moved"))).unwrap();
        volume.create(ROOT, name("later"), 0o600).unwrap();
        volume.cut(Loss::Some(50), &mut random(seed));
        let root: Vec<_> =
            volume.list(ROOT).unwrap().into_iter().map(|(name, _)| name.into_string().unwrap()).collect();
        if root.contains(&"later".to_owned()) {
            assert_eq!(
                volume.lookup(folder, name("moved")),
                Ok(file),
                "a later change is there, an earlier is not"
            );
        }
        assert_eq!(text(&volume, file), "a".repeat(2048), "a file that is moved is never lost");
        seen.insert(root);
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    let (mut volume, _) = one_file();
    volume.create(ROOT, name("new"), 0o600).unwrap();
    volume.remove(ROOT, name("file")).unwrap();
    volume.sync(ROOT).unwrap();
    volume.cut(Loss::All, &mut random(1));
    let root = volume.list(ROOT).unwrap();
    assert_eq!(root.len(), 1);
    assert_eq!(root[0].0, "new");
}

#[test]
fn what_is_open_stays_without_a_name_and_goes_with_the_power() {
    let (mut volume, file) = one_file();
    volume.open(file).unwrap();
    volume.remove(ROOT, name("file")).unwrap();
    volume.sync(ROOT).unwrap();
    assert_eq!(text(&volume, file), "a".repeat(2048));
    volume.cut(Loss::Nothing, &mut random(1));
    assert_eq!(volume.attributes(file), Err(VolumeError::NotFound));
}

#[test]
fn a_folder_that_is_not_empty_is_neither_removed_nor_replaced() {
    let (mut volume, _) = one_file();
    let folder = volume.create_folder(ROOT, name("folder"), 0o700).unwrap();
    volume.create(folder, name("inside"), 0o600).unwrap();
    assert_eq!(volume.remove(ROOT, name("folder")), Err(VolumeError::NotEmpty));
    assert_eq!(volume.rename((ROOT, name("file")), (ROOT, name("folder"))), Err(VolumeError::NotEmpty));
    assert_eq!(volume.create(ROOT, name("file"), 0o600), Err(VolumeError::Exists));
    assert_eq!(volume.list(volume.lookup(ROOT, name("file")).unwrap()), Err(VolumeError::NotAFolder));
}

#[test]
fn what_a_failed_sync_was_to_keep_is_seen_until_the_power_is_cut_and_the_next_sync_says_nothing() {
    for loss in [Loss::All, Loss::Nothing] {
        let (mut volume, file) = one_file();
        volume.write(file, 512, &[b'b'; 2048]).unwrap();
        volume.fail_next_sync(file);
        assert_eq!(volume.sync(file), Err(VolumeError::Failed));
        assert_eq!(volume.sync(file), Ok(()));
        assert_eq!(text(&volume, file), "a".repeat(512) + &"b".repeat(2048));
        volume.cut(loss, &mut random(1));
        assert_eq!(text(&volume, file), "a".repeat(2048), "{loss:?}");
    }
}

#[test]
fn what_is_written_once_more_after_a_failed_sync_is_kept_and_nothing_else() {
    let (mut volume, file) = one_file();
    volume.write(file, 0, &[b'b'; 2560]).unwrap();
    volume.fail_syncs(true);
    assert_eq!(volume.sync(file), Err(VolumeError::Failed));
    volume.write(file, 600, b"c").unwrap();
    assert_eq!(volume.sync(file), Err(VolumeError::Failed));
    volume.fail_syncs(false);
    // A sector each: one that the disk had, and one past its end.
    volume.write(file, 1024, b"d").unwrap();
    volume.write(file, 2048, b"e").unwrap();
    volume.sync(file).unwrap();
    volume.cut(Loss::All, &mut random(1));
    let (old, new) = ("a".repeat(1024), "b".repeat(511));
    assert_eq!(text(&volume, file), format!("{old}d{new}{}e{new}", "a".repeat(512)));
}

#[test]
fn a_length_that_a_failed_sync_has_lost_comes_back_unless_another_is_kept() {
    let cut_off = || {
        let (mut volume, file) = one_file();
        volume.set_len(file, 0).unwrap();
        volume.fail_next_sync(file);
        assert_eq!(volume.sync(file), Err(VolumeError::Failed));
        assert_eq!(volume.attributes(file).unwrap().bytes, 0);
        (volume, file)
    };
    let (mut volume, file) = cut_off();
    volume.cut(Loss::All, &mut random(1));
    assert_eq!(text(&volume, file), "a".repeat(2048));
    let (mut volume, file) = cut_off();
    volume.write(file, 0, b"new").unwrap();
    volume.sync(file).unwrap();
    volume.set_len(file, 2048).unwrap();
    volume.sync(file).unwrap();
    volume.cut(Loss::All, &mut random(1));
    assert_eq!(text(&volume, file), format!("new{}", "\0".repeat(2045)));
    // What was cut off is so with the next sync.
    let (mut volume, file) = one_file();
    volume.set_len(file, 512).unwrap();
    volume.fail_next_sync(file);
    volume.sync(file).unwrap_err();
    volume.write(file, 0, &[b'b'; 512]).unwrap();
    volume.sync(file).unwrap();
    volume.cut(Loss::All, &mut random(1));
    assert_eq!(text(&volume, file), "b".repeat(512));
}

#[test]
fn of_what_a_failed_sync_was_to_keep_a_part_may_be_on_the_disk() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let (mut volume, file) = one_file();
        volume.write(file, 0, &[b'b'; 1024]).unwrap();
        volume.fail_next_sync(file);
        volume.sync(file).unwrap_err();
        volume.cut(Loss::Some(50), &mut random(seed));
        seen.insert(text(&volume, file));
    }
    assert_eq!(seen.len(), 4, "two sectors, each old or new");
}

#[test]
fn a_sync_that_finds_no_room_fails_and_loses_what_the_write_was_told_to_be_taken() {
    let (mut volume, file) = one_file();
    volume.set_synced_capacity(volume.used_synced() + 512);
    volume.write(file, 2048, &[b'b'; 1024]).unwrap();
    assert_eq!(volume.sync(file), Err(VolumeError::Full));
    assert_eq!(volume.sync(file), Ok(()), "the system has told it once");
    assert_eq!((volume.used(), volume.used_synced()), (3072, 2048));
    // What needs no more room is kept.
    volume.write(file, 0, &[b'c'; 512]).unwrap();
    assert_eq!(volume.sync(file), Ok(()));
    let other = volume.create(ROOT, name("other"), 0o600).unwrap();
    volume.sync(ROOT).unwrap();
    volume.write(other, 0, &[b'd'; 513]).unwrap();
    assert_eq!(volume.sync(other), Err(VolumeError::Full));
    volume.set_len(other, 512).unwrap();
    assert_eq!(volume.sync(other), Ok(()));
    volume.cut(Loss::All, &mut random(1));
    assert_eq!(text(&volume, file), "c".repeat(512) + &"a".repeat(1536));
    assert_eq!(text(&volume, other).len(), 512);
}
