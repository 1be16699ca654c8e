//! What becomes of the rows.

use std::path::Path;

use super::fixture::*;
use super::*;
use crate::domain::RowStatus;
use crate::domain::RowStatus::{Empty, Failed, Ok as Whole, Truncated};
use crate::output::{CollectionTotals, Existing, Format, Manifest, StoredShard, read_shard};

fn read(root: &Path, manifest: &Manifest) -> Vec<StoredShard> {
    let directory = root.join("Docling/fused");
    manifest.shards.iter().map(|shard| read_shard(&directory, shard).unwrap()).collect()
}

/// What a fused row should be, from the members as they were meant; NaN for no vector.
fn expected(method: Method, outputs: &[Output], weights: &[f64], row: usize) -> Vec<f32> {
    let vectors: Vec<_> = outputs.iter().map(|output| output.vector_of(row)).collect();
    let parts: Vec<_> = vectors.iter().zip(weights).map(|(vector, &weight)| Part { vector, weight }).collect();
    let dimension = match method {
        Method::Mean => outputs[0].dimension,
        Method::Concat => outputs.iter().map(|output| output.dimension).sum(),
    };
    let mut fused = vec![f32::NAN; dimension];
    if outputs.iter().all(|output| output.statuses[row].has_vector()) {
        fuse_vectors(method, &parts, &mut fused).unwrap();
    }
    fused
}

#[track_caller]
fn check(outputs: &[Output], order: &Order, normalized: &[f64], statuses: &[RowStatus]) {
    let root = tempfile::tempdir().unwrap();
    write_all(root.path(), outputs);
    let (manifest, told) = order.run(root.path()).unwrap();
    assert!(manifest.complete);
    assert_eq!(manifest.input, Some(CollectionTotals { files: 3, rows: statuses.len() as u64, loading_errors: 2 }));
    assert_eq!(told.failed, []);
    let shards = read(root.path(), &manifest);
    assert_eq!(shards.iter().map(|shard| shard.ids.len()).collect::<Vec<_>>(), shard_lengths(statuses.len(), order));
    let bits = |vector: &[f32]| vector.iter().map(|component| component.to_bits()).collect::<Vec<_>>();
    for shard in &shards {
        for (index, id) in shard.ids.iter().enumerate() {
            let row = usize::try_from(shard.first_row.0).unwrap() + index;
            assert_eq!(id.as_str(), format!("chunk {row}"));
            let expected = expected(order.method, outputs, normalized, row);
            let found = shard.vectors.get(index * expected.len()..(index + 1) * expected.len());
            if statuses[row].has_vector() {
                assert_eq!(bits(found.unwrap()), bits(&expected), "row {row}");
            } else {
                assert!(found.is_none_or(|found| found.iter().all(|component| component.is_nan())), "row {row}");
            }
            if let Some(states) = &shard.states {
                let primary = outputs[0].record(row);
                let (state, text, tokens) = (states[index], primary.text_sha256, primary.tokens);
                assert_eq!((state.status, state.tokens, state.text_sha256), (statuses[row], tokens, text), "row {row}");
            }
        }
    }
    let count = |wanted| statuses.iter().filter(|&&status| status == wanted).count() as u64;
    let counts = manifest.totals.counts;
    let wanted = [Whole, Truncated, Empty, Failed].map(count);
    assert_eq!([counts.ok, counts.truncated, counts.empty, counts.failed], wanted);
}

fn shard_lengths(rows: usize, order: &Order) -> Vec<usize> {
    let rows: Vec<_> = (0..rows).collect();
    rows.chunks(order.shard_rows as usize).map(<[usize]>::len).collect()
}

#[test]
fn every_row_is_fused_in_order_whatever_the_shards_and_formats_of_the_members() {
    for (first_rows, second_rows, shard_rows) in [(4, 4, 4), (3, 5, 2), (1, 100, 4), (2, 7, 100)] {
        for (format, formats) in [(Format::Jsonl, Format::ALL.to_vec()), (Format::Npy, vec![Format::Arrow])] {
            let outputs = [output("first", 6, first_rows), second(6, second_rows)]
                .map(|output| Output { formats: formats.clone(), ..output });
            for method in [Method::Mean, Method::Concat] {
                let order = Order { shard_rows, formats: vec![format], ..order(method, &outputs) };
                check(&outputs, &order, &[0.5, 0.5], &[Whole; ROWS]);
            }
        }
    }
}

