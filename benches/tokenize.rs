//! Ways to tokenise: one tokenizer for all threads or one for each, text by text or in batches, with the library's places
//! of tokens in the text or without. `BENCH_CHUNKS` names other chunks than the tests', `BENCH_TOKENIZERS` other files
//! than a fixture's, separated by colons.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use embed_collections::collection::{Entry, Request, discover};
use embed_collections::domain::ChunkText;
use embed_collections::prepare::Tokenizer;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

const FIXTURE: &str = "tests/fixtures/models/bert-minilm/tokenizer.json";
/// As `all-MiniLM-L6-v2` has it.
const MAX_LENGTH: usize = 256;
const MOST_TEXTS: usize = 2000;

criterion_group!(benches, ways);
criterion_main!(benches);

fn texts() -> Vec<String> {
    let root = std::env::var("BENCH_CHUNKS").unwrap_or_else(|_| "tests/data/Chunked".to_owned());
    let found = discover(&Request { root: Path::new(&root), only: &[] }).expect("collections");
    let text = |entry| match entry {
        Entry::Chunk(chunk) => match chunk.text {
            ChunkText::Present(text) => Some(text),
            ChunkText::Unusable { .. } => None,
        },
        _ => None,
    };
    found
        .collections
        .into_iter()
        .flat_map(|collection| collection.read().filter_map(text).collect::<Vec<_>>())
        .take(MOST_TEXTS)
        .collect()
}

/// A byte-level BPE tokenizer, as Qwen and its like have it, trained on the texts themselves.
fn trained(texts: &[String], directory: &Path) -> PathBuf {
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::default()));
    let mut trainer = TrainerWrapper::from(BpeTrainer::builder().vocab_size(30_000).show_progress(false).build());
    tokenizer.train(&mut trainer, texts.iter()).expect("a vocabulary");
    let path = directory.join("bpe.json");
    tokenizer.save(&path, false).expect("a file");
    path
}

fn ways(criterion: &mut Criterion) {
    let (texts, directory) = (texts(), tempfile::tempdir().expect("a temporary directory"));
    let given = std::env::var("BENCH_TOKENIZERS").unwrap_or_else(|_| FIXTURE.to_owned());
    let mut paths: Vec<PathBuf> = given.split(':').map(PathBuf::from).collect();
    paths.push(trained(&texts, directory.path()));
    for path in paths {
        let kind = path.display().to_string();
        let mut group = criterion.benchmark_group(format!("tokenize {kind}"));
        group.throughput(Throughput::Elements(texts.len() as u64)).sample_size(10);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
        let library = tokenizers::Tokenizer::from_file(&path).expect("a tokenizer");
        let tokenizers = [0, 1].map(|_| Tokenizer::load(&path, MAX_LENGTH, String::new()).expect("a tokenizer"));
        let tokens = |tokenizer: &Tokenizer, texts: &[String]| {
            texts.iter().map(|text| tokenizer.encode(text).map_or(0, |tokens| tokens.ids.len())).sum::<usize>()
        };
        group.bench_function("ours, one thread", |bencher| bencher.iter(|| black_box(tokens(&tokenizers[0], &texts))));
        for (name, second) in [("shared", 0), ("one each", 1)] {
            group.bench_function(BenchmarkId::new("ours, two threads", name), |bencher| {
                bencher.iter(|| {
                    let (first_half, second_half) = texts.split_at(texts.len() / 2);
                    std::thread::scope(|scope| {
                        let other = scope.spawn(|| tokens(&tokenizers[second], second_half));
                        black_box(tokens(&tokenizers[0], first_half) + other.join().unwrap_or(0))
                    })
                });
            });
        }
        group.bench_function("library, encode", |bencher| {
            bencher.iter(|| {
                texts.iter().map(|text| library.encode(text.as_str(), true).map_or(0, |it| it.len())).sum::<usize>()
            });
        });
        group.bench_function("library, encode_fast", |bencher| {
            bencher.iter(|| {
                texts
                    .iter()
                    .map(|text| library.encode_fast(text.as_str(), true).map_or(0, |it| it.len()))
                    .sum::<usize>()
            });
        });
        group.bench_function("library, encode_batch_fast on all cores", |bencher| {
            let batch = || texts.iter().map(String::as_str).collect::<Vec<_>>();
            bencher.iter(|| library.encode_batch_fast(batch(), true).map_or(0, |all| all.len()));
        });
        group.finish();
    }
}
