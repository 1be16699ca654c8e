//! What is opened again: changed plans, damage, ledgers of another input.

use super::*;

#[test]
fn a_changed_plan_is_refused_with_what_changed() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &plan("m", Existing::Resume), &shards(ROWS, 3));
    let mut other = plan("m", Existing::Resume);
    other.vector_space = "ff".to_owned();
    other.formats = vec![Format::Npy];
    other.provenance.insert("pooling".to_owned(), "cls".into());
    let error = open(root.path(), &other).err().unwrap().to_string();
    let expected = "was written with other settings: vector_space is 0a1b, not ff; \
        formats is jsonl,parquet,arrow,npy, not npy; pooling is \"mean\", not \"cls\" \
        (pass --overwrite to replace it, or choose another --output-dir)";
    assert!(error.ends_with(expected), "{error}");

    // Another model whose directory has the same name.
    let namesake = Plan { model: "org/m".to_owned(), ..plan("m", Existing::Resume) };
    assert!(matches!(open(root.path(), &namesake), Err(OpenError::Mismatch { .. })));
    let refused = open(root.path(), &plan("m", Existing::Refuse));
    assert!(matches!(refused, Err(OpenError::Exists { .. })));

    // Nothing was touched by any of it; and overwriting removes what is ours alone.
    assert!(open(root.path(), &plan("m", Existing::Resume)).unwrap().complete);
    fs::write(root.path().join("Docling/m/notes.txt"), "mine").unwrap();
    other.existing = Existing::Overwrite;
    let opened = open(root.path(), &other).unwrap();
    assert_eq!((opened.committed.rows(), opened.complete), (0, false));
    let left: Vec<_> = fs::read_dir(root.path().join("Docling/m")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"]);
}

#[test]
fn a_manifest_that_is_none_is_refused_until_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("Docling/m/manifest.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for (content, expected) in [("{", "is not a manifest"), (r#"{"schema_version": 99}"#, "has schema_version 99")] {
        fs::write(&path, content).unwrap();
        let error = open(root.path(), &plan("m", Existing::Resume)).err().unwrap().to_string();
        assert!(error.contains(expected) && error.contains("--overwrite"), "{error}");
    }
    assert!(open(root.path(), &plan("m", Existing::Overwrite)).is_ok());
}

/// Damages one file of a complete output; it is found, the shards from `shard` on are redone, and all is as before.
#[track_caller]
fn check_damage(name: &str, damage: impl Fn(&Path), shard: u32, fault: Fault) {
    let root = tempfile::tempdir().unwrap();
    let shards = shards(ROWS, 3);
    let manifest = write(root.path(), &plan("m", Existing::Resume), &shards);
    let path = root.path().join("Docling/m").join(name);
    let before = fs::read(&path).unwrap();
    damage(&path);
    let opened = open(root.path(), &plan("m", Existing::Resume)).unwrap();
    let redone = 3 - shard;
    assert_eq!(opened.damage, Some(Damage { path: path.clone(), fault, shard, redone }));
    assert_eq!((opened.committed.shards.len(), opened.complete), (shard as usize, false));
    drop(opened);
    assert_eq!(write(root.path(), &plan("m", Existing::Resume), &shards), manifest);
    assert!(fs::read(&path).unwrap() == before);
    assert_eq!(open(root.path(), &plan("m", Existing::Resume)).unwrap().damage, None);
}

#[test]
fn a_damaged_shard_and_the_later_ones_are_redone() {
    check_damage("part-00001.npy", |path| fs::remove_file(path).unwrap(), 1, Fault::Missing);
    let committed = file_bytes("part-00002.jsonl");
    check_damage("part-00002.jsonl", |path| fs::write(path, "x").unwrap(), 2, Fault::Length { found: 1, committed });
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[50] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    check_damage("part-00000.arrow", flip, 0, Fault::Content);
}

fn file_bytes(name: &str) -> u64 {
    let root = tempfile::tempdir().unwrap();
    let manifest = write(root.path(), &plan("m", Existing::Resume), &shards(ROWS, 3));
    manifest.shards.iter().flat_map(|shard| &shard.files).find(|file| file.name == name).unwrap().bytes
}

#[test]
fn a_damaged_pending_ledger_is_redone_with_its_shards() {
    let root = tempfile::tempdir().unwrap();
    let shards = shards(ROWS, 3);
    let mut writer = open(root.path(), &plan("m", Existing::Resume)).unwrap().writer;
    for shard in &shards[..2] {
        writer.commit(shard).unwrap();
    }
    let pending = root.path().join("Docling/chunks.m.jsonl.partial");
    let mut rows = fs::read(&pending).unwrap();
    let last = rows.len() - 5;
    rows[last] ^= 1;
    fs::write(&pending, rows).unwrap();
    let damage = open(root.path(), &plan("m", Existing::Resume)).unwrap().damage.unwrap();
    assert_eq!(damage, Damage { path: pending.clone(), fault: Fault::Content, shard: 1, redone: 1 });
    assert_eq!(
        damage.to_string(),
        format!("{} has other content than was committed; 1 shards from number 1 on are redone", pending.display())
    );
    write(root.path(), &plan("m", Existing::Resume), &shards);
    assert!(!pending.exists());
}

