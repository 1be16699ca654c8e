//! The vector space of a run without settings of its own, for commands that embed nothing.

use super::ModelFault;
use crate::domain::{Digest, VectorKind};
use crate::model::Profile;
use crate::model::spec::{ModelSpec, PromptChoice};
use crate::model::vector_space::{DtypeClass, ModelDigests, vector_space};
use crate::model::weights::TensorDigests;

/// The `vector_space` that a run writes which asks for these kinds of vectors and for nothing else, in f32.
///
/// # Errors
/// When the tokenizer or the default prompt cannot be used.
pub fn default_space(spec: &ModelSpec, tensors: TensorDigests, kinds: &[VectorKind]) -> Result<Digest, ModelFault> {
    let prompt = spec.prompt(&PromptChoice::Default)?;
    let profile = Profile { kinds: kinds.to_vec(), ..Profile::new(spec, prompt) };
    let digests = ModelDigests { tensors, tokenizer: spec.tokenizer_digest()? };
    Ok(vector_space(spec, &digests, &profile, DtypeClass::F32))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use safetensors::SafeTensors;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::weights::Weights;

    /// What is changed, and how.
    type Change<'a> = (&'a str, &'a dyn Fn(&Path));

    /// The space of a small model of which `change` has changed the files.
    fn space_with(change: impl FnOnce(&Path)) -> Digest {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/bert-minilm");
        let directory = tempfile::tempdir().unwrap();
        for name in ["", "1_Pooling"] {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
            for entry in std::fs::read_dir(source.join(name)).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() {
                    std::fs::copy(entry.path(), directory.path().join(name).join(entry.file_name())).unwrap();
                }
            }
        }
        change(directory.path());
        let spec = ModelSpec::read(directory.path()).unwrap();
        let kinds = [spec.default_kind];
        let tensors = Weights::of(&spec, &kinds).unwrap().tensor_digests().unwrap();
        default_space(&spec, tensors, &kinds).unwrap()
    }

    fn edit(directory: &Path, name: &str, change: impl FnOnce(&mut Value)) {
        let path = directory.join(name);
        let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(path, serde_json::to_vec_pretty(&value).unwrap()).unwrap();
    }

    /// Writes the tensors once more, in two files, under names that begin with `prefix`, and some that nothing reads.
    fn store_otherwise(directory: &Path, prefix: &str) {
        let path = directory.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        tensors.sort_by(|(one, _), (other, _)| other.cmp(one));
        let mut named: Vec<_> = tensors.iter().map(|(name, view)| (format!("{prefix}{name}"), view.clone())).collect();
        named.push(("classifier.weight".to_owned(), tensors[0].1.clone()));
        let mut map = serde_json::Map::new();
        let halves = named.split_at(named.len() / 2);
        for (index, half) in [halves.0, halves.1].into_iter().enumerate() {
            let file = format!("model-{index}.safetensors");
            map.extend(half.iter().map(|(name, _)| (name.clone(), json!(file))));
            let written = safetensors::serialize(half.iter().map(|(name, view)| (name, view.clone())), None).unwrap();
            std::fs::write(directory.join(file), written).unwrap();
        }
        let index = json!({"weight_map": map}).to_string();
        std::fs::write(directory.join("model.safetensors.index.json"), index).unwrap();
    }

    #[test]
    fn a_model_written_otherwise_has_the_same_space() {
        let plain = space_with(|_| {});
        let changes: [Change<'_>; 3] = [
            ("shards, another order, a prefix, a classifier", &|directory| store_otherwise(directory, "bert.")),
            ("keys of config.json that no layer reads", &|directory| {
                edit(directory, "config.json", |json| {
                    json["_attn_implementation_autoset"] = json!(true);
                    json["pooler_type"] = json!("first_token_transform");
                });
            }),
            ("a note for people", &|directory| std::fs::write(directory.join("README.md"), "x").unwrap()),
        ];
        for (what, change) in changes {
            assert_eq!(space_with(change), plain, "{what}");
        }
    }

    #[test]
    fn a_model_of_another_meaning_has_another_space() {
        let plain = space_with(|_| {});
        let bit = |directory: &Path| {
            let path = directory.join("model.safetensors");
            let mut bytes = std::fs::read(&path).unwrap();
            // The header says where a tensor begins behind it, and its own length is before it.
            let header = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
            let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
            let words = tensors["embeddings.word_embeddings.weight"]["data_offsets"][0].as_u64().unwrap();
            bytes[8 + header + usize::try_from(words).unwrap()] ^= 1;
            std::fs::write(path, bytes).unwrap();
        };
        let changes: [Change<'_>; 5] = [
            ("a bit of a tensor", &bit),
            ("a token", &|directory| {
                edit(directory, "tokenizer.json", |json| {
                    let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
                    let (first, second) = (vocabulary["the"].clone(), vocabulary["of"].clone());
                    vocabulary.insert("the".to_owned(), second);
                    vocabulary.insert("of".to_owned(), first);
                });
            }),
            ("a norm", &|directory| edit(directory, "config.json", |json| json["layer_norm_eps"] = json!(1e-5))),
            ("a pooling", &|directory| {
                let cls = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false});
                edit(directory, "1_Pooling/config.json", |json| *json = cls);
            }),
            ("a cut", &|directory| {
                edit(directory, "config_sentence_transformers.json", |json| json["truncate_dim"] = json!(16));
            }),
        ];
        for (what, change) in changes {
            assert_ne!(space_with(change), plain, "{what}");
        }
    }
}
