//! Weights: tensors by name, from memory-mapped safetensors or files of `PyTorch`.
//!
//! Mapped, so that a model is read once and by whoever needs it; checked when opened, so that a broken file is one
//! clear error and not a strange vector. A checkpoint may put a prefix before all names; it is looked for here alone.

mod blocks;
mod digest;
mod error;
mod legacy;
mod of_model;
mod pickle;
mod pytorch;
#[cfg(test)]
mod tests;
mod view;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::TensorView as RawView;
use safetensors::{Dtype, SafeTensors};

use self::blocks::{Block, Found};
pub use self::digest::{TensorDigest, TensorDigests};
pub use self::error::{PyTorchError, WeightError};
pub use self::pickle::PickleError;
use self::view::View;
use super::pointer;
use crate::domain::VectorKind;

/// What checkpoints put before the names of a transformer's tensors.
pub(super) const PREFIXES: [&str; 16] = [
    "",
    "bert.",
    "roberta.",
    "distilbert.",
    "mpnet.",
    "electra.",
    "albert.",
    "deberta.",
    "new.",
    "gte.",
    "nomic_bert.",
    "model.",
    "transformer.",
    "auto_model.",
    "0.auto_model.",
    "module.",
];

/// The tensors of a model, in one file or several.
pub struct Weights {
    files: Vec<MappedFile>,
    /// Those of layers that have files of their own, with the kind of vectors that they lead to, in their order.
    heads: Vec<(VectorKind, Weights)>,
    /// Name to (file, place among the file's tensors).
    places: HashMap<String, Place>,
}

/// One tensor, as it is stored.
#[derive(Debug, Clone)]
pub struct TensorView<'weights> {
    /// The name in the file, prefix included.
    pub name: String,
    /// The file.
    pub path: &'weights Path,
    /// Lengths of the axes, outermost first.
    pub shape: Vec<usize>,
    /// Kind of the numbers.
    pub dtype: Dtype,
    /// The numbers, little-endian, row after row.
    pub bytes: Cow<'weights, [u8]>,
}

/// What a file says of a tensor, without its numbers.
#[derive(Debug, Clone)]
pub struct StoredTensor<'weights> {
    /// The name in the file, prefix included.
    pub name: String,
    /// The file.
    pub path: &'weights Path,
    /// Lengths of the axes, outermost first.
    pub shape: Vec<usize>,
    /// Kind of the numbers.
    pub dtype: Dtype,
}

impl Weights {
    /// Maps the files and reads their headers.
    ///
    /// # Errors
    /// When a file cannot be opened, is not whole, or repeats a tensor of another.
    pub fn open(paths: &[PathBuf]) -> Result<Self, WeightError> {
        let mut files: Vec<MappedFile> = Vec::with_capacity(paths.len());
        let mut places: HashMap<String, Place> = HashMap::new();
        for path in paths {
            let mut file = MappedFile::open(path)?;
            for (name, place) in file.read(files.len())? {
                if let Some(earlier) = places.insert(name.clone(), place) {
                    let first = files.get(earlier.file).map_or(path, |file| &file.path).clone();
                    return Err(WeightError::Duplicate { tensor: name, first, second: path.clone() });
                }
            }
            files.push(file);
        }
        Ok(Self { files, heads: Vec::new(), places })
    }

    /// The weights of the layers that have files of their own and lead to a kind of vectors, in their order.
    pub fn head(&self, kind: VectorKind) -> impl Iterator<Item = &Weights> {
        self.heads.iter().filter(move |(of, _)| *of == kind).map(|(_, weights)| weights)
    }

    fn of_heads(&self) -> impl Iterator<Item = &Weights> {
        self.heads.iter().map(|(_, weights)| weights)
    }

