//! Outputs as others see them: real files against the schemas, and against the readers of other languages.
#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::fs;
use std::path::Path;

use embed_collections::domain::{
    ChunkId, CollectionName, Digest, MultiVectors, RawJson, Row, RowRecord, RowStatus, Shard, Source, SparseVector,
    Widths,
};
use embed_collections::output::{CollectionTotals, CollectionWriter, Existing, Format, Opened, Plan};
use serde_json::{Value, json};

const DIMENSION: usize = 48;
const SHARD_ROWS: u64 = 100;

fn record(row: u64) -> RowRecord {
    let statuses = [RowStatus::Ok, RowStatus::Ok, RowStatus::Truncated, RowStatus::Empty, RowStatus::Failed];
    let status = statuses[usize::try_from(row).unwrap() % statuses.len()];
    RowRecord {
        id: ChunkId::new(format!("größe \"{row}\"\n\u{2028}")),
        source: Source { file: format!("part {}/a_chunks.json", row / 7).into(), index: row % 7 },
        status,
        tokens: if status.has_vector() { 5 } else { 0 },
        tokens_truncated: u32::from(status == RowStatus::Truncated) * 9,
        text_sha256: (status != RowStatus::Failed).then(|| Digest::of(&row.to_le_bytes())),
        error: (status == RowStatus::Failed).then(|| "no text".to_owned()),
        metadata: (row.is_multiple_of(2)).then(|| RawJson::compact(r#"{"page": 1.50, "tags": ["a", "b"]}"#)),
        extra: (row.is_multiple_of(3)).then(|| RawJson::compact(r#"{"score": 1e-3}"#)),
    }
}

/// Every magnitude that f32 has, subnormal numbers included, in an order that a generator of random bits gives.
fn vector(row: u64) -> impl Iterator<Item = f32> {
    let mut state = row.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f32::from_bits((state >> 32) as u32)
    })
    .filter(|value| value.is_finite())
    .take(DIMENSION)
}

fn shards(rows: u64) -> Vec<Shard> {
    let shard = |(number, first_row): (usize, u64)| {
        let rows = first_row..rows.min(first_row + SHARD_ROWS);
        let records: Vec<_> = rows.clone().map(record).collect();
        let vectors = rows.zip(&records).flat_map(|(row, record)| {
            let has_vector = record.status.has_vector();
            vector(row).map(move |value| if has_vector { value } else { f32::NAN })
        });
        let vectors = vectors.collect();
        Shard {
            number: u32::try_from(number).unwrap(),
            first_row: Row(first_row),
            dimension: DIMENSION,
            records,
            vectors,
            sparse: None,
            multi: None,
        }
    };
    (0..rows).step_by(SHARD_ROWS as usize).enumerate().map(shard).collect()
}

/// The widths of the third model's vectors.
const ALL_KINDS: Widths = Widths { dense: Some(DIMENSION), sparse: Some(1000), multi: Some(5) };

/// The same rows with weights and vectors of tokens, some of them without any.
fn with_all_kinds(mut shard: Shard) -> Shard {
    let (mut sparse, mut texts) = (Vec::new(), Vec::new());
    for (row, record, _) in shard.rows() {
        let count = if record.status.has_vector() { row.0 % 7 } else { 0 };
        let indices: Vec<u32> = (0..count).map(|place| (row.0 + 100 * place) as u32).collect();
        let values: Vec<f32> =
            vector(row.0).take(count as usize).map(|value| value.abs() + f32::MIN_POSITIVE).collect();
        sparse.push(SparseVector { indices, values });
        texts.push((0..count).flat_map(|place| vector(row.0 + place).take(5)).collect());
    }
    shard.sparse = Some(sparse);
    shard.multi = Some(MultiVectors { dimension: 5, texts });
    shard
}

/// Writes a collection with three models; the second is left incomplete, the third has vectors of all kinds and the fourth
/// has no dense ones.
fn write(output_dir: &Path) {
    for (model, commits, widths) in [
        ("org/complete", 3, Widths::dense(DIMENSION)),
        ("incomplete", 2, Widths::dense(DIMENSION)),
        ("all-kinds", 3, ALL_KINDS),
        ("no-dense", 3, Widths { dense: None, ..ALL_KINDS }),
    ] {
        let mut shards = shards(250);
        if widths.sparse.is_some() {
            shards = shards.into_iter().map(with_all_kinds).collect();
        }
        if widths.dense.is_none() {
            shards.iter_mut().for_each(|shard| (shard.dimension, shard.vectors) = (0, Vec::new()));
        }
        let plan = Plan {
            model: model.to_owned(),
            vector_space: Digest::of(model.as_bytes()).to_string(),
            widths,
            shard_rows: u32::try_from(SHARD_ROWS).unwrap(),
            formats: Format::ALL.to_vec(),
            provenance: json!({"dtype": "f32", "prompt": null}).as_object().unwrap().clone(),
            existing: Existing::Resume,
            share: None,
        };
        let collection = CollectionName::new("FAST DOCS").unwrap();
        let Opened { mut writer, .. } = CollectionWriter::open(output_dir, &collection, &plan).unwrap();
        for shard in &shards[..commits] {
            writer.commit(shard).unwrap();
        }
        if commits == shards.len() {
            writer.finish(CollectionTotals { files: 36, rows: 250, loading_errors: 50 }).unwrap();
        }
    }
}

#[track_caller]
fn check_schema(name: &str, documents: &[Value]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/schemas").join(name);
    let schema: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    assert!(!documents.is_empty());
    for document in documents {
        let errors: Vec<_> = validator.iter_errors(document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:#?} in {document}");
        // A schema that takes anything would be no schema.
        let mut other = document.clone();
        other.as_object_mut().unwrap().insert("unknown".to_owned(), Value::Null);
        assert!(!validator.is_valid(&other), "{name} takes unknown keys");
        for key in ["rows", "row"] {
            let mut other = document.clone();
            if let Some(value) = other.get_mut(key) {
                *value = json!(-1);
                assert!(!validator.is_valid(&other), "{name} takes a negative {key}");
            }
        }
    }
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn document(path: &Path) -> Vec<Value> {
    vec![serde_json::from_slice(&fs::read(path).unwrap()).unwrap()]
}

#[test]
fn real_outputs_are_what_the_schemas_say() {
    let root = tempfile::tempdir().unwrap();
    write(root.path());
    let collection = root.path().join("FAST DOCS");
    let rows = lines(&collection.join("complete/part-00002.jsonl"));
    let ledger = lines(&collection.join("chunks.jsonl"));
    assert_eq!((rows.len(), ledger.len()), (50, 250));
    check_schema("row.schema.json", &rows);
    check_schema("row.schema.json", &lines(&collection.join("all-kinds/part-00000.jsonl")));
    check_schema("row.schema.json", &lines(&collection.join("no-dense/part-00000.jsonl")));
    check_schema("manifest.schema.json", &document(&collection.join("all-kinds/manifest.json")));
    check_schema("manifest.schema.json", &document(&collection.join("no-dense/manifest.json")));
    check_schema("chunks.schema.json", &ledger);
    check_schema("chunks-manifest.schema.json", &document(&collection.join("chunks.manifest.json")));
    check_schema("manifest.schema.json", &document(&collection.join("complete/manifest.json")));
    check_schema("manifest.schema.json", &document(&collection.join("incomplete/manifest.json")));
}

/// Needs an interpreter with numpy and pyarrow, named by `PYTHON`:
/// `PYTHON=python3 cargo test --test cli outputs:: -- --ignored`.
#[test]
#[ignore = "needs python with numpy and pyarrow"]
fn other_readers_see_the_same_rows_in_every_format() {
    let root = tempfile::tempdir().unwrap();
    write(root.path());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/check_outputs.py");
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let check = || std::process::Command::new(&python).arg(&script).arg(root.path()).output().unwrap();
    let output = check();
    assert!(output.status.success(), "{output:?}");
    println!("{}", String::from_utf8_lossy(&output.stdout));

    // And it notices when one is not.
    for name in ["complete/part-00001.npy", "all-kinds/part-00000.multi.npy", "no-dense/part-00000.sparse.values.npy"] {
        let npy = root.path().join("FAST DOCS").join(name);
        let sound = fs::read(&npy).unwrap();
        let mut bytes = sound.clone();
        bytes[200] ^= 1;
        fs::write(&npy, bytes).unwrap();
        assert_eq!(check().status.code(), Some(1), "{name}");
        fs::write(&npy, sound).unwrap();
    }
}
