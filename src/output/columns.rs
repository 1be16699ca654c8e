//! The columns of a shard as Arrow knows them; what the Parquet and the Arrow sink have in common.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::NullBufferBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float32Type, UInt32Type};
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Int64Array, ListArray, PrimitiveArray, RecordBatch, StringArray,
    UInt32Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, FieldRef, Schema};

use super::format::{About, SinkError};
use super::read::{ReadContentError, RowState, StoredShard};
use crate::domain::{ChunkId, MultiVectors, Shard, SparseVector};

/// Name of the column of vectors.
pub(super) const VECTOR: &str = "vector";

/// Name of the column of the tokens that sparse vectors weigh.
const SPARSE_INDICES: &str = "sparse_indices";

/// Name of the column of their weights.
pub(super) const SPARSE_VALUES: &str = "sparse_values";

/// Name of the column of vectors of tokens.
pub(super) const MULTI: &str = "multi";

/// Name of the field within a vector, as the Arrow specification proposes it.
pub(super) const ITEM: &str = "item";

/// Key and value pairs for the metadata of a file.
pub(super) fn metadata(shard: &Shard, about: &About<'_>) -> Vec<(&'static str, String)> {
    let mut pairs = vec![("model", about.model.to_owned()), ("vector_space", about.vector_space.to_owned())];
    if shard.dimension > 0 {
        pairs.push(("dimension", shard.dimension.to_string()));
    }
    if let Some(multi) = &shard.multi {
        pairs.push(("multi_dimension", multi.dimension.to_string()));
    }
    pairs
}

/// All rows of a shard as one batch.
pub(super) fn record_batch(shard: &Shard, about: &About<'_>) -> Result<RecordBatch, SinkError> {
    let rows = shard.rows().map(|(row, ..)| i64::try_from(row.0).map_err(|_| too_large(row.0)));
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let records = &shard.records;
    let mut columns: Vec<(Field, ArrayRef)> = vec![
        (
            Field::new("id", DataType::Utf8, false),
            Arc::new(StringArray::from_iter_values(records.iter().map(|record| record.id.as_str()))),
        ),
        (Field::new("row", DataType::Int64, false), Arc::new(Int64Array::from(rows))),
    ];
    let mut with_vector = NullBufferBuilder::new(records.len());
    records.iter().for_each(|record| with_vector.append(record.status.has_vector()));
    let nulls = with_vector.finish();
    let mut add =
        |name: &str, lists: ArrayRef| columns.push((Field::new(name, lists.data_type().clone(), true), lists));
    if shard.dimension > 0 {
        add(VECTOR, Arc::new(fixed_lists(canonical_vectors(shard), shard.dimension, nulls.clone())?));
    }
    if let Some(sparse) = &shard.sparse {
        let lengths = || sparse.iter().map(|row| row.indices.len());
        let indices = UInt32Array::from_iter_values(sparse.iter().flat_map(|row| row.indices.iter().copied()));
        add(SPARSE_INDICES, Arc::new(lists(lengths(), Arc::new(indices), nulls.clone())?));
        let values = Float32Array::from_iter_values(sparse.iter().flat_map(|row| row.values.iter().copied()));
        add(SPARSE_VALUES, Arc::new(lists(lengths(), Arc::new(values), nulls.clone())?));
    }
    if let Some(multi) = &shard.multi {
        let vectors = fixed_lists(multi.texts.concat(), multi.dimension, None)?;
        let lengths = multi.texts.iter().map(|text| text.len() / multi.dimension.max(1));
        add(MULTI, Arc::new(lists(lengths, Arc::new(vectors), nulls)?));
    }
    columns.extend([
        (
            Field::new("tokens", DataType::UInt32, false),
            Arc::new(UInt32Array::from_iter_values(records.iter().map(|record| record.tokens))) as ArrayRef,
        ),
        (
            Field::new("status", DataType::Utf8, false),
            Arc::new(StringArray::from_iter_values(records.iter().map(|record| record.status.as_str()))),
        ),
        (
            Field::new("text_sha256", DataType::Utf8, true),
            Arc::new(records.iter().map(|record| record.text_sha256.map(|it| it.to_string())).collect::<StringArray>()),
        ),
    ]);
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let metadata: HashMap<_, _> =
        metadata(shard, about).into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new_with_metadata(fields, metadata)), arrays)?)
}

fn too_large(number: u64) -> SinkError {
    SinkError::TooLarge { number }
}

/// Items are there wherever the list is.
fn item(data_type: DataType) -> FieldRef {
    Arc::new(Field::new(ITEM, data_type, false))
}

/// Lists of one length.
fn fixed_lists(values: Vec<f32>, dimension: usize, nulls: Option<NullBuffer>) -> Result<FixedSizeListArray, SinkError> {
    let dimension = i32::try_from(dimension).map_err(|_| too_large(dimension as u64))?;
    let values = Arc::new(Float32Array::from(values));
    Ok(FixedSizeListArray::try_new(item(DataType::Float32), dimension, values, nulls)?)
}

