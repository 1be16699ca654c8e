//! A second opinion beside the reference library: the models of candle-transformers, where it has them right, compute the
//! hidden states of the same tokens. Pooling and what follows it is done here, in plain numbers.

#![expect(clippy::cast_possible_truncation, reason = "sums in f64 become components in f32")]

use std::fs::read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, distilbert, modernbert, t5};
use embed_collections::model::spec::ModelSpec;
use embed_collections::nn::Cpu;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::subject::{ON_PROCESSOR, Subject, Worst};
use super::{Case, Reference};

/// How a model of candle-transformers gets from ids to one vector a token.
type Hidden = Box<dyn FnMut(&Tensor) -> candle_core::Result<Tensor>>;

/// What becomes of the tokens' vectors.
#[derive(Clone, Copy)]
enum Pooled {
    First,
    Mean,
    /// The mean through the layer in `2_Dense`, with its activation.
    Dense(fn(f32) -> f32),
}

fn directory(model: &str) -> PathBuf {
    Path::new("tests/fixtures/models").join(model)
}

fn config<T: DeserializeOwned>(model: &str) -> T {
    serde_json::from_slice(&read(directory(model).join("config.json")).unwrap()).unwrap()
}

/// The weights in a file of the model, in f32 whatever they are stored in.
fn weights(model: &str, file: &str) -> VarBuilder<'static> {
    let bytes = read(directory(model).join(file)).unwrap();
    VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap()
}

fn bert(model: &str) -> Hidden {
    let bert = bert::BertModel::load(weights(model, "model.safetensors"), &config(model)).unwrap();
    Box::new(move |ids| bert.forward(ids, &ids.zeros_like()?, None))
}

fn distilbert(model: &str) -> Hidden {
    let distilbert = distilbert::DistilBertModel::load(weights(model, "model.safetensors"), &config(model)).unwrap();
    // There, 1 is for a token that is not seen.
    Box::new(move |ids| distilbert.forward(ids, &ids.zeros_like()?))
}

fn modernbert(model: &str) -> Hidden {
    let weights = weights(model, "model.safetensors");
    // It knows the names of a model with a head alone.
    let has_head = weights.contains_tensor("model.final_norm.weight");
    let name = move |name: &str| if has_head { name } else { name.trim_start_matches("model.") }.to_owned();
    let modernbert = modernbert::ModernBert::load(weights.rename_f(name), &config(model)).unwrap();
    Box::new(move |ids| modernbert.forward(ids, &ids.ones_like()?))
}

fn t5(model: &str) -> Hidden {
    let mut t5 = t5::T5EncoderModel::load(weights(model, "model.safetensors"), &config(model)).unwrap();
    Box::new(move |ids| t5.forward(ids))
}

/// The vector of a text, before it is scaled.
fn vector(model: &str, hidden: &mut Hidden, pooled: Pooled, ids: &[u32]) -> Vec<f32> {
    let ids = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let tokens: Vec<Vec<f32>> = hidden(&ids).unwrap().squeeze(0).unwrap().to_vec2().unwrap();
    let mean = || -> Vec<f32> {
        let sum = |place: usize| tokens.iter().map(|token| f64::from(token[place])).sum::<f64>();
        (0..tokens[0].len()).map(|place| (sum(place) / tokens.len() as f64) as f32).collect()
    };
    match pooled {
        Pooled::First => tokens[0].clone(),
        Pooled::Mean => mean(),
        Pooled::Dense(activation) => {
            let (mean, weights) = (mean(), weights(model, "2_Dense/model.safetensors"));
            let rows: Vec<Vec<f32>> = weights.get_unchecked("linear.weight").unwrap().to_vec2().unwrap();
            let bias: Vec<f32> =
                weights.get_unchecked("linear.bias").map_or(vec![0.0; rows.len()], |bias| bias.to_vec1().unwrap());
            let dot = |row: &[f32]| row.iter().zip(&mean).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
            rows.iter().zip(bias).map(|(row, bias)| activation((dot(row) + f64::from(bias)) as f32)).collect()
        }
    }
}

/// Holds this program's vectors of every text of the reference, alone and all together, against the other's.
#[track_caller]
fn check(model: &str, mut hidden: Hidden, pooled: Pooled) {
    let spec = ModelSpec::read(&directory(model)).unwrap();
    let subject = Subject::new(&spec, ON_PROCESSOR, &Cpu::new);
    let reference: Reference = serde_json::from_slice(&read(directory(model).join("reference.json")).unwrap()).unwrap();
    let (mut worst, mut texts) = (Worst::default(), 0);
    for case in reference.cases.into_iter().filter(|case| case.truncate_dim.is_none() && case.normalize.is_none()) {
        let ids = case.token_ids.as_ref().unwrap();
        let vectors = ids.iter().map(|ids| {
            let mut vector = vector(model, &mut hidden, pooled, ids);
            if spec.normalize {
                let length = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
            }
            Some(Value::from(vector))
        });
        let embeddings = Some(vectors.collect());
        texts += ids.len();
        subject.check(&Case { embeddings, ..case }, &format!("{model} of candle-transformers"), &mut worst);
    }
    assert!(texts > 10, "{model}: only {texts} texts");
    println!("{model} beside candle-transformers, {texts} texts: {worst}");
}

#[test]
fn berts_are_those_of_candle_transformers() {
    check("bert-minilm", bert("bert-minilm"), Pooled::Mean);
    check("bert-bge", bert("bert-bge"), Pooled::First);
}

#[test]
fn a_distilbert_is_that_of_candle_transformers() {
    check("distilbert-dense", distilbert("distilbert-dense"), Pooled::Dense(f32::tanh));
}

#[test]
fn modernberts_are_those_of_candle_transformers() {
    check("modernbert-cls", modernbert("modernbert-cls"), Pooled::First);
    check("modernbert-st6", modernbert("modernbert-st6"), Pooled::Mean);
}

#[test]
fn a_t5_is_that_of_candle_transformers() {
    check("t5-dense", t5("t5-dense"), Pooled::Dense(std::convert::identity));
}
