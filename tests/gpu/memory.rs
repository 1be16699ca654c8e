//! What becomes of a GPU's memory: it runs out, is usable again, and is given back. Only where `EMBED_TEST_GPU` names the
//! UUID of one that nobody else uses; `tests/gpu/check.sh` does.

use embed_collections::domain::{FailureKind, PackedBatch};
use embed_collections::model::pooling::Pooling;
use embed_collections::nn::{Backend, Candle, Gpu, Matrix, Numbers};

/// 1 GiB in f32.
const COLUMNS: usize = 1 << 14;

fn matrix(rows: usize) -> Matrix {
    Matrix { rows, columns: COLUMNS, values: vec![0.5; rows * COLUMNS] }
}

#[test]
fn memory_that_ran_out_can_be_used_again_and_is_given_back() {
    let Ok(uuid) = std::env::var("EMBED_TEST_GPU") else {
        println!("not checked: EMBED_TEST_GPU names no GPU");
        return;
    };
    let gpu = Gpu::cuda(&uuid).unwrap();
    let backend = Candle::on(&gpu, Numbers::F32).unwrap();
    let before = gpu.pool().unwrap();
    let mut tables = Vec::new();
    let error = loop {
        match backend.embedding(matrix(COLUMNS)) {
            Ok(table) => tables.push(table),
            Err(error) => break error,
        }
        assert!(tables.len() < 1024, "a terabyte was given out");
    };
    assert!(error.kind() == FailureKind::OutOfMemory, "{error}");
    println!("out of memory after {} GiB", tables.len());
    let peak = backend.take_peak().unwrap();
    assert!(peak >> 30 >= tables.len() as u64, "a peak of {peak} bytes");
    drop(tables);
    backend.settle().unwrap();
    // A peak begins at what is in use when the one before is asked for, and then all the tables were.
    backend.take_peak().unwrap();
    let table = backend.embedding(matrix(2)).unwrap();
    let peak = backend.take_peak().unwrap();
    assert!(peak < 1 << 30, "a peak of {peak} bytes is that of another time");
    let hidden = backend.embed(&[(&table, &[0, 1])]).unwrap();
    let pooled = backend.pool(&[Pooling::Mean], 0, &hidden, &PackedBatch::new([&[0, 1][..]])).unwrap().get().unwrap();
    assert!(pooled.iter().all(|component| (component - 0.5).abs() < 1e-6));
    drop((table, hidden));
    backend.settle().unwrap();
    let after = gpu.pool().unwrap();
    // The pool takes memory in pieces of 32 MiB.
    assert!(after.used <= before.used && after.reserved <= before.reserved + (32 << 20), "{before:?} {after:?}");
}
