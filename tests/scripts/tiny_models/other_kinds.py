"""Models that give something else than one vector from a transformer: weights per token id, a vector per token, sums of
rows of a table."""

import math
from pathlib import Path

from safetensors.torch import save_file

from .catalogue import cases, model
from .files import write_json
from .layout import IDENTITY, bert_config, roberta_config, write_dense, write_modules
from .texts import FEW, LONG, SENTENCE, TEXTS
from .vocabularies import (
    BERT_SPECIALS, ROBERTA_SPECIALS, bert_tokenizer, roberta_tokenizer, special, write_bert_tokenizer, write_tokenizer,
)  # fmt: skip
from .weights import noise, short, write_weights


@model(
    "splade-mlm", "splade-v3", "max over tokens of log(1 + relu(logit))",
    "masked-LM head: dense, activation, norm, decoder tied to the embeddings with a bias; expected {token id: "
    "weight}",
    runner="sparse_encoder",
)  # fmt: skip
def splade(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, 38)
    config = bert_config(22, 2, 2, 41, vocabulary, 38, architectures=["BertForMaskedLM"])
    write_json(folder / "config.json", config)

    def few_weights(model) -> None:
        model.cls.predictions.bias.sub_(2.0)

    write_weights(folder, "AutoModelForMaskedLM", adjust=few_weights)
    package = "sentence_transformers.sparse_encoder.models."
    write_modules(folder, [(package + "MLMTransformer", ""), (package + "SpladePooling", "1_SpladePooling")])
    pooling = {"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": None}
    write_json(folder / "1_SpladePooling" / "config.json", pooling)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 38, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        {"model_type": "SparseEncoder", "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "dot"},
    )
    return [dict(name="plain", texts=TEXTS), dict(name="max_length 8", texts=FEW, max_length=8)]


def write_new_splade(folder: Path, length: int, strategy: str, activation: str) -> None:
    """The files of sentence-transformers since version 6."""
    modules = "sentence_transformers."
    write_modules(
        folder,
        [
            (modules + "base.modules.transformer.Transformer", ""),
            (modules + "sparse_encoder.modules.splade_pooling.SpladePooling", "1_SpladePooling"),
        ],
    )
    pooling = {"pooling_strategy": strategy, "activation_function": activation, "embedding_dimension": None}
    write_json(folder / "1_SpladePooling" / "config.json", pooling)
    output = {"text": {"method": "forward", "method_output_name": "logits"}}
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "fill-mask", "modality_config": output, "module_output_name": "token_embeddings",
            "max_seq_length": length,
        },
    )  # fmt: skip
    write_json(
        folder / "config_sentence_transformers.json",
        {"model_type": "SparseEncoder", "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "dot"},
    )


@model(
    "splade-distilbert", "opensearch-neural-sparse-encoding-v1", "sum over tokens of log(1 + relu(logit))",
    "head vocab_transform, vocab_layer_norm, vocab_projector; activation relu; files of sentence-transformers 6",
    runner="sparse_encoder",
)  # fmt: skip
def splade_distilbert(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, 33, kind="DistilBertTokenizer")
    config = dict(
        activation="relu", architectures=["DistilBertForMaskedLM"], attention_dropout=0.1, dim=20, dropout=0.1,
        hidden_dim=27, initializer_range=0.02, max_position_embeddings=36, model_type="distilbert", n_heads=4,
        n_layers=2, pad_token_id=0, sinusoidal_pos_embds=False, tie_weights_=True, torch_dtype="float32",
        transformers_version="4.49.0", vocab_size=vocabulary + 1,
    )  # fmt: skip
    write_json(folder / "config.json", config)

    def few_weights(model) -> None:
        model.vocab_projector.bias.sub_(2.0)

    write_weights(folder, "AutoModelForMaskedLM", adjust=few_weights)
    write_new_splade(folder, 33, "sum", "relu")
    return [dict(name="plain", texts=TEXTS), dict(name="max_length 8", texts=FEW, max_length=8)]


@model(
    "splade-roberta", "granite-embedding-30m-sparse", "max over tokens of log(1 + log(1 + relu(logit)))",
    "head lm_head.dense, layer_norm, decoder tied to the embeddings; always gelu; layers have relu",
    runner="sparse_encoder",
)  # fmt: skip
def splade_roberta(folder: Path) -> list:
    vocabulary = write_tokenizer(
        folder, roberta_tokenizer(), "RobertaTokenizer", ROBERTA_SPECIALS, 512, add_prefix_space=False
    )
    config = roberta_config(
        18, 3, 2, 23, vocabulary, 40, architectures=["RobertaForMaskedLM"], hidden_act="relu"
    )
    write_json(folder / "config.json", config)

    def few_weights(model) -> None:
        model.lm_head.bias.sub_(1.0)

    write_weights(folder, "AutoModelForMaskedLM", adjust=few_weights)
    write_new_splade(folder, 36, "max", "log1p_relu")
    return [dict(name="plain", texts=TEXTS), dict(name="max_length 8", texts=FEW, max_length=8)]


QUESTIONS = ["Where does the crab wait?", "tide", ""]
PASSAGES = [SENTENCE, TEXTS[7], "", LONG * 3]
MULTI_VECTOR_CASES = [
    dict(name="queries", task="query", texts=[*QUESTIONS, LONG]),
    dict(name="documents", task="document", texts=PASSAGES),
    dict(name="maxsim", queries=QUESTIONS, texts=PASSAGES),
]


@model(
    "colbert-pylate", "ColBERT in PyLate's layout", "a unit vector per token",
    "[Q] and [D] tokens as prefixes; queries filled up with [MASK]; punctuation of documents dropped",
    runner="multi_vector",
)  # fmt: skip
def colbert_pylate(folder: Path) -> list:
    tokenizer = bert_tokenizer()
    special(tokenizer, ["[Q] ", "[D] "])
    vocabulary = write_tokenizer(folder, tokenizer, "BertTokenizer", BERT_SPECIALS, 512, do_lower_case=True)
    write_json(folder / "config.json", bert_config(20, 5, 2, 32, vocabulary, 40))
    write_weights(folder)
    write_modules(folder, [("Transformer", ""), ("pylate.models.Dense.Dense", "1_Dense")])
    write_dense(folder / "1_Dense", 20, 9, False, IDENTITY)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 29, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        dict(
            model_type="ColBERT", prompts={}, default_prompt_name=None, similarity_fn_name="MaxSim",
            query_prefix="[Q] ", document_prefix="[D] ",
            query_length=11, document_length=30, attend_to_expansion_tokens=False,
            skiplist_words=list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        ),
    )  # fmt: skip
    return MULTI_VECTOR_CASES


