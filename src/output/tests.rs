//! What an output promises, on the file system and in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fixture::{ALL_KINDS, DIMENSION, plan, record, shard, shards, with_all_kinds, with_kinds};
use super::open::open_in;
use super::storage::memory::Memory;
use super::storage::{Disk, Storage};
use super::*;
use crate::domain::{CollectionName, MultiVectors, RowRecord, RowStatus, Shard, Widths};

const ROWS: u64 = 8;

fn collection() -> CollectionName {
    CollectionName::new("Docling").unwrap()
}

fn totals(rows: u64) -> CollectionTotals {
    CollectionTotals { files: 1, rows, loading_errors: 0 }
}

fn open(root: &Path, plan: &Plan) -> Result<Opened, OpenError> {
    CollectionWriter::open(root, &collection(), plan)
}

fn write_with(storage: Arc<dyn Storage>, root: &Path, plan: &Plan, shards: &[Shard]) -> Manifest {
    let Opened { mut writer, committed, .. } = open_in(storage, root, &collection(), plan).unwrap();
    for shard in &shards[committed.shards.len()..] {
        writer.commit(shard).unwrap();
    }
    writer.finish(totals(shards.iter().map(|shard| shard.records.len() as u64).sum())).unwrap()
}

fn write(root: &Path, plan: &Plan, shards: &[Shard]) -> Manifest {
    write_with(Arc::new(Disk), root, plan, shards)
}

/// `expected` with NaN equal to NaN.
#[track_caller]
fn assert_same_bits(found: &[f32], expected: &[f32]) {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(found), bits(expected));
}

#[track_caller]
fn check_reads_back(formats: &[Format], shards: &[Shard]) {
    let root = tempfile::tempdir().unwrap();
    let manifest = write(root.path(), &Plan { formats: formats.to_vec(), ..plan("m", Existing::Resume) }, shards);
    let directory = root.path().join("Docling/m");
    assert_eq!(read_manifest(&directory.join(MANIFEST_FILE)).unwrap(), manifest);
    for (shard, committed) in shards.iter().zip(&manifest.shards) {
        let stored = read_shard(&directory, committed).unwrap();
        assert_eq!((stored.number, stored.first_row), (shard.number, shard.first_row));
        assert!(stored.ids.iter().eq(shard.records.iter().map(|record| &record.id)), "{formats:?}");
        if stored.dimension > 0 {
            assert_same_bits(&stored.vectors, &shard.vectors);
        } else {
            assert!(shard.records.iter().all(|record| !record.status.has_vector()), "{formats:?}");
        }
        let state = |record: &RowRecord| RowState {
            status: record.status,
            tokens: record.tokens,
            text_sha256: record.text_sha256,
        };
        let states: Vec<_> = shard.records.iter().map(state).collect();
        assert_eq!(stored.states, (formats != [Format::Npy]).then_some(states), "{formats:?}");
    }
}

#[test]
fn every_format_gives_back_every_bit() {
    let edges = [f32::MIN_POSITIVE, -0.0, f32::MAX, f32::EPSILON, 1.0e-45, 0.1, 16_777_217.0, -f32::MIN_POSITIVE / 3.0];
    let mut shards = shards(ROWS, 3);
    shards[0].vectors[..DIMENSION].copy_from_slice(&edges[..DIMENSION]);
    shards[0].vectors[DIMENSION..2 * DIMENSION].copy_from_slice(&edges[DIMENSION..]);
    for format in Format::ALL {
        check_reads_back(&[format], &shards);
    }
    check_reads_back(&Format::ALL, &shards);
}