    /// The tensor of this name, with or without one of the known prefixes.
    ///
    /// # Errors
    /// When there is none, or more than one, or the file says that its numbers are damaged.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, WeightError> {
        let mut found = PREFIXES.iter().filter_map(|prefix| self.places.get_key_value(&format!("{prefix}{name}")));
        let Some((full_name, place)) = found.next() else {
            let paths = self.files.iter().map(|file| file.path.clone()).collect();
            return Err(WeightError::Absent { tensor: name.to_owned(), paths });
        };
        let others: Vec<&String> = found.map(|(name, _)| name).collect();
        if !others.is_empty() {
            let names = [full_name].into_iter().chain(others).cloned().collect();
            return Err(WeightError::Ambiguous { tensor: name.to_owned(), names });
        }
        self.view(full_name, place)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        PREFIXES.iter().any(|prefix| self.places.contains_key(&format!("{prefix}{name}")))
    }

    /// Names as they are stored, prefixes included, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// All files, in the order of [`Weights::digests`].
    pub fn paths(&self) -> Vec<&Path> {
        let own = self.files.iter().map(|file| file.path.as_path());
        own.chain(self.of_heads().flat_map(Self::paths)).collect()
    }

    /// Every tensor as it is stored, in the order of files and names, those of heads last.
    ///
    /// # Errors
    /// When a file says that the numbers of one are damaged.
    pub fn tensors(&self) -> Result<Vec<StoredTensor<'_>>, WeightError> {
        let mut own: Vec<(&String, &Place)> = self.places.iter().collect();
        own.sort_unstable_by_key(|(name, place)| (place.file, *name));
        let stored = |(name, place): (&'_ String, &'_ Place)| {
            self.check(name, place)?;
            let path = self.files[place.file].path.as_path();
            Ok(StoredTensor { name: name.clone(), path, shape: place.shape.clone(), dtype: place.dtype })
        };
        let mut tensors = own.into_iter().map(stored).collect::<Result<Vec<_>, _>>()?;
        for weights in self.of_heads() {
            tensors.extend(weights.tensors()?);
        }
        Ok(tensors)
    }

    /// Bytes of all files, those of heads included.
    pub fn bytes(&self) -> u64 {
        let own: u64 = self.files.iter().map(|file| file.map.len() as u64).sum();
        own + self.of_heads().map(Self::bytes).sum::<u64>()
    }

    /// How many numbers all tensors have together.
    pub fn numbers(&self) -> u64 {
        let numbers = |place: &Place| place.shape.iter().map(|&length| length as u64).product::<u64>();
        let own: u64 = self.places.values().map(numbers).sum();
        own + self.of_heads().map(Self::numbers).sum::<u64>()
    }

    fn check(&self, name: &str, place: &Place) -> Result<(), WeightError> {
        let file = &self.files[place.file];
        if place.block.is_some_and(|block| !file.blocks[block].is_whole(&file.map)) {
            return Err(WeightError::Damaged { tensor: name.to_owned(), path: file.path.clone() });
        }
        Ok(())
    }

    fn view(&self, name: &str, place: &Place) -> Result<TensorView<'_>, WeightError> {
        self.check(name, place)?;
        let Place { dtype, ref shape, ref view, .. } = *place;
        let file = &self.files[place.file];
        let bytes = &file.map[place.start..place.end];
        let bytes = match view {
            Some(view) => Cow::Owned(view.gather(shape, dtype, bytes)),
            None => Cow::Borrowed(bytes),
        };
        Ok(TensorView { name: name.to_owned(), path: &file.path, shape: shape.clone(), dtype, bytes })
    }
}

