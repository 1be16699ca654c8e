//! What becomes of a fused output that is there already.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::fixture::*;
use super::*;
use crate::domain::RowStatus::Failed;
use crate::domain::{Digest, RowRecord};
use crate::output::{Existing, Format, OpenError, ReadError};

fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = walkdir::WalkDir::new(root).into_iter().map(Result::unwrap).filter(|it| it.file_type().is_file());
    files.map(|it| (it.path().strip_prefix(root).unwrap().to_owned(), fs::read(it.path()).unwrap())).collect()
}

#[track_caller]
fn assert_same_files(found: &Path, expected: &Path) {
    let (found, expected) = (files(found), files(expected));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    expected.iter().for_each(|(path, bytes)| assert!(found[path] == *bytes, "{}", path.display()));
}

/// Two members whose weights are no dyadic fractions, so that a lost digit shows.
fn weighted() -> ([Output; 2], Order) {
    let outputs = [output("first", 4, 3), second(4, 5)];
    let mut order = Order { formats: Format::ALL.to_vec(), ..order(Method::Mean, &outputs) };
    (order.members[0].weight, order.members[1].weight) = (0.1, 0.7);
    (outputs, order)
}

#[test]
fn a_stopped_run_goes_on_and_ends_with_the_same_bytes() {
    let (outputs, order) = weighted();
    let uninterrupted = tempfile::tempdir().unwrap();
    write_all(uninterrupted.path(), &outputs);
    let before = files(uninterrupted.path());
    order.run(uninterrupted.path()).unwrap();
    let written: Vec<_> = files(uninterrupted.path()).into_keys().filter(|path| !before.contains_key(path)).collect();
    assert!(written.iter().all(|path| path.starts_with("Docling/fused")), "{written:?}");
    for stop_after in 0..3 {
        let root = tempfile::tempdir().unwrap();
        write_all(root.path(), &outputs);
        let (manifest, _) = order.run_until(root.path(), stop_after).unwrap();
        assert_eq!((manifest.complete, manifest.shards.len()), (false, stop_after));
        // What a kill leaves behind.
        fs::write(root.path().join("Docling/fused/part-00002.npy.partial"), "half").unwrap();
        let (manifest, told) = order.run(root.path()).unwrap();
        assert!(manifest.complete);
        let redone: Vec<_> = (u32::try_from(stop_after).unwrap()..3).collect();
        assert_eq!((told.kept_rows, told.committed), (stop_after as u64 * 4, redone));
        assert_same_files(root.path(), uninterrupted.path());
    }
}

#[test]
fn stopping_one_shard_at_a_time_ends_as_well() {
    let (outputs, order) = weighted();
    let root = tempfile::tempdir().unwrap();
    write_all(root.path(), &outputs);
    let runs = (1..10).find(|_| order.run_until(root.path(), 1).unwrap().0.complete);
    assert_eq!(runs, Some(3), "the last shard and the end are one run");
}

#[test]
fn a_complete_and_matching_output_is_kept() {
    let (outputs, order) = weighted();
    let root = tempfile::tempdir().unwrap();
    write_all(root.path(), &outputs);
    let (manifest, _) = order.run(root.path()).unwrap();
    let (again, told) = order.run_until(root.path(), 0).unwrap();
    assert_eq!(again, manifest);
    assert_eq!(told, Told { kept_rows: ROWS as u64, ..Told::default() });
    // The same ratios are the same weights.
    let mut doubled = order.clone();
    doubled.members.iter_mut().for_each(|member| member.weight *= 2.0);
    assert_eq!(doubled.run(root.path()).unwrap().1, told);
    let refused = Order { existing: Existing::Refuse, ..order.clone() }.run(root.path());
    assert!(matches!(refused, Err(FuseError::Open(OpenError::Exists { .. }))));
    let (anew, told) = Order { existing: Existing::Overwrite, ..order }.run(root.path()).unwrap();
    assert_eq!((anew, told.committed.len()), (manifest, 3));
}

#[test]
fn a_damaged_fused_shard_is_redone_and_a_damaged_member_is_an_error() {
    let (outputs, order) = weighted();
    let root = tempfile::tempdir().unwrap();
    write_all(root.path(), &outputs);
    order.run(root.path()).unwrap();
    let before = files(root.path());
    fs::write(root.path().join("Docling/fused/part-00001.npy"), "x").unwrap();
    assert_eq!(order.run(root.path()).unwrap().1.committed, [1, 2]);
    assert!(files(root.path()) == before);

    fs::write(root.path().join("Docling/second/part-00001.jsonl"), "x").unwrap();
    fs::remove_dir_all(root.path().join("Docling/fused")).unwrap();
    let told = order.run(root.path()).unwrap_err();
    assert!(matches!(&told, FuseError::Read(ReadError::Changed { path }) if path.ends_with("second/part-00001.jsonl")));
}

#[test]
fn other_members_weights_or_methods_are_refused_with_what_differs() {
    let (outputs, order) = weighted();
    let root = tempfile::tempdir().unwrap();
    write_all(root.path(), &outputs);
    order.run(root.path()).unwrap();
    let check = |other: &Order, difference: &str| {
        let error = other.fails(root.path());
        assert!(error.contains("was written with other settings: vector_space is"), "{error}");
        assert!(error.contains(difference) && error.contains("--overwrite"), "{error}");
    };
    check(&Order { method: Method::Concat, ..order.clone() }, "fusion is \"mean\", not \"concat\"");
    let mut other = order.clone();
    other.members.swap(0, 1);
    check(&other, "members is [{\"dimension\":4,\"model\":\"first\"");
    let mut other = order.clone();
    other.members[0].weight = 0.2;
    check(&other, "\"weight\":0.22222222222222224");
    Output { vector_space: "another", existing: Existing::Overwrite, ..outputs[1].clone() }.write(root.path());
    check(&order, "\"vector_space\":\"another\"");
    let longer = Order { shard_rows: 5, ..order.clone() };
    assert!(longer.fails(root.path()).contains("shard_rows is 4, not 5"));

    let overwriting = Order { existing: Existing::Overwrite, ..order };
    assert!(overwriting.run(root.path()).unwrap().0.complete);
}

#[test]
fn an_output_of_members_that_were_embedded_again_is_made_anew() {
    let (outputs, order) = weighted();
    for shards in [1, 3] {
        let root = tempfile::tempdir().unwrap();
        write_all(root.path(), &outputs);
        order.run_until(root.path(), shards).unwrap();
        let mut again = Output { existing: Existing::Overwrite, ..outputs[1].clone() };
        again.statuses[0] = Failed;
        again.write(root.path());
        let (manifest, told) = order.run(root.path()).unwrap();
        assert_eq!((told.kept_rows, told.rebuilt), (0, Some(Rebuilt::MembersChanged)));
        assert_eq!((manifest.complete, manifest.totals.counts.failed), (true, 1));

        // Another input, which the members have been embedded from by now.
        for output in &outputs {
            let input: fn(usize, &mut RowRecord) = |row, record| {
                if row == 2 {
                    record.text_sha256 = Some(Digest::of(b"another text"));
                }
            };
            Output { existing: Existing::Overwrite, input, ..output.clone() }.write(root.path());
        }
        let (manifest, told) = order.run(root.path()).unwrap();
        assert_eq!((told.kept_rows, told.rebuilt), (0, Some(Rebuilt::InputChanged)));
        assert!(manifest.complete);
        assert_eq!(order.run(root.path()).unwrap().1.rebuilt, None);
    }
}
