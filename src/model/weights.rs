//! Weights: tensors by name, from memory-mapped safetensors.
//!
//! Mapped, so that a model is read once and by whoever needs it; checked when opened, so that a broken file is one
//! clear error and not a strange vector. A checkpoint may put a prefix before all names; it is looked for here alone.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::TensorView as RawView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::domain::Digest;

/// What checkpoints put before the names of a transformer's tensors, tried in this order.
const PREFIXES: [&str; 4] = ["", "bert.", "0.auto_model.", "model."];

/// The tensors of a model, in one file or several.
pub struct Weights {
    files: Vec<MappedFile>,
    /// Name to (file, place among the file's tensors).
    places: HashMap<String, Place>,
}

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// A file cannot be opened or mapped.
    #[error("cannot open the weights {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file is not safetensors, or not all of it is there.
    #[error("{} is not a whole safetensors file; delete it and fetch it again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        #[source]
        source: SafeTensorError,
    },
    /// Two files have a tensor of one name.
    #[error("the tensor {tensor} is in {} and in {}", first.display(), second.display())]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// No file has the tensor, under any of the known prefixes.
    #[error("there is no tensor {tensor} in {}", list(paths))]
    Absent {
        /// The tensor, without prefix.
        tensor: String,
        /// The files that were searched.
        paths: Vec<PathBuf>,
    },
    /// The tensor is not of the expected shape.
    #[error("the tensor {tensor} in {} has shape {found:?}, but {expected:?} is expected", path.display())]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its file.
        path: PathBuf,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// The tensor's numbers are of a kind that is not read.
    #[error("the tensor {tensor} in {} holds {dtype}; only f32, f16 and bf16 are supported", path.display())]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its file.
        path: PathBuf,
        /// Its numbers.
        dtype: Dtype,
    },
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
    pub bytes: &'weights [u8],
}

impl Weights {
    /// Maps the files and reads their headers.
    ///
    /// # Errors
    /// When a file cannot be opened, is not whole, or repeats a tensor of another.
    pub fn open(paths: &[PathBuf]) -> Result<Self, WeightError> {
        let files = paths.iter().map(|path| MappedFile::open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut places = HashMap::new();
        for (number, file) in files.iter().enumerate() {
            let tensors = SafeTensors::deserialize(&file.map).map_err(|source| file.corrupt(source))?;
            for (name, tensor) in tensors.iter() {
                let place = Place::of(number, &tensor, &file.map);
                if let Some(earlier) = places.insert(name.to_owned(), place) {
                    let first = files[earlier.file].path.clone();
                    return Err(WeightError::Duplicate { tensor: name.to_owned(), first, second: file.path.clone() });
                }
            }
        }
        Ok(Self { files, places })
    }

    /// The tensor of this name, with or without one of the known prefixes.
    ///
    /// # Errors
    /// When there is none.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, WeightError> {
        let found = PREFIXES.iter().find_map(|prefix| self.places.get_key_value(&format!("{prefix}{name}")));
        let Some((full_name, place)) = found else {
            let paths = self.files.iter().map(|file| file.path.clone()).collect();
            return Err(WeightError::Absent { tensor: name.to_owned(), paths });
        };
        let file = &self.files[place.file];
        Ok(TensorView {
            name: full_name.clone(),
            path: &file.path,
            shape: place.shape.clone(),
            dtype: place.dtype,
            bytes: &file.map[place.start..place.end],
        })
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        PREFIXES.iter().any(|prefix| self.places.contains_key(&format!("{prefix}{name}")))
    }

    /// Names as they are stored, prefixes included, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.map.len() as u64).sum()
    }

    /// How many numbers all tensors have together.
    pub fn numbers(&self) -> u64 {
        self.places.values().map(|place| place.shape.iter().map(|&length| length as u64).product::<u64>()).sum()
    }

    /// SHA-256 of every file, in the order in which they were given. Reads all of them; on several threads.
    pub fn digests(&self) -> Vec<Digest> {
        self.files.par_iter().map(|file| Digest::of(&file.map)).collect()
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

    /// The numbers as f32; exact, since f16 and bf16 are subsets.
    ///
    /// # Errors
    /// When they are of any other kind.
    pub fn to_f32(&self) -> Result<Vec<f32>, WeightError> {
        let (pairs, quads) = (self.bytes.as_chunks::<2>().0, self.bytes.as_chunks::<4>().0);
        match self.dtype {
            Dtype::F32 => Ok(quads.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
            Dtype::F16 => Ok(pairs.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()),
            Dtype::BF16 => Ok(pairs.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()),
            dtype => {
                let (tensor, path) = (self.name.clone(), self.path.to_owned());
                Err(WeightError::Dtype { tensor, path, dtype })
            }
        }
    }
}

struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    fn open(path: &Path) -> Result<Self, WeightError> {
        let open_error = |source| WeightError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(open_error)?;
        // SAFETY: the map is read-only and private to this struct. The bytes change under it only if somebody
        // rewrites the file in place; every program known to write these files, this one included, writes a new file
        // and renames it, which leaves the mapped one as it is.
        let map = unsafe { Mmap::map(&file) }.map_err(open_error)?;
        Ok(Self { path: path.to_owned(), map })
    }

    fn corrupt(&self, source: SafeTensorError) -> WeightError {
        WeightError::Corrupt { path: self.path.clone(), source }
    }
}

