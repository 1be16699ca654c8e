//! What an output promises, on the file system and in memory.

mod reopened;
mod unsound;

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
