//! The columns of a shard as Arrow knows them; what the Parquet and the Arrow sink have in common.

use std::sync::Arc;

use arrow_array::builder::NullBufferBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray, UInt32Array,
};
use arrow_schema::{DataType, Field, Schema};

use super::format::{About, SinkError};
use super::read::{ReadContentError, RowState, StoredShard};
use crate::domain::{ChunkId, Shard};

/// Name of the column of vectors.
pub(super) const VECTOR: &str = "vector";

/// Name of the field within a vector, as the Arrow specification proposes it.
pub(super) const ITEM: &str = "item";

/// Key and value pairs for the metadata of a file.
pub(super) fn metadata(shard: &Shard, about: &About<'_>) -> [(&'static str, String); 3] {
    [
        ("model", about.model.to_owned()),
        ("vector_space", about.vector_space.to_owned()),
        ("dimension", shard.dimension.to_string()),
    ]
}

/// All rows of a shard as one batch.
pub(super) fn record_batch(shard: &Shard, about: &About<'_>) -> Result<RecordBatch, SinkError> {
    let too_large = |number: u64| SinkError::TooLarge { number };
    let dimension = i32::try_from(shard.dimension).map_err(|_| too_large(shard.dimension as u64))?;
    let rows = shard.rows().map(|(row, ..)| i64::try_from(row.0).map_err(|_| too_large(row.0)));
    let rows = rows.collect::<Result<Vec<_>, _>>()?;

    let mut with_vector = NullBufferBuilder::new(shard.records.len());
    shard.records.iter().for_each(|record| with_vector.append(record.status.has_vector()));
    let item = Arc::new(Field::new(ITEM, DataType::Float32, false));
    let values = Arc::new(Float32Array::from(canonical_vectors(shard)));
    let vectors = FixedSizeListArray::try_new(Arc::clone(&item), dimension, values, with_vector.finish())?;

    let fields = vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("row", DataType::Int64, false),
        Field::new(VECTOR, DataType::FixedSizeList(item, dimension), true),
        Field::new("tokens", DataType::UInt32, false),
        Field::new("status", DataType::Utf8, false),
        Field::new("text_sha256", DataType::Utf8, true),
    ];
    let records = &shard.records;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(records.iter().map(|record| record.id.as_str()))),
        Arc::new(Int64Array::from(rows)),
        Arc::new(vectors),
        Arc::new(UInt32Array::from_iter_values(records.iter().map(|record| record.tokens))),
        Arc::new(StringArray::from_iter_values(records.iter().map(|record| record.status.as_str()))),
        Arc::new(
            records.iter().map(|record| record.text_sha256.map(|digest| digest.to_string())).collect::<StringArray>(),
        ),
    ];
    let schema = Schema::new_with_metadata(fields, metadata(shard, about));
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

/// [rows, dimension] with one and the same NaN wherever a row has no vector, so that equal shards give equal bytes.
pub(super) fn canonical_vectors(shard: &Shard) -> Vec<f32> {
    let mut values = Vec::with_capacity(shard.vectors.len());
    for (_, _, vector) in shard.rows() {
        match vector {
            Some(vector) => values.extend_from_slice(vector),
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
    let vectors = column(VECTOR)?.as_fixed_size_list_opt();
    let vectors = vectors.ok_or(ReadContentError::Column { name: VECTOR })?;
    shard.dimension = usize::try_from(vectors.value_length()).unwrap_or_default();
    for row in 0..batch.num_rows() {
        shard.ids.push(ChunkId::new(ids.value(row)));
        let status = statuses.value(row);
        let digest = digests.is_valid(row).then(|| digests.value(row).parse()).transpose()?;
        let status = serde_json::from_value(status.into())?;
        let state = RowState { status, tokens: tokens.value(row), text_sha256: digest };
        shard.states.get_or_insert_default().push(state);
        if vectors.is_valid(row) {
            let vector = vectors.value(row);
            let vector = vector.as_primitive_opt::<Float32Type>();
            let vector = vector.ok_or(ReadContentError::Column { name: VECTOR })?;
            shard.vectors.extend_from_slice(vector.values());
        } else {
            shard.vectors.extend(std::iter::repeat_n(f32::NAN, shard.dimension));
        }
    }
    Ok(())
}
