//! Apache Parquet.

use std::fs::File;
use std::io::Write;

use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::columns::{self, ITEM, MULTI, SPARSE_VALUES, VECTOR};
use super::format::{About, Sink, SinkError};
use super::read::{ReadContentError, StoredShard};
use crate::domain::Shard;

pub(super) struct Parquet;

impl Sink for Parquet {
    fn extension(&self) -> &'static str {
        "parquet"
    }

    fn write(&self, shard: &Shard, about: &About<'_>, out: &mut (dyn Write + Send)) -> Result<(), SinkError> {
        let batch = columns::record_batch(shard, about)?;
        let metadata = columns::metadata(shard, about);
        let metadata = metadata.into_iter().map(|(key, value)| KeyValue::new(key.to_owned(), value)).collect();
        let mut writer = ArrowWriter::try_new(out, batch.schema(), Some(properties(metadata)))?;
        writer.write(&batch)?;
        writer.close()?;
        Ok(())
    }
}

fn properties(metadata: Vec<KeyValue>) -> WriterProperties {
    // Columns of numbers that hardly repeat, by their paths in the three levels that Parquet gives a list.
    let lists: [&[&str]; 3] =
        [&[VECTOR, "list", ITEM], &[SPARSE_VALUES, "list", ITEM], &[MULTI, "list", ITEM, "list", ITEM]];
    let mut properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default()));
    for path in lists {
        let column = ColumnPath::new(path.iter().map(|&part| part.to_owned()).collect());
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_statistics_enabled(column, EnabledStatistics::None);
    }
    properties.set_key_value_metadata(Some(metadata)).build()
}

pub(super) fn read(files: &mut [Option<File>]) -> Result<StoredShard, ReadContentError> {
    let mut shard = StoredShard::empty();
    for file in files.iter_mut().flatten() {
        for batch in ParquetRecordBatchReaderBuilder::try_new(file.try_clone()?)?.build()? {
            columns::append(&mut shard, &batch?)?;
        }
    }
    Ok(shard)
}

#[cfg(test)]
mod tests {
    use parquet::basic::Encoding;
    use parquet::file::metadata::ParquetMetaDataReader;

    use super::*;
    use crate::domain::RowStatus;
    use crate::output::fixture::{ABOUT, record, shard};

    #[test]
    fn vectors_are_compressed_plain_and_without_statistics() {
        let mut file = tempfile::tempfile().unwrap();
        let shard = shard(0, 0, vec![record("a", RowStatus::Ok), record("b", RowStatus::Failed)]);
        Parquet.write(&shard, &ABOUT, &mut file).unwrap();
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
        let group = &metadata.row_groups()[0];
        assert_eq!((metadata.num_row_groups(), group.num_columns()), (1, 6));
        for column in group.columns() {
            let is_vector = column.column_path().parts()[0] == VECTOR;
            assert!(matches!(column.compression(), Compression::ZSTD(_)), "{column:?}");
            assert_eq!(column.statistics().is_none(), is_vector, "{column:?}");
            let has_dictionary = column.encodings().any(|encoding| encoding == Encoding::RLE_DICTIONARY);
            assert_eq!(has_dictionary, !is_vector, "{column:?}");
        }
        let pairs = metadata.file_metadata().key_value_metadata().unwrap();
        let value = |key: &str| pairs.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.as_deref());
        assert_eq!(value("model"), Some(ABOUT.model));
        assert_eq!(value("vector_space"), Some(ABOUT.vector_space));
        assert_eq!(value("dimension"), Some("4"));
    }
}
