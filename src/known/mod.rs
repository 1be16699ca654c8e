//! Vectors that were computed before, found by the text that they are of.
//!
//! They come from outputs that an incremental run has set aside and from a directory that runs share (`--cache-dir`), all
//! of one vector space: equal texts have equal vectors there, down to the last bit on one kind of processor, since no
//! vector depends on its batch. An index in memory leads from a text's digest to a stored shard and a row; shards are
//! read, and held against their digests, when one of their rows is wanted.

mod decoded;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rayon::prelude::*;

use self::decoded::Decoded;
use crate::domain::{ChunkId, Digest, MultiVectors, Row, RowStatus, Shard, SparseVector, VectorKind, Widths};
use crate::output::{
    CommittedShard, Manifest, ReadError, SegmentError, StorageError, StoredShard, read_segment, read_shard, segments,
    write_segment,
};

/// Most bytes of stored shards that are kept decoded, so that inputs in nearly the order of before read each shard once.
const DECODED_BYTES: usize = 256 << 20;

/// Vectors of one vector space that are there already.
pub struct Known {
    vector_space: String,
    widths: Widths,
    /// By the first half of a text's digest; 24 bytes and the table's room for each.
    index: RwLock<HashMap<u128, Place>>,
    sources: RwLock<Vec<Source>>,
    decoded: Mutex<Decoded>,
    cache: Option<Cache>,
}

/// A row of a source.
#[derive(Debug, Clone, Copy)]
struct Place {
    source: u32,
    row: u32,
}

/// Where rows are stored.
#[derive(Debug, Clone)]
enum Source {
    /// A shard of an output.
    Output { directory: PathBuf, shard: Arc<CommittedShard> },
    /// A file of the cache.
    Segment { path: PathBuf },
}

/// A directory for the vectors of one space, to be added to.
struct Cache {
    directory: PathBuf,
    /// Tells the files in progress of this run from those of others.
    run: String,
    written: AtomicU64,
}

/// What is known of one text.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownRow {
    /// What became of it: embedded whole, or without its end.
    pub status: RowStatus,
    /// Tokens that the model saw.
    pub tokens: u32,
    /// `[dimension]`; empty without dense vectors.
    pub dense: Vec<f32>,
    /// Weights of tokens, if the space has them.
    pub sparse: Option<SparseVector>,
    /// [vectors, dimension of the multi vectors], if the space has them.
    pub multi: Option<Vec<f32>>,
}

impl KnownRow {
    /// Whether it is what would become of a text with this status and so many tokens.
    pub fn goes_with(&self, status: RowStatus, tokens: usize) -> bool {
        self.status == status && self.tokens as usize == tokens
    }
}

/// Something that was to be a source of vectors, and is none.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be read; the texts that it is of are embedded again.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The directory cannot be listed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// It does not say what its vectors are of.
    #[error("{} is npy alone, which does not tell of which texts its vectors are; they are embedded again", directory.display())]
    WithoutTexts {
        /// The model's directory.
        directory: PathBuf,
    },
    /// It lacks a kind of vectors, or they have another width.
    #[error("{} has other vectors than are wanted ({wanted}); its texts are embedded again", path.display())]
    OtherVectors {
        /// The directory or file.
        path: PathBuf,
        /// The kinds that are wanted.
        wanted: Widths,
    },
}

impl Known {
    /// Nothing yet.
    pub fn new(vector_space: &str, widths: Widths) -> Self {
        Self {
            vector_space: vector_space.to_owned(),
            widths,
            index: RwLock::default(),
            sources: RwLock::default(),
            decoded: Mutex::new(Decoded::new(DECODED_BYTES)),
            cache: None,
        }
    }