impl TensorView<'_> {
    /// Checks the shape.
    ///
    /// # Errors
    /// When it is another.
    pub fn expect_shape(self, expected: &[usize]) -> Result<Self, WeightError> {
        if self.shape == expected {
            Ok(self)
        } else {
            let (path, expected) = (self.path.to_owned(), expected.to_vec());
            Err(WeightError::Shape { tensor: self.name, path, found: self.shape, expected })
        }
    }

    /// The numbers as f32; exact for f16 and bf16, which are subsets, and rounded for f64.
    ///
    /// # Errors
    /// When they are of any other kind.
    #[expect(clippy::cast_possible_truncation, reason = "rounding is what is said above")]
    pub fn to_f32(&self) -> Result<Vec<f32>, WeightError> {
        let (pairs, quads) = (self.bytes.as_chunks::<2>().0, self.bytes.as_chunks::<4>().0);
        match self.dtype {
            Dtype::F32 => Ok(quads.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
            Dtype::F16 => Ok(pairs.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()),
            Dtype::BF16 => Ok(pairs.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()),
            Dtype::F64 => Ok(self.octets().iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect()),
            _ => Err(self.unsupported("f32, f16, bf16 and f64")),
        }
    }

    /// The numbers as whole ones.
    ///
    /// # Errors
    /// When they are of any other kind.
    pub fn to_i64(&self) -> Result<Vec<i64>, WeightError> {
        match self.dtype {
            Dtype::I64 => Ok(self.octets().iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()),
            Dtype::I32 => {
                Ok(self.bytes.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect())
            }
            _ => Err(self.unsupported("i64 and i32")),
        }
    }

    fn octets(&self) -> &[[u8; 8]] {
        self.bytes.as_chunks().0
    }

    fn unsupported(&self, supported: &'static str) -> WeightError {
        let (tensor, path) = (self.name.clone(), self.path.to_owned());
        WeightError::Dtype { tensor, path, dtype: self.dtype, supported }
    }
}

struct MappedFile {
    path: PathBuf,
    map: Mmap,
    /// Those of a file of `PyTorch`.
    blocks: Vec<Block>,
}

impl MappedFile {
    fn open(path: &Path) -> Result<Self, WeightError> {
        let open_error = |source| WeightError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(open_error)?;
        // SAFETY: the map is read-only and private to this struct. The bytes change under it only if somebody
        // rewrites the file in place; every program known to write these files, this one included, writes a new file
        // and renames it, which leaves the mapped one as it is.
        let map = unsafe { Mmap::map(&file) }.map_err(open_error)?;
        Ok(Self { path: path.to_owned(), map, blocks: Vec::new() })
    }

    /// The tensors of the file, which is the one of this number.
    fn read(&mut self, file: usize) -> Result<Vec<(String, Place)>, WeightError> {
        if pointer::is_one(&self.map) {
            return Err(WeightError::Pointer { path: self.path.clone() });
        }
        if self.path.extension().is_some_and(|extension| extension == "bin" || extension == "pt") {
            let found = pytorch::find(&self.map);
            let (tensors, blocks) = found.map_err(|source| WeightError::PyTorch { path: self.path.clone(), source })?;
            self.blocks = blocks;
            let place = |tensor: Found| {
                let Found { name, dtype, shape, bytes, view, block } = tensor;
                (name, Place { file, dtype, shape, start: bytes.start, end: bytes.end, view, block: Some(block) })
            };
            return Ok(tensors.into_iter().map(place).collect());
        }
        let tensors = SafeTensors::deserialize(&self.map)
            .map_err(|source| WeightError::Corrupt { path: self.path.clone(), source })?;
        Ok(tensors.iter().map(|(name, tensor)| (name.to_owned(), Place::of(file, &tensor, &self.map))).collect())
    }
}

/// Where a tensor lies.
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    end: usize,
    /// How the numbers lie there, where that is not row after row.
    view: Option<View>,
    /// The block of a file of `PyTorch` that it is in.
    block: Option<usize>,
}

impl Place {
    fn of(file: usize, tensor: &RawView<'_>, map: &Mmap) -> Self {
        let start = tensor.data().as_ptr().addr() - map.as_ptr().addr();
        let end = start + tensor.data().len();
        Self { file, dtype: tensor.dtype(), shape: tensor.shape().to_vec(), start, end, view: None, block: None }
    }
}
