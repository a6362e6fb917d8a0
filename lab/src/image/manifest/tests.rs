use super::*;

/// A folder with the files that every image has and one more, and a manifest that names them.
pub(in crate::image) fn sample() -> (tempfile::TempDir, Manifest) {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("oci")).unwrap();
    for name in ["oci/index.json", files::VMLINUX, files::INITRAMFS, crate::image::sbom::FILE] {
        std::fs::write(home.path().join(name), "{}").unwrap();
    }
    let kernel = KernelFacts {
        release: "6.1.0".to_owned(),
        version_line: "6.1.0 #1".to_owned(),
        pvh: true,
        modules: vec![],
        absent_modules: vec![],
    };
    let outputs = outputs(home.path()).unwrap();
    let manifest = Manifest {
        format: FORMAT,
        name: "aspen-appliance".to_owned(),
        version: "0.1.0".to_owned(),
        architecture: "x86_64".to_owned(),
        source_date_epoch: 315_532_800,
        kernel,
        inputs: vec![],
        outputs,
        parts: vec![],
    };
    manifest.write(home.path()).unwrap();
    (home, manifest)
}

#[track_caller]
fn check_refused(folder: &Path, manifest: &Manifest, want: &str) {
    let error = manifest.check(folder, None).unwrap_err().to_string();
    assert_eq!(error, want.replace("FOLDER", folder.to_str().unwrap()));
}

#[test]
fn manifest_is_read_as_it_was_written_and_its_files_are_checked() {
    let (home, manifest) = sample();
    assert_eq!(Manifest::read(home.path()).unwrap(), manifest);
    manifest.check(home.path(), None).unwrap();
    std::fs::write(home.path().join("more"), "").unwrap();
    check_refused(
        home.path(),
        &manifest,
        "FOLDER/more is in the image's folder, but not in its manifest: remove it",
    );
    std::fs::write(home.path().join("oci/index.json"), "[]").unwrap();
    let want = "FOLDER/oci/index.json is not what the manifest says: its SHA-256 is \
                4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945, not \
                44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    check_refused(home.path(), &manifest, want);
    // Only what is asked for, and that must be named.
    manifest.check(home.path(), Some(&["bzImage"])).unwrap();
    std::fs::write(home.path().join("bzImage"), "").unwrap();
    let error = manifest.check(home.path(), Some(&["bzImage"])).unwrap_err().to_string();
    assert!(
        error.ends_with("/bzImage is in the image's folder, but not in its manifest: remove it"),
        "{error}"
    );
    let mut outside = manifest.clone();
    outside.outputs.insert(0, Output { path: "../secret".to_owned(), ..manifest.outputs[0].clone() });
    check_refused(
        home.path(),
        &outside,
        "the manifest names \"../secret\", which is no path inside the image's folder",
    );
}

/// Found when a manifest of nothing at all was accepted: all its files were whole.
#[test]
fn manifest_without_what_an_image_has_to_have_is_refused() {
    let (home, manifest) = sample();
    let refused = |manifest: &Manifest| {
        manifest.write(home.path()).unwrap();
        let error = Manifest::read(home.path()).unwrap_err().to_string();
        error.replace(home.path().to_str().unwrap(), "FOLDER")
    };
    for file in [files::VMLINUX, files::INITRAMFS, "sbom.spdx.json"] {
        let mut without = manifest.clone();
        without.outputs.retain(|output| output.path != file);
        let want = format!("the manifest of FOLDER names no {file}: build the image again");
        assert_eq!(refused(&without), want);
    }
    let mut with_disk = manifest.clone();
    with_disk.outputs.push(Output { path: files::RAW.to_owned(), ..manifest.outputs[0].clone() });
    assert_eq!(refused(&with_disk), "the manifest of FOLDER names no bzImage: build the image again");
    std::fs::write(home.path().join(FILE), vec![b' '; 4 << 20]).unwrap();
    assert!(matches!(Manifest::read(home.path()), Err(ManifestError::Json { .. })));
    std::fs::write(home.path().join(FILE), vec![b' '; (4 << 20) + 1]).unwrap();
    assert!(matches!(Manifest::read(home.path()), Err(ManifestError::File { .. })));
}

#[test]
fn manifest_of_another_version_or_machine_is_refused() {
    let (home, manifest) = sample();
    let refused = |text: &str| {
        let error = Manifest::parse(text.as_bytes(), home.path()).unwrap_err().to_string();
        error.replace(home.path().to_str().unwrap(), "FOLDER")
    };
    assert_eq!(
        refused("{\"format\":2}"),
        "FOLDER/manifest.json has format 2, 1 is understood: build the image with this lab"
    );
    assert_eq!(refused("{}"), "FOLDER/manifest.json is no manifest of an image");
    let arm = Manifest { architecture: "aarch64".to_owned(), ..manifest };
    let text = serde_json::to_string(&arm).unwrap();
    assert_eq!(refused(&text), "the image in FOLDER is for aarch64; this lab boots x86_64 only");
}