    /// How many texts have a vector here.
    pub fn texts(&self) -> usize {
        self.index.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Adds the committed rows of an output of this vector space; what of it is unusable.
    pub fn add_output(&self, directory: &Path, manifest: &Manifest) -> Vec<Unusable> {
        let source =
            |shard: &CommittedShard| Source::Output { directory: directory.to_owned(), shard: Arc::new(shard.clone()) };
        self.add(&manifest.shards.iter().map(source).collect::<Vec<_>>())
    }

    /// Adds what a cache has for this vector space; from then on [`Known::learn`] adds to it. `run` is a name that no
    /// other run has at the same time.
    pub fn add_cache(&mut self, root: &Path, run: &str) -> Vec<Unusable> {
        let directory = root.join(&self.vector_space);
        let listed = segments(&directory);
        self.cache = Some(Cache { directory, run: one_component(run), written: AtomicU64::new(0) });
        match listed {
            Ok(paths) => self.add(&paths.into_iter().map(|path| Source::Segment { path }).collect::<Vec<_>>()),
            Err(error) => vec![error.into()],
        }
    }

    /// What is known of a text. What cannot be read any more is not known.
    pub fn get(&self, text: &Digest) -> Option<KnownRow> {
        let place = *self.index.read().unwrap_or_else(PoisonError::into_inner).get(&key(text))?;
        let shard = self.decoded(place.source as usize)?;
        let row = place.row as usize;
        let state = shard.states.as_ref()?.get(row)?;
        if state.text_sha256 != Some(*text) {
            return None;
        }
        Some(KnownRow {
            status: state.status,
            tokens: state.tokens,
            dense: self
                .widths
                .dense
                .map_or_else(Vec::new, |width| shard.vectors[row * width..(row + 1) * width].to_vec()),
            sparse: self.widths.sparse.and(shard.sparse.as_ref()).map(|rows| rows[row].clone()),
            multi: self.widths.multi.and(shard.multi.as_ref()).map(|multi| multi.texts[row].clone()),
        })
    }

    /// Writes the vectors of a shard whose texts are not known into the cache, if there is one.
    ///
    /// # Errors
    /// When the cache cannot be written, which harms nothing but later runs.
    pub fn learn(&self, shard: &Shard) -> Result<(), SegmentError> {
        let Some(cache) = &self.cache else { return Ok(()) };
        let rows = self.unknown(shard);
        if rows.records.is_empty() {
            return Ok(());
        }
        let number = cache.written.fetch_add(1, Ordering::Relaxed);
        let path = write_segment(&cache.directory, &format!("{}-{number}", cache.run), &self.vector_space, &rows)?;
        let keys = rows.records.iter().map(|record| record.text_sha256.as_ref().map(key));
        self.index_rows(Source::Segment { path }, keys);
        Ok(())
    }

    /// The rows of a shard that are worth learning, each text once.
    fn unknown(&self, shard: &Shard) -> Shard {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut seen = std::collections::HashSet::new();
        let mut rows = Shard {
            number: 0,
            first_row: Row(0),
            dimension: shard.dimension,
            records: Vec::new(),
            vectors: Vec::new(),
            sparse: shard.sparse.as_ref().map(|_| Vec::new()),
            multi: shard.multi.as_ref().map(|multi| MultiVectors { dimension: multi.dimension, texts: Vec::new() }),
        };
        for (_, record, vectors) in shard.rows() {
            let (Some(vectors), Some(text)) = (vectors, record.text_sha256) else { continue };
            if index.contains_key(&key(&text)) || !seen.insert(key(&text)) {
                continue;
            }
            // A text alone: where it was met is nobody's business, and would make equal files differ.
            rows.records.push(crate::domain::RowRecord {
                id: ChunkId::new(text.to_string()),
                metadata: None,
                extra: None,
                ..record.clone()
            });
            rows.vectors.extend_from_slice(vectors.dense.unwrap_or_default());
            if let (Some(rows), Some(vector)) = (&mut rows.sparse, vectors.sparse) {
                rows.push(vector.clone());
            }
            if let (Some(rows), Some(vectors)) = (&mut rows.multi, vectors.multi) {
                rows.texts.push(vectors.to_vec());
            }
        }
        rows
    }

    /// Reads the sources, several at a time, and indexes what can be used; the first source of a text counts.
    fn add(&self, sources: &[Source]) -> Vec<Unusable> {
        let read = |source: &Source| -> Result<Vec<Option<u128>>, Unusable> {
            let shard = self.read(source)?;
            self.keys(source, &shard)
        };
        let mut unusable = Vec::new();
        // A few at a time, or all would be in memory at once.
        for sources in sources.chunks(rayon::current_num_threads().max(1)) {
            let keys: Vec<_> = sources.par_iter().map(read).collect();
            for (source, keys) in sources.iter().zip(keys) {
                match keys {
                    Ok(keys) => self.index_rows(source.clone(), keys.into_iter()),
                    Err(error) => unusable.push(error),
                }
            }
        }
        unusable
    }

    /// The text of each row, where the row has a vector.
    fn keys(&self, source: &Source, shard: &StoredShard) -> Result<Vec<Option<u128>>, Unusable> {
        let Some(states) = &shard.states else {
            return Err(Unusable::WithoutTexts { directory: source.path().to_owned() });
        };
        let keys: Vec<Option<u128>> = states
            .iter()
            .map(|state| state.text_sha256.filter(|_| state.status.has_vector()).as_ref().map(key))
            .collect();
        let has = |kind| match kind {
            VectorKind::Dense => Some(shard.dimension).filter(|dimension| *dimension > 0),
            // The size of the vocabulary is part of the vector space.
            VectorKind::Sparse => shard.sparse.as_ref().and(self.widths.sparse),
            VectorKind::Multi => shard.multi.as_ref().map(|multi| multi.dimension),
        };
        let fits = self.widths.kinds().all(|kind| has(kind) == self.widths.of(kind));
        // Without any vector, formats may not tell of their width.
        if fits || keys.iter().all(Option::is_none) {
            Ok(keys)
        } else {
            Err(Unusable::OtherVectors { path: source.path().to_owned(), wanted: self.widths })
        }
    }

    fn index_rows(&self, source: Source, keys: impl Iterator<Item = Option<u128>>) {
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        let Ok(number) = u32::try_from(sources.len()) else { return };
        sources.push(source);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        for (row, key) in (0..).zip(keys) {
            if let Some(key) = key {
                index.entry(key).or_insert(Place { source: number, row });
            }
        }
    }

    fn decoded(&self, source: usize) -> Option<Arc<StoredShard>> {
        let lock = || self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shard) = lock().get(source) {
            return Some(shard);
        }
        let stored = self.sources.read().unwrap_or_else(PoisonError::into_inner).get(source)?.clone();
        let shard = Arc::new(self.read(&stored).ok()?);
        lock().put(source, Arc::clone(&shard));
        Some(shard)
    }

    fn read(&self, source: &Source) -> Result<StoredShard, ReadError> {
        match source {
            Source::Output { directory, shard } => read_shard(directory, shard),
            Source::Segment { path } => read_segment(path, &self.vector_space),
        }
    }
}

impl Source {
    /// The directory or file to name when it is of no use.
    fn path(&self) -> &Path {
        match self {
            Self::Output { directory, .. } => directory,
            Self::Segment { path } => path,
        }
    }
}

/// The name of a run as part of a file's name, which must not lead to another directory.
fn one_component(run: &str) -> String {
    run.replace(|character: char| !character.is_alphanumeric() && !"-_.".contains(character), "_")
}

/// The first half of a digest: whoever finds two texts with the same one has also to get past the whole digest.
fn key(text: &Digest) -> u128 {
    let [first, _] = *text.as_bytes().as_chunks::<16>().0 else { unreachable!("a digest has 32 bytes") };
    u128::from_le_bytes(first)
}
