//! The way of a chunk beside the model: reading, tokenising, and everything together with a model so small that the
//! rest shows. With the default model as well, where its files are on this machine.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use embed_collections::collection::{Entry, Request, discover};
use embed_collections::config::{Environment, Format, Resolved, Settings};
use embed_collections::domain::ChunkText;
use embed_collections::embedder::Embedder;
use embed_collections::pipeline::StopSwitch;
use embed_collections::prepare::Tokenizer;
use embed_collections::telemetry::event::Observers;
use tempfile::TempDir;

const CHUNKS: usize = 2000;
const TINY_MODEL: &str = "tests/fixtures/models/bert-minilm";

criterion_group!(benches, reading, tokenising, whole_run);
criterion_main!(benches);

/// One collection of chunks like those of documentation: 20 to 120 words.
fn input() -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let words = "a harbour of small boats turns slowly while the tide comes in over stones and weed".split(' ');
    let words: Vec<&str> = words.collect();
    let text = |number: usize| {
        let length = 20 + number * 37 % 100;
        (0..length).map(|place| words[(number + place * place) % words.len()]).collect::<Vec<_>>().join(" ")
    };
    let chunks: Vec<_> = (0..CHUNKS)
        .map(|number| serde_json::json!({"text": text(number), "metadata": {"chunk_id": format!("c{number}")}}))
        .collect();
    std::fs::create_dir(directory.path().join("bench")).expect("a directory");
    let json = serde_json::to_vec(&chunks).expect("plain data");
    std::fs::write(directory.path().join("bench/all_chunks.json"), json).expect("a file");
    directory
}

fn texts(root: &Path) -> Vec<String> {
    let collection = discover(&Request { root, only: &[] }).expect("one collection").collections.remove(0);
    let text = |entry| match entry {
        Entry::Chunk(chunk) => match chunk.text {
            ChunkText::Present(text) => Some(text),
            ChunkText::Unusable { .. } => None,
        },
        _ => None,
    };
    collection.read().filter_map(text).collect()
}

fn reading(criterion: &mut Criterion) {
    let input = input();
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Elements(CHUNKS as u64));
    group.bench_function("json", |bencher| bencher.iter(|| black_box(texts(input.path())).len()));
    group.finish();
}

fn tokenising(criterion: &mut Criterion) {
    let input = input();
    let texts = texts(input.path());
    let tokenizer = Tokenizer::load(&Path::new(TINY_MODEL).join("tokenizer.json"), 256, String::new());
    let tokenizer = tokenizer.expect("the fixture's tokenizer");
    let mut group = criterion.benchmark_group("tokenize");
    group.throughput(Throughput::Elements(CHUNKS as u64));
    let encode = || texts.iter().map(|text| tokenizer.encode(text).map_or(0, |tokens| tokens.ids.len())).sum::<usize>();
    group.bench_function("one thread", |bencher| bencher.iter(|| black_box(encode())));
    group.finish();
}

fn whole_run(criterion: &mut Criterion) {
    let input = input();
    let mut group = criterion.benchmark_group("run");
    group.throughput(Throughput::Elements(CHUNKS as u64)).sample_size(10).measurement_time(Duration::from_secs(20));
    for (name, model) in [("tiny", Some(PathBuf::from(TINY_MODEL))), ("default", default_model())] {
        let Some(model) = model else { continue };
        for format in [Format::Jsonl, Format::Parquet, Format::Npy] {
            let output = tempfile::tempdir().expect("a temporary directory");
            let settings = Settings {
                chunked_dir: input.path().to_owned(),
                output_dir: output.path().to_owned(),
                model: model.to_string_lossy().into_owned(),
                format: vec![format],
                overwrite: true,
                resume: false,
                offline: true,
                force_cpu: true,
                ..Settings::default()
            };
            let resolved = Resolved::of_program(settings, &Environment::default()).expect("sound settings");
            let embedder = Embedder::new(resolved).expect("a processor");
            let run = || embedder.run(&StopSwitch::default(), &Observers::default()).expect("a run").exit_code;
            group.bench_function(format!("{name} {format:?}"), |bencher| bencher.iter(|| black_box(run())));
        }
    }
    group.finish();
}

/// The directory in which the default model was unpacked by an earlier run, if there was one.
fn default_model() -> Option<PathBuf> {
    let cache = Environment::of_process().places().cache.join("embed-collections");
    walkdir::WalkDir::new(cache)
        .into_iter()
        .filter_map(Result::ok)
        .find(|entry| entry.file_name() == "modules.json")
        .and_then(|entry| Some(entry.path().parent()?.to_owned()))
}
