//! Shards that are never written.

use super::*;

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