#[test]
fn every_format_gives_back_every_kind_of_vectors() {
    for kinds in [
        ALL_KINDS,
        Widths { dense: None, ..ALL_KINDS },
        Widths { dense: None, multi: None, ..ALL_KINDS },
        Widths { dense: None, sparse: None, ..ALL_KINDS },
    ] {
        for format in Format::ALL {
            let root = tempfile::tempdir().unwrap();
            let plan = Plan { formats: vec![format], widths: kinds, ..plan("m", Existing::Resume) };
            let shards: Vec<Shard> = shards(ROWS, 3).iter().map(|shard| with_kinds(shard, kinds)).collect();
            let manifest = write(root.path(), &plan, &shards);
            let directory = root.path().join("Docling/m");
            assert_eq!(read_manifest(&directory.join(MANIFEST_FILE)).unwrap().widths(), kinds);
            for (shard, committed) in shards.iter().zip(&manifest.shards) {
                let stored = read_shard(&directory, committed).unwrap();
                if stored.dimension > 0 || kinds.dense.is_none() {
                    assert_same_bits(&stored.vectors, &shard.vectors);
                }
                assert_eq!(stored.sparse, shard.sparse, "{format} {kinds}");
                let texts = |multi: &Option<MultiVectors>| multi.as_ref().map(|multi| multi.texts.clone());
                assert_eq!(texts(&stored.multi), texts(&shard.multi), "{format} {kinds}");
            }
        }
    }
}