/// Lists of these lengths, which lie end to end in `values`.
fn lists(
    lengths: impl Iterator<Item = usize>,
    values: ArrayRef,
    nulls: Option<NullBuffer>,
) -> Result<ListArray, SinkError> {
    // The offsets are checked here, where the library would panic.
    i32::try_from(values.len()).map_err(|_| too_large(values.len() as u64))?;
    Ok(ListArray::try_new(item(values.data_type().clone()), OffsetBuffer::from_lengths(lengths), values, nulls)?)
}

/// [rows, dimension] with one and the same NaN wherever a row has no vector, so that equal shards give equal bytes.
pub(super) fn canonical_vectors(shard: &Shard) -> Vec<f32> {
    let mut values = Vec::with_capacity(shard.vectors.len());
    for (_, _, vector) in shard.rows() {
        match vector {
            Some(vectors) => values.extend_from_slice(vectors.dense.unwrap_or_default()),
            None => values.extend(std::iter::repeat_n(f32::NAN, shard.dimension)),
        }
    }
    values
}

/// Appends the rows of a batch that [`record_batch`] made.
pub(super) fn append(shard: &mut StoredShard, batch: &RecordBatch) -> Result<(), ReadContentError> {
    let column = |name: &'static str| batch.column_by_name(name).ok_or(ReadContentError::Column { name });
    let strings = |name: &'static str| column(name)?.as_string_opt::<i32>().ok_or(ReadContentError::Column { name });
    let (ids, statuses, digests) = (strings("id")?, strings("status")?, strings("text_sha256")?);
    let tokens = column("tokens")?.as_primitive_opt::<UInt32Type>();
    let tokens = tokens.ok_or(ReadContentError::Column { name: "tokens" })?;
    for row in 0..batch.num_rows() {
        shard.ids.push(ChunkId::new(ids.value(row)));
        let status = statuses.value(row);
        let digest = digests.is_valid(row).then(|| digests.value(row).parse()).transpose()?;
        let status = serde_json::from_value(status.into())?;
        let state = RowState { status, tokens: tokens.value(row), text_sha256: digest };
        shard.states.get_or_insert_default().push(state);
    }
    if let Some(vectors) = batch.column_by_name(VECTOR) {
        let vectors = vectors.as_fixed_size_list_opt().ok_or(ReadContentError::Column { name: VECTOR })?;
        shard.dimension = usize::try_from(vectors.value_length()).unwrap_or_default();
        for row in 0..batch.num_rows() {
            if vectors.is_valid(row) {
                shard.vectors.extend(numbers::<Float32Type>(&vectors.value(row), VECTOR)?);
            } else {
                shard.vectors.extend(std::iter::repeat_n(f32::NAN, shard.dimension));
            }
        }
    }
    if batch.column_by_name(SPARSE_INDICES).is_some() {
        let list = |name: &'static str| column(name)?.as_list_opt::<i32>().ok_or(ReadContentError::Column { name });
        let (indices, values) = (list(SPARSE_INDICES)?, list(SPARSE_VALUES)?);
        let sparse = shard.sparse.get_or_insert_default();
        for row in 0..batch.num_rows() {
            sparse.push(SparseVector {
                indices: numbers::<UInt32Type>(&indices.value(row), SPARSE_INDICES)?,
                values: numbers::<Float32Type>(&values.value(row), SPARSE_VALUES)?,
            });
        }
    }
    if let Some(multi) = batch.column_by_name(MULTI) {
        let wrong = || ReadContentError::Column { name: MULTI };
        let lists = multi.as_list_opt::<i32>().ok_or_else(wrong)?;
        let vectors = lists.values().as_fixed_size_list_opt().ok_or_else(wrong)?;
        let dimension = usize::try_from(vectors.value_length()).unwrap_or_default();
        let multi = shard.multi.get_or_insert_with(|| MultiVectors { dimension, texts: Vec::new() });
        for row in 0..batch.num_rows() {
            let vectors = lists.value(row);
            let vectors = vectors.as_fixed_size_list_opt().ok_or_else(wrong)?;
            // Of a part of an array, the values are still those of the whole.
            let first = vectors.value_offset_at(0);
            let all = numbers::<Float32Type>(vectors.values(), MULTI)?;
            let own = if vectors.is_empty() {
                &[]
            } else {
                all.get(first..first + vectors.len() * dimension).ok_or_else(wrong)?
            };
            multi.texts.push(own.to_vec());
        }
    }
    Ok(())
}

fn numbers<T: ArrowPrimitiveType>(array: &ArrayRef, name: &'static str) -> Result<Vec<T::Native>, ReadContentError> {
    let numbers: &PrimitiveArray<T> = array.as_primitive_opt().ok_or(ReadContentError::Column { name })?;
    Ok(numbers.values().to_vec())
}
