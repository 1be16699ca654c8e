//! Which files hold the weights: one safetensors file, or several with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::error::SpecError;
use super::files::read_json;

/// The safetensors files of a directory, in the order of their names.
pub(super) fn find(directory: &Path) -> Result<Vec<PathBuf>, SpecError> {
    let single = directory.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index_path = directory.join("model.safetensors.index.json");
    if let Some(index) = read_json::<Index>(&index_path)? {
        return shards(directory, &index, &index_path);
    }
    for name in ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"] {
        let path = directory.join(name);
        if path.is_file() {
            return Err(SpecError::unsupported(&path, "a model whose weights are not in safetensors"));
        }
    }
    Err(SpecError::Missing { path: single, what: "the directory has no weights" })
}

/// `model.safetensors.index.json`: the file of every tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn shards(directory: &Path, index: &Index, index_path: &Path) -> Result<Vec<PathBuf>, SpecError> {
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    if names.is_empty() {
        return Err(SpecError::invalid(index_path, "its weight_map is empty"));
    }
    let mut paths = Vec::with_capacity(names.len());
    for name in names {
        if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(SpecError::invalid(index_path, format!("the file {name:?} is not in the directory")));
        }
        let path = directory.join(name);
        if !path.is_file() {
            return Err(SpecError::Missing { path, what: "model.safetensors.index.json says that it holds weights" });
        }
        paths.push(path);
    }
    Ok(paths)
}
