//! One loaded model that is asked in two ways gives the bytes of two models that are loaded for one way each.

use std::path::Path;

use super::*;
use crate::domain::{TokenSeq, VectorKind};
use crate::lease::{DeviceKey, Lease};
use crate::model::spec::{ModelSpec, PromptChoice};
use crate::model::weights::Weights;
use crate::nn::Cpu;
use crate::prepare::Tokenizer;

const TEXTS: [&str; 3] = ["Tides follow the moon, by about fifty minutes a day.", "What is a tide?", "A pool."];

/// A model, the profile of its documents, and that of its queries.
#[track_caller]
fn check(model: &str, documents: impl Fn(&ModelSpec) -> Profile, queries: impl Fn(&ModelSpec) -> Profile) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(model);
    let spec = ModelSpec::read(&directory).unwrap();
    let lease = Lease::shared([DeviceKey::of_slot(0)]);
    let device = lease.devices().next().unwrap();
    let load = |kinds: &[VectorKind]| {
        let weights = Weights::of(&spec, kinds).unwrap();
        let heads = HeadOptions { kinds, instructions: crate::nn::Instructions::default() };
        load_on(&spec, &weights, heads, vec![(device, Cpu::new())]).unwrap().remove(0)
    };
    let pack = |tokenizer: &Tokenizer| {
        let sequences: Vec<TokenSeq> = TEXTS.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
        PackedBatch::of(&sequences)
    };
    let mut profiles = [documents(&spec), queries(&spec)];
    let tokenizer = Tokenizer::of(&spec, &profiles[0]).unwrap();
    let (mut batches, mut expected) = (Vec::new(), Vec::new());
    for profile in &mut profiles {
        let view = tokenizer.with(&spec, profile).unwrap();
        let alone = Tokenizer::of(&spec, profile).unwrap();
        profile.left_out = if spec.include_prompt { 0 } else { view.prompt_tokens().unwrap() };
        assert_eq!(pack(&view).ids(), pack(&alone).ids(), "{model}: {profile:?}");
        expected.push(load(&profile.kinds).encode(&pack(&alone), profile).unwrap());
        batches.push(pack(&view));
    }
    assert_ne!(expected[0], expected[1], "{model}: the profiles do not differ");

    let kinds: Vec<VectorKind> =
        VectorKind::ALL.into_iter().filter(|kind| profiles.iter().any(|it| it.asks_for(*kind))).collect();
    let mut encoder = load(&kinds);
    let begun = [0, 1].map(|index| encoder.begin(&batches[index], &profiles[index]).unwrap());
    for (index, begun) in begun.into_iter().enumerate() {
        let (batch, profile) = (&batches[index], &profiles[index]);
        assert_eq!(encoder.finish(begun, batch, profile).unwrap(), expected[index], "{model}: {profile:?}");
        assert_eq!(encoder.encode(batch, profile).unwrap(), expected[index], "{model}: {profile:?}");
    }
}

fn documents(spec: &ModelSpec) -> Profile {
    Profile::new(spec, spec.prompt(&PromptChoice::Default).unwrap())
}

#[test]
fn prompt_limit_cut_and_scale_are_the_profiles() {
    let queries = |spec: &ModelSpec| {
        let prompt = spec.prompt(&PromptChoice::Text("Represent this question: ".to_owned())).unwrap();
        Profile { max_length: 9, normalize: false, ..Profile::new(spec, prompt).cut_to(Some(8)) }
    };
    check("bert-minilm", documents, queries);
    check("bert-poolings", documents, queries);
}

#[test]
fn queries_are_filled_up_and_documents_lose_their_skipped_tokens() {
    let queries = |spec: &ModelSpec| Profile::new(spec, spec.prompt(&PromptChoice::Named("query".to_owned())).unwrap());
    check("colbert-pylate", documents, queries);
    check("colbert-stanford", documents, queries);
}

#[test]
fn kinds_of_vectors_are_the_profiles() {
    let sparse = |spec: &ModelSpec| Profile { kinds: vec![VectorKind::Sparse], ..documents(spec) };
    let others = |spec: &ModelSpec| Profile { kinds: vec![VectorKind::Dense, VectorKind::Multi], ..documents(spec) };
    check("xlmr-bin-heads", sparse, others);
}
