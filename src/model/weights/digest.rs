//! Digests of weights: of files as they lie on the disk, and of tensors wherever they are stored.
//!
//! Those of files tell whether a file is the one that was published. Those of tensors are the same for the same numbers
//! in safetensors and in files of `PyTorch`, in one file or several, in any order.

use rayon::prelude::*;
use safetensors::Dtype;

use super::{MappedFile, Place, WeightError, Weights};
use crate::domain::{Digest, VectorKind};

/// Bytes of a tensor that are digested at a time: small enough to keep all cores busy with a large one.
const CHUNK: usize = 8 << 20;

/// Digests of all tensors of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TensorDigests {
    /// Those of the transformer, in the order of their names.
    pub own: Vec<TensorDigest>,
    /// Those of layers that have files of their own, with the kind of vectors that they lead to, in their order.
    pub heads: Vec<(VectorKind, Vec<TensorDigest>)>,
}

/// A tensor by what it is and not by where it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDigest {
    /// The name in the file, prefix included.
    pub name: String,
    /// Of the kind of its numbers, its shape and its numbers row after row.
    pub digest: Digest,
}

impl Weights {
    /// SHA-256 of every file, in the order of [`Weights::paths`]. Reads all of them; on several threads.
    pub fn digests(&self) -> Vec<Digest> {
        let files: Vec<&MappedFile> = self.all_files();
        files.par_iter().map(|file| Digest::of(&file.map)).collect()
    }

    /// Digests of all tensors. Reads all of them; on several threads.
    ///
    /// # Errors
    /// When a file says that the numbers of one are damaged.
    pub fn tensor_digests(&self) -> Result<TensorDigests, WeightError> {
        let heads = self.heads.iter().map(|(kind, weights)| Ok((*kind, weights.own_digests()?)));
        Ok(TensorDigests { own: self.own_digests()?, heads: heads.collect::<Result<_, WeightError>>()? })
    }

    /// Both at the same time, so that what is read from the disk is read once.
    ///
    /// # Errors
    /// As [`Weights::tensor_digests`].
    pub fn all_digests(&self) -> Result<(Vec<Digest>, TensorDigests), WeightError> {
        let (files, tensors) = rayon::join(|| self.digests(), || self.tensor_digests());
        Ok((files, tensors?))
    }

    fn own_digests(&self) -> Result<Vec<TensorDigest>, WeightError> {
        let mut places: Vec<(&String, &Place)> = self.places.iter().collect();
        // As they lie in the files, for the sake of those that are read from the disk.
        places.sort_unstable_by_key(|(_, place)| (place.file, place.start));
        let digest = |(name, place): (&String, &Place)| {
            let view = self.view(name, place)?;
            Ok(TensorDigest { name: name.clone(), digest: digest(view.dtype, &view.shape, &view.bytes) })
        };
        let mut digests = places.into_par_iter().map(digest).collect::<Result<Vec<_>, WeightError>>()?;
        digests.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(digests)
    }

    fn all_files(&self) -> Vec<&MappedFile> {
        self.files.iter().chain(self.of_heads().flat_map(Self::all_files)).collect()
    }
}

/// SHA-256 over the kind of numbers, the shape, and the digests of the chunks.
fn digest(dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Digest {
    let mut parts = format!("{dtype} {shape:?}").into_bytes();
    let chunks: Vec<Digest> = bytes.par_chunks(CHUNK).map(Digest::of).collect();
    parts.extend(chunks.iter().flat_map(Digest::as_bytes));
    Digest::of(&parts)
}
