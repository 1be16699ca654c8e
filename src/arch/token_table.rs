//! A static model: a table of vectors, one for each token, and no layers at all.
//!
//! In the layouts of sentence-transformers (`StaticEmbedding`, <https://huggingface.co/blog/static-embeddings>) and of
//! `model2vec` (<https://github.com/MinishLab/model2vec>), whose tokens may share rows (`mapping`) and weigh them
//! (`weights`). How many rows there are stands in no file: the tensor says it.

use std::sync::Arc;

use super::parts::Parts;
use super::{Architecture, LoadError, Loaded};
use crate::domain::PackedBatch;
use crate::model::weights::Weights;
use crate::nn::{Backend, Matrix, NnError};

/// A static model.
struct TokenTable<B: Backend> {
    rows: B::Embedding,
    width: usize,
}

/// Reads the table, whose rows have `width` numbers.
pub(super) fn load<B: Backend>(width: usize, parts: &Parts<'_, B>) -> Loaded<B> {
    let weights = parts.weights;
    let table = if weights.contains("embedding.weight") {
        table("embedding.weight", width, weights)?
    } else {
        by_token(table("embeddings", width, weights)?, weights)?
    };
    Ok(Arc::new(TokenTable::<B> { rows: parts.backend.embedding(table)?, width }))
}

fn table(name: &str, width: usize, weights: &Weights) -> Result<Matrix, LoadError> {
    let tensor = weights.tensor(name)?;
    let rows = tensor.shape.first().copied().unwrap_or_default();
    Ok(Matrix { rows, columns: width, values: tensor.expect_shape(&[rows, width])?.to_f32()? })
}

/// One row a token, weighed, of what `model2vec` has stored.
fn by_token(mut table: Matrix, weights: &Weights) -> Result<Matrix, LoadError> {
    if weights.contains("mapping") {
        let mapping = weights.tensor("mapping")?.to_i64()?;
        let mut values = Vec::with_capacity(mapping.len() * table.columns);
        for row in &mapping {
            let start = usize::try_from(*row).ok().filter(|row| *row < table.rows).map(|row| row * table.columns);
            let start = start.ok_or(LoadError::Mapping { row: *row, rows: table.rows })?;
            values.extend_from_slice(&table.values[start..start + table.columns]);
        }
        table = Matrix { rows: mapping.len(), values, ..table };
    }
    if weights.contains("weights") {
        let factors = weights.tensor("weights")?.expect_shape(&[table.rows])?.to_f32()?;
        for (row, factor) in table.values.chunks_exact_mut(table.columns).zip(factors) {
            row.iter_mut().for_each(|value| *value *= factor);
        }
    }
    Ok(table)
}

impl<B: Backend> Architecture<B> for TokenTable<B> {
    fn forward(&self, backend: &B, batch: &PackedBatch) -> Result<B::Activations, NnError> {
        backend.embed(&[(&self.rows, batch.ids())])
    }

    fn hidden_size(&self) -> usize {
        self.width
    }

    fn positions(&self) -> usize {
        usize::MAX
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;
    use safetensors::tensor::{TensorView, serialize_to_file};

    use super::*;
    use crate::nn::Candle;

    type Stored<'a> = (&'a str, Dtype, &'a [usize], Vec<u8>);

    /// The vectors of the tokens 0, 1 and 2, from tensors of a file.
    fn vectors(tensors: &[Stored<'_>]) -> Result<Vec<f32>, LoadError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.to_vec(), bytes).unwrap();
            (*name, view)
        });
        serialize_to_file(views, None, &path).unwrap();
        let (weights, backend) = (Weights::open(&[path]).unwrap(), Candle::cpu());
        let found = load(2, &Parts { weights: &weights, backend: &backend })?
            .forward(&backend, &PackedBatch::new([&[0, 1, 2][..]]))?;
        Ok(found.flatten_all().unwrap().to_vec1().unwrap())
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn rows(values: &[i64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn tokens_share_rows_and_weigh_them() {
        let table = floats(&[1.0, 2.0, 3.0, 4.0]);
        let mapping = |values: &[i64]| ("mapping", Dtype::I64, &[3][..], rows(values));
        let stored = ("embeddings", Dtype::F32, &[2, 2][..], table.clone());
        let weights = ("weights", Dtype::F32, &[3][..], floats(&[2.0, 0.5, 1.0]));
        assert_eq!(vectors(&[stored.clone(), mapping(&[1, 0, 1]), weights]).unwrap(), [6.0, 8.0, 0.5, 1.0, 3.0, 4.0]);
        for row in [2, -1] {
            let error = vectors(&[stored.clone(), mapping(&[0, row, 1])]).unwrap_err().to_string();
            assert!(error.contains(&format!("row {row} of a table of 2")), "{error}");
        }
    }
}
