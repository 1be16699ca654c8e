//! Which tensors are the meaning of a model, under which names.
//!
//! A checkpoint says the same with or without a prefix before its names, and may hold tensors of which no vector is
//! made. Those are left out by name, and only where that is sure:
//!
//! - buffers that every program makes anew: `position_ids`, the zeros of `embeddings.token_type_ids`, `inv_freq`;
//! - BERT's pooler, which no kind of pooling here reads;
//! - heads for other tasks: the next sentence, classes, answers to questions, replaced tokens;
//! - the head of a language model, where no weights of the vocabulary are made of it;
//! - a last layer that is the table of words once more: files of `PyTorch` hold it, safetensors do not.
//!
//! A tensor that is not known counts: it can separate two spaces that are one, and never merge two.

use std::collections::{HashMap, HashSet};

use crate::domain::Digest;
use crate::model::weights::{PREFIXES, TensorDigest};

/// Beginnings of the names of tensors that no layer reads.
const UNREAD: [&str; 9] = [
    "pooler.",
    "cls.seq_relationship.",
    "classifier.",
    "pre_classifier.",
    "qa_outputs.",
    "sop_classifier.",
    "discriminator_predictions.",
    "score.",
    "embeddings.token_type_ids",
];

/// Beginnings of the names of tensors that only weights of the vocabulary are made of.
const OF_VOCABULARY: [&str; 9] = [
    "cls.predictions.",
    "lm_head.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "generator_predictions.",
    "generator_lm_head.",
    "predictions.",
    "decoder.",
];

/// The same of `ModernBERT`, whose `head.` is nobody else's.
const HEAD: [&str; 2] = ["head.dense.", "head.norm."];

/// Names of what may be the same tensor as another.
const COPIES: [(&str, &str); 10] = [
    ("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ("lm_head.decoder.weight", "embeddings.word_embeddings.weight"),
    ("lm_head.decoder.bias", "lm_head.bias"),
    ("vocab_projector.weight", "embeddings.word_embeddings.weight"),
    ("generator_lm_head.weight", "embeddings.word_embeddings.weight"),
    ("predictions.decoder.weight", "embeddings.word_embeddings.weight"),
    ("predictions.decoder.bias", "predictions.bias"),
    ("decoder.weight", "embeddings.tok_embeddings.weight"),
    ("encoder.embed_tokens.weight", "shared.weight"),
];

/// Whether weights of the vocabulary are made by the head of a language model.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LanguageHead {
    Read,
    Unread,
}

/// The tensors that count, by the names that they have for the layers, in the order of these.
pub(super) fn meant(tensors: &[TensorDigest], head: LanguageHead) -> Vec<(String, Digest)> {
    let mut seen = HashSet::new();
    let bare: Vec<String> = tensors.iter().map(|tensor| bare(&tensor.name)).collect();
    let repeated: HashSet<&str> = bare.iter().map(String::as_str).filter(|name| !seen.insert(*name)).collect();
    // Two tensors of one name are told apart by the whole of it.
    let named = tensors.iter().zip(&bare).map(|(tensor, bare)| {
        let name = if repeated.contains(bare.as_str()) { &tensor.name } else { bare };
        (name.as_str(), tensor.digest)
    });
    let named: HashMap<&str, Digest> = named.collect();
    let is_copy = |name: &str, digest: &Digest| {
        let of = COPIES.iter().find(|(copy, _)| *copy == name).and_then(|(_, of)| named.get(of));
        of == Some(digest)
    };
    let counts = |name: &str, digest: &Digest| is_read(name, head) && !is_copy(name, digest);
    let mut meant: Vec<(String, Digest)> = named
        .iter()
        .filter(|(name, digest)| counts(name, digest))
        .map(|(name, digest)| ((*name).to_owned(), *digest))
        .collect();
    meant.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    meant
}

/// The name without what checkpoints put before it, and with the newer names of a norm's parts.
fn bare(name: &str) -> String {
    let mut rest = name;
    while let Some(shorter) =
        PREFIXES.iter().filter(|prefix| !prefix.is_empty()).find_map(|prefix| rest.strip_prefix(prefix))
    {
        rest = shorter;
    }
    match (rest.strip_suffix(".gamma"), rest.strip_suffix(".beta")) {
        (Some(norm), _) => format!("{norm}.weight"),
        (_, Some(norm)) => format!("{norm}.bias"),
        _ => rest.to_owned(),
    }
}

fn is_read(name: &str, head: LanguageHead) -> bool {
    let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| name.starts_with(beginning));
    let buffer = name.ends_with("embeddings.position_ids") || name.ends_with("rotary_emb.inv_freq");
    !(buffer || begins(&UNREAD) || (head == LanguageHead::Unread && (begins(&OF_VOCABULARY) || begins(&HEAD))))
}

#[cfg(test)]
mod tests {
    use LanguageHead::{Read, Unread};

    use super::*;

    fn tensors(list: &[(&str, &str)]) -> Vec<TensorDigest> {
        let tensor = |(name, numbers): &(&str, &str)| TensorDigest {
            name: (*name).to_owned(),
            digest: Digest::of(numbers.as_bytes()),
        };
        list.iter().map(tensor).collect()
    }

    const WORDS: (&str, &str) = ("embeddings.word_embeddings.weight", "words");

    #[track_caller]
    fn check(one: &[(&str, &str)], other: &[(&str, &str)], head: LanguageHead, equal: bool) {
        let [one, other] = [one, other].map(|list| meant(&tensors(list), head));
        assert_eq!(one == other, equal, "{one:?} {other:?}");
    }

    #[test]
    fn prefixes_order_and_older_names_do_not_matter() {
        let plain = [WORDS, ("encoder.layer.0.output.LayerNorm.weight", "norm")];
        let prefixed = [
            ("bert.encoder.layer.0.output.LayerNorm.gamma", "norm"),
            ("0.auto_model.embeddings.word_embeddings.weight", "words"),
        ];
        check(&plain, &prefixed, Unread, true);
        check(&[("transformer.layer.0.w", "a")], &[("distilbert.transformer.layer.0.w", "a")], Unread, true);
    }

    #[test]
    fn what_no_layer_reads_does_not_matter() {
        for unread in [
            "bert.embeddings.position_ids",
            "bert.pooler.dense.weight",
            "cls.seq_relationship.bias",
            "layers.0.self_attn.rotary_emb.inv_freq",
            "lm_head.bias",
            "head.norm.weight",
            "decoder.block.0.layer.0.SelfAttention.q.weight",
        ] {
            check(&[WORDS], &[WORDS, (unread, "x")], Unread, true);
        }
        check(&[WORDS], &[WORDS, ("lm_head.bias", "x")], Read, false);
        check(&[WORDS], &[WORDS, ("cls.predictions.decoder.weight", "words")], Read, true);
        check(&[WORDS], &[WORDS, ("cls.predictions.decoder.weight", "others")], Read, false);
    }

    #[test]
    fn every_other_tensor_matters() {
        for other in ["linear.weight", "encoder.layer.1.w", "embeddings.position_embeddings.weight", "classifier2.w"] {
            check(&[WORDS], &[WORDS, (other, "x")], Unread, false);
            check(&[WORDS, (other, "x")], &[WORDS, (other, "y")], Unread, false);
        }
        check(&[("a", "x"), ("b", "y")], &[("a", "y"), ("b", "x")], Unread, false);
        check(&[("x", "1"), ("bert.x", "2")], &[("x", "2"), ("bert.x", "1")], Unread, false);
    }
}