@model(
    "colbert-stanford", "colbertv2.0 in its original layout", "a unit vector per token",
    "architecture HF_ColBERT; `bert.` prefix and linear.weight in one file; artifact.metadata; [unused0] and "
    "[unused1] as markers",
    runner="multi_vector",
)  # fmt: skip
def colbert_stanford(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, more=["[unused0]", "[unused1]"])
    write_json(folder / "config.json", bert_config(18, 3, 2, 29, vocabulary, 40, architectures=["HF_ColBERT"]))
    linear = short(noise((8, 18), folder.name, "linear") / math.sqrt(18))
    write_weights(folder, prefix="bert.", extra={"linear.weight": linear})
    write_json(
        folder / "artifact.metadata",
        dict(
            query_token_id="[unused0]", doc_token_id="[unused1]", query_token="[Q]", doc_token="[D]", dim=8,
            similarity="cosine", doc_maxlen=27, query_maxlen=12, mask_punctuation=True, attend_to_mask_tokens=False,
        ),
    )  # fmt: skip
    return MULTI_VECTOR_CASES


@model(
    "static-model2vec", "potion-base-8M (layout of model2vec)", "mean of rows, Normalize",
    "one tensor `embeddings` of odd width; no special tokens are added; no limit; a text without tokens is a "
    "zero vector",
)  # fmt: skip
def static_model2vec(folder: Path) -> list:
    tokenizer = bert_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    rows = noise((tokenizer.get_vocab_size(), 37), folder.name, "rows")
    save_file({"embeddings": rows}, folder / "model.safetensors", {"format": "pt"})
    config = dict(
        model_type="model2vec", architectures=["StaticModel"], tokenizer_name="bert", apply_pca=37, apply_zipf=True,
        hidden_dim=37, seq_length=1000000, normalize=True,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_modules(folder, [("StaticEmbedding", "."), ("Normalize", "1_Normalize")])
    return [case for case in cases() if "max_length" not in case]


@model(
    "static-st", "static-retrieval-mrl-en-v1", "mean of rows, no Normalize",
    "0_StaticEmbedding with `embedding.weight`; vectors keep their length; a prompt by name; Matryoshka",
)  # fmt: skip
def static_st(folder: Path) -> list:
    (folder / "0_StaticEmbedding").mkdir()
    tokenizer = bert_tokenizer()
    tokenizer.save(str(folder / "0_StaticEmbedding" / "tokenizer.json"), pretty=False)
    rows = noise((tokenizer.get_vocab_size(), 31), folder.name, "rows")
    save_file({"embedding.weight": rows}, folder / "0_StaticEmbedding" / "model.safetensors", {"format": "pt"})
    write_modules(folder, [("StaticEmbedding", "0_StaticEmbedding")])
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {"query": "query: "}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    return [case for case in cases(["query"], dims=(10,)) if "max_length" not in case]
