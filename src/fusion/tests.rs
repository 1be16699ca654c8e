//! What fusing promises of whole outputs, on the file system; members are made with the writer that makes them in a run.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::domain::{CollectionName, Digest, RawJson, Row, RowRecord, RowStatus, Shard};
use crate::output::{
    CollectionTotals, CollectionWriter, CommittedShard, Existing, Format, Manifest, OpenError, Plan, ReadError,
    StoredShard, fixture, read_shard,
};
use RowStatus::{Empty, Failed, Ok as Whole, Truncated};

const ROWS: usize = 11;

fn collection() -> CollectionName {
    CollectionName::new("Docling").unwrap()
}

/// One member: what a pass of its model would leave.
#[derive(Clone)]
struct Output {
    model: &'static str,
    dimension: usize,
    shard_rows: usize,
    formats: Vec<Format>,
    vector_space: &'static str,
    /// One a row.
    statuses: Vec<RowStatus>,
    vector: fn(row: usize, column: usize) -> f32,
    existing: Existing,
    /// Changes what the input said of each row.
    input: fn(row: usize, record: &mut RowRecord),
}

fn output(model: &'static str, dimension: usize, shard_rows: usize) -> Output {
    Output {
        model,
        dimension,
        shard_rows,
        formats: vec![Format::Jsonl],
        vector_space: model,
        statuses: vec![Whole; ROWS],
        vector: |row, column| (row as f32 * 1.7 + column as f32 * 0.9 + 0.3).sin() * (row + 1) as f32,
        existing: Existing::Resume,
        input: |_, _| {},
    }
}

/// A second model, whose vectors are others.
fn second(dimension: usize, shard_rows: usize) -> Output {
    Output {
        vector: |row, column| (row as f32 * 0.4 - column as f32 * 1.3).cos() * 1e-3,
        ..output("org/second", dimension, shard_rows)
    }
}

impl Output {
    fn plan(&self) -> Plan {
        Plan {
            model: self.model.to_owned(),
            vector_space: self.vector_space.to_owned(),
            dimension: self.dimension,
            shard_rows: u32::try_from(self.shard_rows).unwrap(),
            formats: self.formats.clone(),
            provenance: serde_json::Map::new(),
            existing: self.existing,
        }
    }

    /// The input is the same for all models; tokens are not.
    fn record(&self, row: usize) -> RowRecord {
        let status = self.statuses[row];
        let tokens = if status.has_vector() { u32::try_from(self.dimension * 100 + row).unwrap() } else { 0 };
        let mut record = RowRecord {
            status,
            tokens,
            tokens_truncated: u32::from(status == Truncated),
            error: (status == Failed).then(|| "broken".to_owned()),
            ..fixture::record(&format!("chunk {row}"), Whole)
        };
        if row % 2 == 1 {
            record.metadata = Some(RawJson::compact("null"));
        }
        (self.input)(row, &mut record);
        record
    }

    fn shards(&self) -> Vec<Shard> {
        let rows: Vec<usize> = (0..self.statuses.len()).collect();
        let shard = |(number, rows): (usize, &[usize])| Shard {
            number: u32::try_from(number).unwrap(),
            first_row: Row(rows[0] as u64),
            dimension: self.dimension,
            records: rows.iter().map(|&row| self.record(row)).collect(),
            vectors: rows.iter().flat_map(|&row| self.vector_of(row)).collect(),
        };
        rows.chunks(self.shard_rows).enumerate().map(shard).collect()
    }

    fn vector_of(&self, row: usize) -> Vec<f32> {
        let has_vector = self.statuses[row].has_vector();
        (0..self.dimension).map(|column| if has_vector { (self.vector)(row, column) } else { f32::NAN }).collect()
    }

    fn write(&self, root: &Path) {
        self.write_shards(root, usize::MAX)
            .finish(CollectionTotals { files: 3, rows: self.statuses.len() as u64, loading_errors: 2 })
            .unwrap();
    }