/// Where a tensor lies.
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

impl Place {
    fn of(file: usize, tensor: &RawView<'_>, map: &Mmap) -> Self {
        let start = tensor.data().as_ptr().addr() - map.as_ptr().addr();
        Self { file, dtype: tensor.dtype(), shape: tensor.shape().to_vec(), start, end: start + tensor.data().len() }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use safetensors::serialize;

    use super::*;

    /// Writes a file with the given tensors.
    fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> PathBuf {
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (*name, RawView::new(*dtype, shape.to_vec(), bytes).unwrap()));
        std::fs::write(path, serialize(views, None).unwrap()).unwrap();
        path.to_owned()
    }

    fn f32_bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[track_caller]
    fn check_f32(weights: &Weights, name: &str, shape: &[usize], expected: &[f32]) {
        let tensor = weights.tensor(name).unwrap().expect_shape(shape).unwrap();
        assert_eq!(tensor.to_f32().unwrap(), expected, "{name}");
    }

    #[test]
    fn every_stored_kind_of_number_is_read_exactly() {
        let directory = tempfile::tempdir().unwrap();
        let values = [1.5, -0.25, 0.0, 1024.0];
        let halves = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
        let brains = values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
        let path = write(
            &directory.path().join("model.safetensors"),
            &[
                ("a", Dtype::F32, &[2, 2], f32_bytes(&values)),
                ("b", Dtype::F16, &[4], halves),
                ("c", Dtype::BF16, &[4, 1], brains),
                ("d", Dtype::I64, &[1], vec![0; 8]),
            ],
        );
        let weights = Weights::open(std::slice::from_ref(&path)).unwrap();
        check_f32(&weights, "a", &[2, 2], &values);
        check_f32(&weights, "b", &[4], &values);
        check_f32(&weights, "c", &[4, 1], &values);
        let error = weights.tensor("d").unwrap().to_f32().unwrap_err().to_string();
        assert!(error.contains("tensor d in") && error.contains("I64"), "{error}");
        assert_eq!(weights.bytes(), std::fs::metadata(&path).unwrap().len());
        assert_eq!(weights.digests(), [Digest::of(&std::fs::read(&path).unwrap())]);
    }

    #[test]
    fn a_tensor_is_found_under_any_known_prefix_and_in_any_shard() {
        let directory = tempfile::tempdir().unwrap();
        let tensors = |name: &'static str, value: f32| [(name, Dtype::F32, &[1][..], f32_bytes(&[value]))];
        let paths = [
            write(&directory.path().join("1.safetensors"), &tensors("bert.x", 1.0)),
            write(&directory.path().join("2.safetensors"), &tensors("0.auto_model.y", 2.0)),
            write(&directory.path().join("3.safetensors"), &tensors("model.z", 3.0)),
            write(&directory.path().join("4.safetensors"), &tensors("plain", 4.0)),
        ];
        let weights = Weights::open(&paths).unwrap();
        for (name, value) in [("x", 1.0), ("y", 2.0), ("z", 3.0), ("plain", 4.0)] {
            check_f32(&weights, name, &[1], &[value]);
            assert!(weights.contains(name));
        }
        assert!(!weights.contains("w"));
        let error = weights.tensor("w").unwrap_err().to_string();
        assert!(error.contains("no tensor w") && error.contains("4.safetensors"), "{error}");
    }

    #[test]
    fn a_wrong_shape_names_the_tensor_the_file_and_both_shapes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        write(&path, &[("bert.x", Dtype::F32, &[2], f32_bytes(&[1.0, 2.0]))]);
        let weights = Weights::open(&[path]).unwrap();
        let error = weights.tensor("x").unwrap().expect_shape(&[3]).unwrap_err().to_string();
        for part in ["bert.x", "model.safetensors", "[2]", "[3]"] {
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }

    #[test]
    fn a_tensor_in_two_files_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let tensors = [("x", Dtype::F32, &[1][..], f32_bytes(&[1.0]))];
        let paths = ["a", "b"].map(|name| write(&directory.path().join(name), &tensors));
        assert!(matches!(Weights::open(&paths), Err(WeightError::Duplicate { tensor, .. }) if tensor == "x"));
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error_and_never_a_panic() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        write(&path, &[("x", Dtype::F32, &[2], f32_bytes(&[1.0, 2.0])), ("y", Dtype::F32, &[1], f32_bytes(&[3.0]))]);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = Weights::open(std::slice::from_ref(&path)).err();
            assert!(matches!(error, Some(WeightError::Corrupt { .. })), "{length} bytes: {error:?}");
        }
        std::fs::write(&path, b"\x08\0\0\0\0\0\0\0not json").unwrap();
        assert!(matches!(Weights::open(std::slice::from_ref(&path)), Err(WeightError::Corrupt { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Weights::open(&[path]), Err(WeightError::Open { .. })));
    }
}
