//! One text at a time, on one core and on all: what a model takes for it, called again and again.
//!
//! `cargo bench --bench single_text -- [DIRECTORY…] [TOKENS…]`: model directories, else a tiny one; lengths of the text.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and panics when it fails"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use embed_collections::domain::PackedBatch;
use embed_collections::encoder::{self, Encoder, HeadOptions};
use embed_collections::lease::{DeviceKey, Lease};
use embed_collections::model::Profile;
use embed_collections::model::spec::{ModelSpec, Prompt};
use embed_collections::model::weights::Weights;
use embed_collections::nn::{Cpu, Instructions};

const LENGTHS: [usize; 4] = [1, 10, 64, 512];

const WARM_UP_CALLS: usize = 4;

/// How long a figure may take.
const TIME: Duration = Duration::from_millis(500);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given: Vec<PathBuf> = arguments.iter().map(PathBuf::from).filter(|path| path.is_dir()).collect();
    let lengths: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let lengths = if lengths.is_empty() { &LENGTHS[..] } else { &lengths };
    let tiny = vec![PathBuf::from("tests/fixtures/models/bert-minilm")];
    println!("{:<20} {:>6} {:>6} {:>12} {:>12}", "model", "tokens", "cores", "least, ms", "mean, ms");
    for directory in if given.is_empty() { tiny } else { given } {
        model(&directory, lengths);
    }
}

fn model(directory: &Path, lengths: &[usize]) {
    let spec = ModelSpec::read(directory).unwrap();
    let weights = Weights::of(&spec, &[spec.default_kind]).unwrap();
    let lease = Lease::shared([DeviceKey::of_slot(0)]);
    let device = lease.devices().next().unwrap();
    let heads = HeadOptions { kinds: &[spec.default_kind], instructions: Instructions::default() };
    let mut encoder = encoder::load_on(&spec, &weights, heads, vec![(device, Cpu::new())]).unwrap().remove(0);
    let profile = Profile::new(&spec, Prompt::default());
    let cores = std::thread::available_parallelism().unwrap().get();
    let name = directory.file_name().unwrap().to_string_lossy();
    for &length in lengths.iter().filter(|&&length| length <= spec.max_length) {
        for cores in [1, cores] {
            let times = times(encoder.as_mut(), &profile, length, cores);
            let least = times.iter().copied().fold(f64::INFINITY, f64::min);
            let mean = times.iter().sum::<f64>() / times.len() as f64;
            let [least, mean] = [least, mean].map(|seconds| format!("{:.3}", seconds * 1e3));
            println!("{name:<20} {length:>6} {cores:>6} {least:>12} {mean:>12}");
        }
    }
}

/// Seconds of each call, after some that do not count.
fn times(encoder: &mut dyn Encoder, profile: &Profile, length: usize, cores: usize) -> Vec<f64> {
    let ids: Vec<u32> = (0..length).map(|place| u32::try_from(place % 90).unwrap() + 5).collect();
    let batch = PackedBatch::new([ids.as_slice()]);
    encoder.use_cores(cores);
    let mut time = || {
        let start = Instant::now();
        assert!(encoder.encode(&batch, profile).unwrap().values.iter().all(|value| value.is_finite()));
        start.elapsed().as_secs_f64()
    };
    (0..WARM_UP_CALLS).for_each(|_| _ = time());
    let start = Instant::now();
    std::iter::from_fn(|| (start.elapsed() < TIME).then(&mut time)).collect()
}