#[test]
fn weights_and_dimensions_may_differ_where_the_method_lets_them() {
    let outputs = [output("first", 6, 3), second(2, 4), Output { model: "third", ..second(5, 4) }];
    let mut order = order(Method::Concat, &outputs);
    for (member, weight) in order.members.iter_mut().zip([3.0, 0.0, 1.0]) {
        member.weight = weight;
    }
    check(&outputs, &order, &[0.75, 0.0, 0.25], &[Whole; ROWS]);
}

#[test]
fn statuses_are_the_worst_of_the_members_even_of_one_that_weighs_nothing() {
    let mut outputs = [output("first", 4, 3), second(4, 4)];
    outputs[0].statuses[..6].copy_from_slice(&[Whole, Truncated, Empty, Failed, Whole, Truncated]);
    outputs[1].statuses[..6].copy_from_slice(&[Failed, Whole, Empty, Whole, Truncated, Empty]);
    let mut statuses = vec![Whole; ROWS];
    statuses[..6].copy_from_slice(&[Failed, Truncated, Empty, Failed, Truncated, Empty]);
    for formats in [vec![Format::Jsonl], vec![Format::Parquet], Format::ALL.to_vec()] {
        let outputs = outputs.clone().map(|output| Output { formats: formats.clone(), ..output });
        let mut order = Order { formats, ..order(Method::Mean, &outputs) };
        check(&outputs, &order, &[0.5, 0.5], &statuses);
        order.members[1].weight = 0.0;
        check(&outputs, &order, &[1.0, 0.0], &statuses);
    }
}

#[test]
fn members_that_store_no_statuses_have_those_of_the_ledger() {
    let mut outputs = [output("first", 4, 3), second(4, 4)];
    outputs[0].statuses[..4].copy_from_slice(&[Whole, Truncated, Empty, Failed]);
    outputs[1].statuses[..4].copy_from_slice(&[Failed, Whole, Empty, Whole]);
    let mut statuses = vec![Whole; ROWS];
    statuses[..4].copy_from_slice(&[Failed, Truncated, Empty, Failed]);
    let outputs = outputs.map(|output| Output { formats: vec![Format::Npy], ..output });
    check(&outputs, &order(Method::Mean, &outputs), &[0.5, 0.5], &statuses);
}

#[test]
fn shards_without_any_vector_and_collections_without_rows_are_fused() {
    let mut outputs = [output("first", 4, 3), second(4, 4)];
    outputs[0].statuses = vec![Empty; ROWS];
    check(&outputs, &order(Method::Concat, &outputs), &[0.5, 0.5], &[Empty; ROWS]);
    outputs.iter_mut().for_each(|output| output.statuses.clear());
    check(&outputs, &order(Method::Mean, &outputs), &[0.5, 0.5], &[]);
}

#[test]
fn a_mean_that_cancels_out_is_a_failed_row_with_its_reason() {
    let root = tempfile::tempdir().unwrap();
    let opposite: fn(usize, usize) -> f32 = |row, column| {
        let value = (row as f32 * 1.7 + column as f32 * 0.9 + 0.3).sin();
        if row == 5 { -3.0 * value } else { value }
    };
    let outputs = [output("first", 4, 3), Output { vector: opposite, ..second(4, 4) }];
    write_all(root.path(), &outputs);
    let (manifest, told) = order(Method::Mean, &outputs).run(root.path()).unwrap();
    assert_eq!(told.failed, [(5, "the vectors of the models cancel each other out".to_owned())]);
    assert_eq!((manifest.totals.counts.ok, manifest.totals.counts.failed), (ROWS as u64 - 1, 1));
    let shard = &read(root.path(), &manifest)[1];
    assert!(shard.vectors[4..8].iter().all(|component| component.is_nan()));
    let state = shard.states.as_ref().unwrap()[1];
    assert_eq!((state.status, state.tokens), (Failed, 405), "they are those of the first member");

    // The report of a concatenation of the same members has no such row.
    let concatenation = Order { existing: Existing::Overwrite, ..order(Method::Concat, &outputs) };
    assert_eq!(concatenation.run(root.path()).unwrap().1.failed, []);
}