#[test]
fn other_kinds_of_vectors_are_another_output() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &plan("m", Existing::Resume), &shards(ROWS, 3));
    let wanted = Plan { widths: ALL_KINDS, ..plan("m", Existing::Resume) };
    match open(root.path(), &wanted) {
        Err(OpenError::Mismatch { differences, .. }) => {
            assert_eq!(differences[0].to_string(), "emit is dense, not dense,sparse,multi");
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn a_collection_without_a_single_vector_is_written() {
    let records = vec![record("a", RowStatus::Empty), record("b", RowStatus::Failed)];
    for format in Format::ALL {
        check_reads_back(&[format], &[shard(0, 0, records.clone())]);
    }
}

#[test]
fn a_collection_without_rows_has_an_empty_ledger() {
    let root = tempfile::tempdir().unwrap();
    let manifest = write(root.path(), &plan("m", Existing::Resume), &[]);
    assert!(manifest.complete);
    assert_eq!(fs::read(root.path().join("Docling/chunks.jsonl")).unwrap(), b"");
    assert!(open(root.path(), &plan("m", Existing::Resume)).unwrap().complete);
}

#[test]
fn disk_and_memory_hold_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let memory = Memory::default();
    let shards = shards(ROWS, 3);
    for model in ["org/first", "second"] {
        let plan = plan(model, Existing::Resume);
        assert_eq!(
            write(root.path(), &plan, &shards),
            write_with(Arc::new(memory.clone()), root.path(), &plan, &shards)
        );
    }
    let in_memory = memory.snapshot();
    assert!(in_memory.len() > 30);
    for (path, bytes) in &in_memory {
        assert!(fs::read(path).unwrap() == *bytes, "{}", path.display());
    }
    let on_disk =
        walkdir::WalkDir::new(root.path()).into_iter().filter(|entry| entry.as_ref().unwrap().file_type().is_file());
    assert_eq!(on_disk.count(), in_memory.len());
}

#[test]
fn the_ledger_keeps_metadata_digit_for_digit() {
    let root = tempfile::tempdir().unwrap();
    let rows = vec![record("a", RowStatus::Truncated), RowRecord { metadata: None, ..record("b", RowStatus::Failed) }];
    write(root.path(), &plan("m", Existing::Resume), &[shard(0, 0, rows.clone())]);
    let expected = format!(
        concat!(
            r#"{{"id":"a","row":0,"source":{{"file":"a/b_chunks.json","index":3}},"text_sha256":"{}","tokens":7,"#,
            r#""tokens_truncated":1,"status":"truncated","metadata":{{"z":1.10,"a":[1e+2,"\ud800"],"z":null}},"#,
            r#""extra":{{"score":0.50}}}}"#,
            "\n",
            r#"{{"id":"b","row":1,"source":{{"file":"a/b_chunks.json","index":3}},"text_sha256":null,"tokens":0,"#,
            r#""tokens_truncated":0,"status":"failed","error":"no text","metadata":null}}"#,
            "\n",
        ),
        rows[0].text_sha256.unwrap()
    );
    assert_eq!(fs::read_to_string(root.path().join("Docling/chunks.jsonl")).unwrap(), expected);
}

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

#[track_caller]
fn check_invalid(change: impl Fn(&mut Shard), expected: &InvalidShard) {
    let root = tempfile::tempdir().unwrap();
    let mut writer = open(root.path(), &plan("m", Existing::Resume)).unwrap().writer;
    let good = &shards(ROWS, 3)[0];
    let mut bad = good.clone();
    change(&mut bad);
    match writer.commit(&bad) {
        Err(CommitError::Invalid { source, .. }) => assert_eq!(source, *expected),
        other => panic!("{:?}", other.map(|shard| shard.number)),
    }
    let written = fs::read_dir(root.path().join("Docling/m")).unwrap().count();
    assert_eq!(written, 0, "nothing is written of a shard that is not sound");
    assert!(writer.commit(good).is_ok());
}

#[test]
fn an_unsound_shard_is_never_written() {
    let id = || shards(ROWS, 3)[0].records[1].id.clone();
    check_invalid(|shard| shard.vectors[5] = f32::NAN, &InvalidShard::NotFinite { id: id() });
    check_invalid(|shard| shard.vectors[5] = f32::INFINITY, &InvalidShard::NotFinite { id: id() });
    check_invalid(|shard| shard.vectors[4..8].fill(0.0), &InvalidShard::Zero { id: id() });
    let out_of_order = |found, found_row| InvalidShard::OutOfOrder { expected: 0, expected_row: 0, found, found_row };
    check_invalid(|shard| shard.number = 1, &out_of_order(1, 0));
    check_invalid(|shard| shard.first_row.0 = 3, &out_of_order(0, 3));
    let dimension = |values, dimension| InvalidShard::Dimension { values, dimension, rows: 3, expected: DIMENSION };
    check_invalid(|shard| shard.vectors.truncate(11), &dimension(11, 4));
    check_invalid(|shard| shard.dimension = 3, &dimension(12, 3));
    check_invalid(
        |shard| {
            shard.records.clear();
            shard.vectors.clear();
        },
        &InvalidShard::Rows { rows: 0, shard_rows: 3 },
    );
    check_invalid(
        |shard| {
            shard.records.push(record("one too many", RowStatus::Empty));
            shard.vectors.extend([f32::NAN; DIMENSION]);
        },
        &InvalidShard::Rows { rows: 4, shard_rows: 3 },
    );
}

#[track_caller]
fn check_invalid_kinds(change: impl Fn(&mut Shard), part: &str) {
    let root = tempfile::tempdir().unwrap();
    let plan = Plan { widths: ALL_KINDS, ..plan("m", Existing::Resume) };
    let mut writer = open(root.path(), &plan).unwrap().writer;
    let shards = shards(ROWS, 3);
    writer.commit(&with_all_kinds(shards[0].clone())).unwrap();
    let mut bad = with_all_kinds(shards[1].clone());
    change(&mut bad);
    match writer.commit(&bad) {
        Err(CommitError::Invalid { source, .. }) => assert!(source.to_string().contains(part), "{source}"),
        other => panic!("{:?}", other.map(|shard| shard.number)),
    }
}

/// Rows 3 to 5 have the statuses failed, ok and truncated, and 0, 4 and 0 weights.
#[test]
fn unsound_vectors_of_other_kinds_are_never_written() {
    check_invalid_kinds(|shard| shard.sparse = None, "dense,sparse,multi");
    check_invalid_kinds(|shard| shard.multi.as_mut().unwrap().dimension = 4, "dense,sparse,multi");
    check_invalid_kinds(|shard| _ = shard.sparse.as_mut().unwrap().pop(), "dense,sparse,multi");
    check_invalid_kinds(|shard| shard.sparse.as_mut().unwrap()[1].values[0] = 0.0, "sparse vector");
    check_invalid_kinds(|shard| shard.sparse.as_mut().unwrap()[1].values[0] = f32::INFINITY, "sparse vector");
    check_invalid_kinds(|shard| shard.sparse.as_mut().unwrap()[1].indices.swap(0, 1), "sparse vector");
    check_invalid_kinds(|shard| shard.sparse.as_mut().unwrap()[1].indices[3] = 100, "sparse vector");
    check_invalid_kinds(|shard| _ = shard.sparse.as_mut().unwrap()[1].indices.pop(), "sparse vector");
    check_invalid_kinds(|shard| shard.multi.as_mut().unwrap().texts[1][2] = f32::NAN, "vectors of tokens");
    check_invalid_kinds(|shard| _ = shard.multi.as_mut().unwrap().texts[1].pop(), "vectors of tokens");
    check_invalid_kinds(|shard| shard.multi.as_mut().unwrap().texts[0] = vec![1.0; 3], "vectors of tokens");
}

#[test]
fn nothing_follows_a_short_shard_and_no_row_is_lost_unnoticed() {
    let root = tempfile::tempdir().unwrap();
    let mut writer = open(root.path(), &plan("m", Existing::Resume)).unwrap().writer;
    writer.commit(&shard(0, 0, vec![record("a", RowStatus::Ok)])).unwrap();
    let error = writer.commit(&shard(1, 1, vec![record("b", RowStatus::Ok)])).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "it follows a shard of fewer than 3 rows, which only the last one may have");
    assert!(matches!(writer.finish(totals(2)), Err(CommitError::RowsLost { read: 2, committed: 1, .. })));
    let manifest = open(root.path(), &plan("m", Existing::Resume)).unwrap().writer.finish(totals(1)).unwrap();
    assert_eq!((manifest.totals.rows, manifest.totals.counts.ok, manifest.totals.tokens), (1, 1, 7));
    let mut complete = open(root.path(), &plan("m", Existing::Resume)).unwrap();
    assert!(complete.complete);
    let error = complete.writer.commit(&shard(1, 1, vec![record("b", RowStatus::Ok)])).unwrap_err();
    assert!(matches!(error, CommitError::Complete { .. }), "{error}");
}