#[test]
fn a_lost_ledger_is_an_error_and_not_a_silent_repetition_of_all_work() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &plan("m", Existing::Resume), &shards(ROWS, 3));
    let ledger = root.path().join("Docling/chunks.jsonl");
    fs::write(&ledger, "{}\n").unwrap();
    let error = open(root.path(), &plan("m", Existing::Resume)).err().unwrap();
    assert!(matches!(error, OpenError::LedgerLost { .. }), "{error}");
}

/// Rows whose ids and texts are the same, and whose metadata is not.
fn with_other_metadata(mut shards: Vec<Shard>, row: usize) -> Vec<Shard> {
    shards[row / 3].records[row % 3].metadata = None;
    shards
}

#[test]
fn a_second_model_is_refused_as_soon_as_its_input_is_not_that_of_the_ledger() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &plan("first", Existing::Resume), &shards(ROWS, 3));
    let other = with_other_metadata(shards(ROWS, 3), 4);
    let mut writer = open(root.path(), &plan("second", Existing::Resume)).unwrap().writer;
    writer.commit(&other[0]).unwrap();
    let error = writer.commit(&other[1]).unwrap_err();
    assert!(matches!(error, CommitError::InputDiffers { row: 6, .. }), "{error}");
    assert_eq!(writer.manifest().shards.len(), 1);

    // Shorter than the ledger: known at the end.
    let error = writer.finish(totals(3)).unwrap_err();
    assert!(matches!(error, CommitError::InputDiffers { row: 3, .. }), "{error}");
}

#[test]
fn overwriting_replaces_the_ledger_of_another_input_and_the_other_model_notices() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &plan("first", Existing::Resume), &shards(ROWS, 3));
    write(root.path(), &plan("second", Existing::Overwrite), &with_other_metadata(shards(ROWS, 3), 4));
    let ledger: ChunksManifest =
        serde_json::from_slice(&fs::read(root.path().join("Docling/chunks.manifest.json")).unwrap()).unwrap();
    assert_eq!(ledger.model, "second");
    let error = open(root.path(), &plan("first", Existing::Resume)).err().unwrap();
    assert!(matches!(error, OpenError::InputDiffers { .. }), "{error}");

    // The same input overwritten by a third model leaves the ledger alone.
    write(root.path(), &plan("third", Existing::Overwrite), &with_other_metadata(shards(ROWS, 3), 4));
    let after = fs::read(root.path().join("Docling/chunks.manifest.json")).unwrap();
    assert_eq!(serde_json::from_slice::<ChunksManifest>(&after).unwrap(), ledger);
}

#[test]
fn a_derived_output_counts_on_a_ledger_and_never_writes_one() {
    let root = tempfile::tempdir().unwrap();
    for existing in [Existing::Resume, Existing::Overwrite] {
        let error = CollectionWriter::open_derived(root.path(), &collection(), &plan("fused", existing)).err().unwrap();
        assert!(matches!(error, OpenError::LedgerLost { .. }), "{error}");
    }
    write(root.path(), &plan("first", Existing::Resume), &shards(ROWS, 3));
    let plan = plan("fused", Existing::Overwrite);
    let mut writer = CollectionWriter::open_derived(root.path(), &collection(), &plan).unwrap().writer;
    for shard in &shards(ROWS, 3) {
        let committed = writer.commit(shard).unwrap();
        assert_eq!(committed.chunks, None);
    }
    assert_eq!(fs::read_dir(root.path().join("Docling")).unwrap().count(), 4, "a ledger, its manifest, two outputs");
    assert!(writer.finish(totals(ROWS)).unwrap().complete);
}

#[track_caller]
fn check_input(rows: &[Shard], expected: &Result<(), InputChanged>) {
    let root = tempfile::tempdir().unwrap();
    let mut writer = open(root.path(), &plan("m", Existing::Resume)).unwrap().writer;
    for shard in &shards(ROWS, 3)[..2] {
        writer.commit(shard).unwrap();
    }
    let committed = open(root.path(), &plan("m", Existing::Resume)).unwrap().committed;
    assert_eq!(committed.rows(), 6);
    let mut check = committed.check();
    let mut rows = rows.iter().flat_map(|shard| &shard.records);
    let found = rows.try_for_each(|record| check.push(&InputRow::from(record)).map(drop)).and_then(|()| check.finish());
    assert_eq!(found, *expected);
}

#[test]
fn skipped_rows_are_held_against_what_was_embedded() {
    let rows = || shards(ROWS, 3);
    check_input(&rows(), &Ok(()));
    check_input(&rows()[..1], &Err(InputChanged::Shorter { found: 3, committed: 6 }));
    check_input(&with_other_metadata(rows(), 5), &Err(InputChanged::Metadata { shard: 1, rows: 3..6 }));
    check_input(&with_other_metadata(rows(), 6), &Ok(()));
    let mut swapped = rows();
    swapped[0].records.swap(0, 1);
    check_input(&swapped, &Err(InputChanged::Texts { shard: 0, rows: 0..3 }));
    let mut changed = rows();
    changed[1].records[1].text_sha256 = None;
    check_input(&changed, &Err(InputChanged::Texts { shard: 1, rows: 3..6 }));
}
