//! The default model over `tests/data/Chunked` against sentence-transformers on the same texts.
//!
//! `tests/fixtures/reference/all-MiniLM-L6-v2` was made with
//!
//! ```text
//! python3 tests/scripts/make_reference_vectors.py --chunked-dir tests/data/Chunked --model MODEL_DIR \
//!     --output tests/fixtures/reference/all-MiniLM-L6-v2
//! ```
//!
//! The model is found as any user's is: in the cache, on the hub, or as a package.

use std::fs;
use std::path::Path;

use crate::program::{Npy, Program, read_rows};

/// Largest difference of a component, and least cosine. Single precision in another order of operations stays far
/// below; an approximate GELU, a wrong epsilon or another pooling does not.
const TOLERANCE: f32 = 1e-5;
const LEAST_COSINE: f64 = 0.99999;

#[track_caller]
fn check(settings: &[&str]) {
    let output = tempfile::tempdir().unwrap();
    Program::new(output.path()).arguments(settings).succeed();
    let (mut rows, mut worst) = (0, 0.0_f32);
    for name in ["field-guide", "polyglot", "qa-corpus", "tidepool"] {
        let reference = Path::new("tests/fixtures/reference/all-MiniLM-L6-v2");
        let ids: Vec<String> =
            serde_json::from_slice(&fs::read(reference.join(format!("{name}.ids.json"))).unwrap()).unwrap();
        let vectors = Npy::read(&reference.join(format!("{name}.npy")));
        let written = read_rows(&output.path().join(name).join("all-MiniLM-L6-v2"));
        assert_eq!(written.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ids, "{name}");
        for (row, expected) in written.iter().zip(vectors.rows()) {
            match &row.vector {
                None => assert!(expected.iter().all(|x| x.is_nan()), "{name} {}: no vector", row.id),
                Some(vector) => {
                    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>();
                    let cosine = dot(vector, expected) / (dot(vector, vector) * dot(expected, expected)).sqrt();
                    let difference = vector.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(
                        cosine >= LEAST_COSINE && difference < TOLERANCE,
                        "{name} {}: cosine {cosine}, largest difference {difference:e}",
                        row.id
                    );
                    (rows, worst) = (rows + 1, worst.max(difference));
                }
            }
        }
    }
    assert!(rows > 50, "only {rows} rows were compared");
    println!("{settings:?}: {rows} vectors, largest difference {worst:.1e}");
}

#[test]
fn the_default_model_gives_the_reference_vectors() {
    check(&[]);
}

#[test]
fn shards_threads_and_batches_do_not_change_the_vectors() {
    check(&["--shard-rows", "7", "--threads", "1", "--batch-tokens", "300"]);
    check(&["--shard-rows", "1", "--threads", "3", "--batch-size", "1"]);
}
