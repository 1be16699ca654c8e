//! Arrow IPC files ("Feather v2").

use std::fs::File;
use std::io::{BufReader, Write};

use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::FileWriter;

use super::columns;
use super::format::{About, Sink, SinkError};
use super::read::{ReadContentError, StoredShard};
use crate::domain::Shard;

pub(super) struct Arrow;

impl Sink for Arrow {
    fn extension(&self) -> &'static str {
        "arrow"
    }

    fn write(&self, shard: &Shard, about: &About<'_>, out: &mut (dyn Write + Send)) -> Result<(), SinkError> {
        let batch = columns::record_batch(shard, about)?;
        let mut writer = FileWriter::try_new(out, &batch.schema())?;
        writer.write(&batch)?;
        writer.finish()?;
        Ok(())
    }
}

pub(super) fn read(files: &mut [Option<File>]) -> Result<StoredShard, ReadContentError> {
    let mut shard = StoredShard::empty();
    for file in files.iter_mut().flatten() {
        for batch in FileReader::try_new(BufReader::new(file), None)? {
            columns::append(&mut shard, &batch?)?;
        }
    }
    Ok(shard)
}

/// The vector space that a file says it is of.
pub(super) fn vector_space(file: &File) -> Result<Option<String>, ReadContentError> {
    let reader = FileReader::try_new(BufReader::new(file), None)?;
    Ok(reader.schema().metadata().get("vector_space").cloned())
}