#[test]
fn a_failed_commit_can_be_tried_again() {
    let memory = Memory::default();
    let root = PathBuf::from("out");
    let expected = {
        let memory = Memory::default();
        write_with(Arc::new(memory.clone()), &root, &plan("m", Existing::Resume), &shards(ROWS, 3));
        memory.snapshot()
    };
    let opened = open_in(Arc::new(memory.clone()), &root, &collection(), &plan("m", Existing::Resume));
    let mut writer = opened.unwrap().writer;
    for shard in &shards(ROWS, 3) {
        for operation in 0.. {
            memory.die_at(operation);
            match writer.commit(shard) {
                Ok(_) => break,
                Err(CommitError::Storage(error)) => {
                    let text = error.to_string();
                    assert!(text.contains("out/Docling") && text.contains("free some space"), "{text}");
                }
                Err(error) => panic!("operation {operation}: {error:?}"),
            }
        }
    }
    memory.die_at(usize::MAX - 1);
    writer.finish(totals(ROWS)).unwrap();
    assert!(memory.snapshot() == expected);
}

#[test]
fn errors_name_the_path_and_the_way_out() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("Docling"), "a file").unwrap();
    let error = open(root.path(), &plan("m", Existing::Resume)).err().unwrap().to_string();
    let path = root.path().join("Docling/m");
    let expected = format!(
        "cannot create {} (something else has that name; move it away, or choose another directory with --output-dir)",
        path.display()
    );
    assert_eq!(error, expected);
}
