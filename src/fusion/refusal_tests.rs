//! Which members are never fused.

use std::fs;
use std::path::Path;

use super::fixture::*;
use super::*;
use crate::domain::RowStatus::Ok as Whole;
use crate::domain::{ChunkId, RawJson, RowRecord};
use crate::output::{CommittedShard, Existing, Manifest};

#[track_caller]
fn check_refused(outputs: &[Output], prepare: impl Fn(&Path), expected: &str) {
    let root = tempfile::tempdir().unwrap();
    write_all(root.path(), outputs);
    prepare(root.path());
    assert_eq!(order(Method::Mean, outputs).fails(root.path()), expected);
    assert!(!root.path().join("Docling/fused/manifest.json").exists(), "nothing is committed");
}

#[test]
fn members_that_cannot_be_fused_are_refused_before_any_work() {
    let pair = [output("first", 4, 4), second(4, 4)];
    check_refused(
        &pair,
        |root| fs::remove_dir_all(root.join("Docling/second")).unwrap(),
        "cannot fuse Docling: there is no output of org/second to read (embed it first)",
    );
    check_refused(
        &pair,
        |root| drop(Output { existing: Existing::Overwrite, ..second(4, 4) }.write_shards(root, 1)),
        "cannot fuse Docling: org/second has only 4 rows so far (run the same command again to finish it)",
    );
    check_refused(
        &[output("first", 4, 4), second(3, 4)],
        |_| {},
        "a mean needs vectors of one dimension, but first has 4, org/second has 3 (--truncate-dim 3 brings them to one: \
         cut, then normalised; or pass --fusion concat or --fusion none)",
    );
    let mut namesake = order(Method::Mean, &pair);
    namesake.members[1].model = "other/second".to_owned();
    let root = tempfile::tempdir().unwrap();
    write_all(root.path(), &pair);
    let error = namesake.fails(root.path());
    assert!(
        error.ends_with("is about org/second and Docling, not other/second (choose another --output-dir)"),
        "{error}"
    );
    namesake.members[1].weight = -1.0;
    assert!(matches!(namesake.run(root.path()), Err(FuseError::Weights(_))));
    fs::remove_file(root.path().join("Docling/chunks.jsonl")).unwrap();
    assert!(matches!(order(Method::Mean, &pair).run(root.path()), Err(FuseError::Ledger(_))));
}

/// Replaces the output and the ledger of the first member by those of another input.
fn embed_another_input(root: &Path, input: fn(usize, &mut RowRecord), rows: usize) {
    let first = output("first", 4, 4);
    Output { existing: Existing::Overwrite, input, statuses: vec![Whole; rows], ..first }.write(root);
}

fn with_other_metadata(row: usize, record: &mut RowRecord) {
    record.metadata = (row != 6).then(|| RawJson::compact("1"));
}

#[test]
fn members_of_another_input_are_refused_with_the_row() {
    let pair = [output("first", 4, 4), second(4, 4)];
    check_refused(
        &pair,
        |root| embed_another_input(root, with_other_metadata, ROWS),
        "cannot fuse Docling: the input of org/second is not that of chunks.jsonl, which first wrote; they differ before \
         row 4 (pass --overwrite to embed everything again)",
    );
    check_refused(
        &pair,
        |root| embed_another_input(root, |_, _| {}, ROWS - 1),
        "cannot fuse Docling: org/second has 11 rows, chunks.jsonl 10 (pass --overwrite to embed everything again)",
    );
}

/// Members whose manifests agree, as after a fault of the program, and whose shards do not.
#[track_caller]
fn check_misaligned(input: fn(usize, &mut RowRecord), expected: &str) {
    let root = tempfile::tempdir().unwrap();
    let pair = [output("first", 4, 4), second(4, 4)];
    write_all(root.path(), &pair);
    let manifest = root.path().join("Docling/second/manifest.json");
    let honest: Manifest = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    fs::remove_dir_all(root.path().join("Docling/second")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    Output { input, ..pair[1].clone() }.write(elsewhere.path());
    fs::rename(elsewhere.path().join("Docling/second"), root.path().join("Docling/second")).unwrap();
    let mut forged: Manifest = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let pretend = |(forged, honest): (&mut CommittedShard, &CommittedShard)| forged.input_chain = honest.input_chain;
    forged.shards.iter_mut().zip(&honest.shards).for_each(pretend);
    fs::write(&manifest, serde_json::to_vec(&forged).unwrap()).unwrap();
    let order = order(Method::Mean, &pair);
    assert_eq!(order.fails(root.path()), expected);
    // The rows before are as they should be, and nothing of the shard in question is.
    let committed: Manifest =
        serde_json::from_slice(&fs::read(root.path().join("Docling/fused/manifest.json")).unwrap()).unwrap();
    assert_eq!((committed.complete, committed.totals.rows), (false, 4));
}

#[test]
fn a_row_that_is_another_in_a_member_is_never_fused() {
    check_misaligned(
        |row, record| {
            if row == 6 {
                record.id = ChunkId::new("stranger");
            }
        },
        "cannot fuse Docling: row 6 is \"chunk 6\" in chunks.jsonl, but \"stranger\" in the output of \
         org/second (pass --overwrite to embed everything again)",
    );
    check_misaligned(
        |row, record| {
            if row == 5 {
                record.text_sha256 = None;
            }
        },
        "cannot fuse Docling: row 5 (\"chunk 5\") has another text in the output of org/second than in \
         chunks.jsonl (pass --overwrite to embed everything again)",
    );
}
