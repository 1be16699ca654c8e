//! Files of a tokenizer, read and parsed.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::pointer;
use crate::model::spec::SpecError;

pub(super) fn text(bytes: &[u8], path: &Path) -> Result<Arc<str>, SpecError> {
    std::str::from_utf8(bytes).map(Arc::from).map_err(|_| SpecError::invalid(path, "it is not UTF-8"))
}

pub(super) fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>, SpecError> {
    match std::fs::read(path) {
        Ok(bytes) if pointer::is_one(&bytes) => Err(SpecError::Pointer { path: path.to_owned() }),
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SpecError::Read { path: path.to_owned(), source }),
    }
}

pub(super) fn read_json(path: &Path) -> Result<Option<Map<String, Value>>, SpecError> {
    read_bytes(path)?.map(|bytes| parse(&bytes, path)).transpose()
}

pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], path: &Path) -> Result<T, SpecError> {
    serde_json::from_slice(bytes).map_err(|source| SpecError::Json { path: path.to_owned(), source })
}
