//! Which files hold the weights: one, or several with an index; safetensors before those of `PyTorch`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::error::SpecError;
use super::files::read_json;

/// What weights may be called, in the order in which transformers looks for them.
const NAMES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// The weight files of a directory, in the order of their names.
pub(super) fn find(directory: &Path) -> Result<Vec<PathBuf>, SpecError> {
    for name in NAMES {
        let single = directory.join(name);
        if single.is_file() {
            return Ok(vec![single]);
        }
        let index_path = directory.join(format!("{name}.index.json"));
        if let Some(index) = read_json::<Index>(&index_path)? {
            return shards(directory, &index, &index_path);
        }
    }
    for name in ["tf_model.h5", "flax_model.msgpack", "rust_model.ot"] {
        let path = directory.join(name);
        if path.is_file() {
            return Err(SpecError::unsupported(&path, "a model whose weights are neither safetensors nor of PyTorch"));
        }
    }
    Err(SpecError::Missing { path: directory.join(NAMES[0]), what: "the directory has no weights" })
}

/// `model.safetensors.index.json` and its like: the file of every tensor.
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
            return Err(SpecError::Missing { path, what: "the index of the weights says that it holds some" });
        }
        paths.push(path);
    }
    Ok(paths)
}