    fn write_shards(&self, root: &Path, shards: usize) -> CollectionWriter {
        let mut writer = CollectionWriter::open(root, &collection(), &self.plan()).unwrap().writer;
        self.shards().iter().take(shards).for_each(|shard| drop(writer.commit(shard).unwrap()));
        writer
    }
}

/// What to do with the members.
#[derive(Clone)]
struct Order {
    method: Method,
    members: Vec<Member>,
    formats: Vec<Format>,
    shard_rows: u32,
    existing: Existing,
}

fn order(method: Method, outputs: &[Output]) -> Order {
    let members = outputs.iter().map(|output| Member { model: output.model.to_owned(), weight: 1.0 }).collect();
    Order { method, members, formats: vec![Format::Jsonl], shard_rows: 4, existing: Existing::Resume }
}

/// What a run has told.
#[derive(Debug, Default, PartialEq)]
struct Told {
    kept_rows: u64,
    rebuilt: Option<Rebuilt>,
    failed: Vec<(u64, String)>,
    committed: Vec<u32>,
}

impl Order {
    fn run(&self, root: &Path) -> Result<(Manifest, Told), FuseError> {
        self.run_until(root, usize::MAX)
    }

    /// Asks to stop once so many shards are committed.
    fn run_until(&self, root: &Path, shards: usize) -> Result<(Manifest, Told), FuseError> {
        let collection = collection();
        let request = Request {
            output_dir: root,
            collection: &collection,
            method: self.method,
            members: &self.members,
            formats: &self.formats,
            shard_rows: self.shard_rows,
            existing: self.existing,
        };
        let (told, committed) = (RefCell::new(Told::default()), Cell::new(0));
        let manifest = fuse(&request, &|| committed.get() >= shards, &mut |step| {
            let mut told = told.borrow_mut();
            match step {
                Step::Opened { opened, rebuilt } => {
                    (told.kept_rows, told.rebuilt) = (opened.committed.rows(), rebuilt);
                }
                Step::RowFailed { row, record, reason } => {
                    assert_eq!((record.status, record.error.as_deref()), (Failed, Some(reason)));
                    told.failed.push((row.0, reason.to_owned()));
                }
                Step::Committed(shard) => {
                    committed.set(committed.get() + 1);
                    told.committed.push(shard.number);
                }
            }
        });
        manifest.map(|manifest| (manifest, told.into_inner()))
    }

    #[track_caller]
    fn fails(&self, root: &Path) -> String {
        self.run(root).map(|(manifest, _)| manifest.complete).unwrap_err().to_string()
    }
}

fn write_all(root: &Path, outputs: &[Output]) {
    outputs.iter().for_each(|output| output.write(root));
}

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
            match statuses[row].has_vector() {
                true => assert_eq!(bits(found.unwrap()), bits(&expected), "row {row}"),
                false => assert!(found.is_none_or(|found| found.iter().all(|component| component.is_nan()))),
            }
            if let Some(states) = &shard.states {
                let primary = outputs[0].record(row);
                let tokens = if statuses[row].has_vector() { primary.tokens } else { 0 };
                let (state, text) = (states[index], primary.text_sha256);
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
    assert_eq!((state.status, state.tokens), (Failed, 0));

    // The report of a concatenation of the same members has no such row.
    let concatenation = Order { existing: Existing::Overwrite, ..order(Method::Concat, &outputs) };
    assert_eq!(concatenation.run(root.path()).unwrap().1.failed, []);
}

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
    let runs = (1..).find(|_| order.run_until(root.path(), 1).unwrap().0.complete);
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

#[test]
fn members_of_another_input_are_refused_with_the_row() {
    let pair = [output("first", 4, 4), second(4, 4)];
    check_refused(
        &pair,
        |root| {
            embed_another_input(root, |row, record| record.metadata = (row != 6).then(|| RawJson::compact("1")), ROWS)
        },
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
                record.id = crate::domain::ChunkId::new("stranger");
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
