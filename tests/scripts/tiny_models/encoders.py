"""Models that read in both directions: BERT and its relatives."""

import math
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, normalizers, processors

from .catalogue import cases, model
from .files import write_json
from .jina_bert import JinaBert
from .layout import TANH, bert_config, roberta_config, write_sentence_transformer
from .vocabularies import (
    BERT_SPECIALS, ROBERTA_SPECIALS, around, byte_bpe, roberta_tokenizer, special, unigram, wordpiece,
    write_bert_tokenizer, write_tokenizer, xlmr_tokenizer,
)  # fmt: skip
from .weights import noise, randomise, short, write_state, write_weights


@model(
    "bert-poolings", "a BERT with several pooling modes at once", "max + mean + weightedmean + lasttoken, concatenated",
    "always in the order cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken; cased; hidden_act relu",
)  # fmt: skip
def bert_poolings(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, lowercase=False)
    write_json(folder / "config.json", bert_config(21, 3, 2, 38, vocabulary, 40, hidden_act="relu"))
    write_weights(folder)
    write_sentence_transformer(folder, 21, ["lasttoken", "weightedmean", "max", "mean"], 33)
    return cases()


@model(
    "albert-shared-layers", "paraphrase-albert-small-v2", "mean, no Normalize",
    "three layers share one set of weights; embedding_size differs; hidden_act gelu_new; lower case and no accents",
)  # fmt: skip
def albert(folder: Path) -> list:
    steps = [normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    tokenizer = unigram(["<pad>", "<unk>", "[CLS]", "[SEP]"], "<unk>", normalizer=normalizers.Sequence(steps))
    special(tokenizer, ["[MASK]"], lstrip=True)
    around(tokenizer, "[CLS] $A [SEP]")
    specials = BERT_SPECIALS | dict(bos_token="[CLS]", eos_token="[SEP]", pad_token="<pad>", unk_token="<unk>")
    vocabulary = write_tokenizer(folder, tokenizer, "AlbertTokenizer", specials, 512, do_lower_case=True)
    config = bert_config(
        35, 5, 3, 38, vocabulary + 3, 44, model_type="albert", architectures=["AlbertModel"], embedding_size=19,
        hidden_act="gelu_new", num_hidden_groups=1, inner_group_num=1, classifier_dropout_prob=0.1, bos_token_id=2,
        eos_token_id=3, use_cache=None,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder)
    write_sentence_transformer(folder, 35, "mean", 37, normalize=False)
    return cases()


@model(
    "distilbert-dense", "distiluse-base-multilingual-cased", "mean, Dense with Tanh and bias",
    "no token types; keys n_heads, dim, hidden_dim; `distilbert.` prefix; activation relu; no Normalize",
)  # fmt: skip
def distilbert(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, kind="DistilBertTokenizer")
    config = dict(
        activation="relu", architectures=["DistilBertForMaskedLM"], attention_dropout=0.1, dim=28, dropout=0.1,
        hidden_dim=36, initializer_range=0.02, max_position_embeddings=41, model_type="distilbert", n_heads=4,
        n_layers=2, pad_token_id=0, sinusoidal_pos_embds=False, tie_weights_=True, torch_dtype="float32",
        transformers_version="4.49.0", vocab_size=vocabulary + 1,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, prefix="distilbert.")
    write_sentence_transformer(folder, 28, "mean", 34, normalize=False, dense=[(11, True, TANH)])
    return cases()


@model(
    "roberta-mean", "all-distilroberta-v1", "mean, Normalize",
    "positions start at pad_token_id + 1; f16 weights", stored="f16",
)  # fmt: skip
def roberta_mean(folder: Path) -> list:
    vocabulary = write_tokenizer(
        folder, roberta_tokenizer(), "RobertaTokenizer", ROBERTA_SPECIALS, 512, add_prefix_space=False
    )
    write_json(folder / "config.json", roberta_config(27, 3, 3, 41, vocabulary, 50, torch_dtype="float16"))
    write_weights(folder, dtype="f16")
    write_sentence_transformer(folder, 27, "mean", 48)
    return cases()


@model(
    "roberta-noprompt", "instructor-like: the prompt is read but not pooled",
    "mean with include_prompt false, Normalize",
    "`roberta.` prefix and an unused head in two shards with an index; default_prompt_name", stored="bf16",
)  # fmt: skip
def roberta_noprompt(folder: Path) -> list:
    vocabulary = write_tokenizer(
        folder, roberta_tokenizer(), "RobertaTokenizer", ROBERTA_SPECIALS, 512, add_prefix_space=False
    )
    config = roberta_config(26, 2, 2, 44, vocabulary, 62, architectures=["RobertaForMaskedLM"], torch_dtype="bfloat16")
    write_json(folder / "config.json", config)
    write_weights(folder, "AutoModelForMaskedLM", dtype="bf16", shards=2)
    prompts = {"question": "Represent the question for finding the passage: ", "text": "passage: "}
    write_sentence_transformer(
        folder, 26, "mean", 60, prompts=prompts, default_prompt="text", include_prompt=False
    )
    return cases(["question"], prompt="", length=25)


@model(
    "xlmr-bin-heads", "bge-m3", "cls, Normalize; sparse and ColBERT heads",
    "pytorch_model.bin only; sparse_linear.pt and colbert_linear.pt; the tokenizer normalises (NFKC)", runner="bge_m3",
)  # fmt: skip
def xlmr(folder: Path) -> list:
    tokenizer = xlmr_tokenizer(normalizers.NFKC())
    vocabulary = write_tokenizer(folder, tokenizer, "PreTrainedTokenizerFast", ROBERTA_SPECIALS, 8192)
    config = roberta_config(
        21, 3, 2, 35, vocabulary + 2, 40, model_type="xlm-roberta", architectures=["XLMRobertaModel"]
    )
    write_json(folder / "config.json", config)
    write_weights(folder, pickled=True)
    for name, out in (("sparse_linear", 1), ("colbert_linear", 21)):
        weight = short(noise((out, 21), folder.name, name) / math.sqrt(21))
        bias = short(0.2 * noise((out,), folder.name, name, "bias"))
        torch.save({"weight": weight, "bias": bias}, folder / f"{name}.pt")
    write_sentence_transformer(folder, 21, "cls", 36)
    return cases()


@model(
    "mpnet-bias", "all-mpnet-base-v2", "mean, Normalize",
    "relative position bias in buckets; positions start at 2; [UNK] beside <s>",
)  # fmt: skip
def mpnet(folder: Path) -> list:
    tokenizer = wordpiece(["<s>", "<pad>", "</s>", "[UNK]"])
    special(tokenizer, ["<mask>"], lstrip=True)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    specials = ROBERTA_SPECIALS | {"unk_token": "[UNK]"}
    vocabulary = write_tokenizer(folder, tokenizer, "MPNetTokenizer", specials, 512, do_lower_case=True)
    config = roberta_config(
        24, 4, 2, 35, vocabulary, 47, model_type="mpnet", architectures=["MPNetForMaskedLM"],
        relative_attention_num_buckets=32, type_vocab_size=None, position_embedding_type=None, use_cache=None,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder)
    write_sentence_transformer(folder, 24, "mean", 45)
    return cases()


@model(
    "electra-factorized", "ELECTRA embedding models", "cls, Normalize",
    "embedding_size differs from hidden_size; `electra.` prefix and an unused head",
)  # fmt: skip
def electra(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, kind="ElectraTokenizer")
    config = bert_config(
        25, 5, 2, 45, vocabulary + 2, 39, model_type="electra", architectures=["ElectraForPreTraining"],
        embedding_size=18, summary_activation="gelu", summary_type="first", summary_use_proj=True,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, "AutoModelForPreTraining")
    write_sentence_transformer(folder, 25, "cls", 39)
    return cases()


@model(
    "deberta-v2", "deberta-v3 and mdeberta embedding models", "mean, Normalize",
    "disentangled attention (c2p and p2c) with log buckets and shared projections; no absolute positions",
)  # fmt: skip
def deberta(folder: Path) -> list:
    steps = [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(), normalizers.Strip(left=False)]
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    tokenizer = unigram(names, "[UNK]", normalizer=normalizers.Sequence(steps), by_words=False)
    special(tokenizer, ["[MASK]"])
    around(tokenizer, "[CLS] $A [SEP]")
    specials = BERT_SPECIALS | dict(bos_token="[CLS]", eos_token="[SEP]")
    vocabulary = write_tokenizer(
        folder, tokenizer, "DebertaV2Tokenizer", specials, 512, do_lower_case=False, split_by_punct=False
    )
    config = bert_config(
        21, 3, 3, 31, vocabulary + 5, 64, model_type="deberta-v2", architectures=["DebertaV2Model"],
        layer_norm_eps=1e-7,
        type_vocab_size=0, position_embedding_type=None, use_cache=None, relative_attention=True, position_buckets=10,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type="p2c|c2p", max_relative_positions=-1,
        position_biased_input=False, pooler_dropout=0, pooler_hidden_act="gelu", pooler_hidden_size=21,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder)
    write_sentence_transformer(folder, 21, "mean", 51)
    return cases()


@model(
    "nomic-bert-rotary", "nomic-embed-text-v1.5", "mean, no Normalize",
    "original weight and configuration names; rotary; fused Wqkv; gated feed-forward; prompts; Matryoshka",
)  # fmt: skip
def nomic(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, 8192)
    original = dict(
        activation_function="swiglu", attn_pdrop=0.0, causal=False, embd_pdrop=0.0, layer_norm_epsilon=1e-12,
        mlp_fc1_bias=False, mlp_fc2_bias=False, n_embd=24, n_head=3, n_inner=26, n_layer=2, n_positions=8192,
        pad_vocab_size_multiple=1, parallel_block=False, prenorm=False, qkv_proj_bias=False, resid_pdrop=0.0,
        rotary_emb_base=500, rotary_emb_fraction=1.0, rotary_emb_interleaved=False, rotary_emb_scale_base=None,
        rotary_scaling_factor=None, scale_attn_weights=True, use_rms_norm=False,
    )  # fmt: skip
    both = dict(
        architectures=["NomicBertModel"], model_type="nomic_bert", pad_token_id=0, type_vocab_size=2,
        vocab_size=vocabulary + 2,
    )  # fmt: skip
    renamed = dict(
        hidden_act="silu", hidden_size=24, intermediate_size=26, layer_norm_eps=1e-12, max_position_embeddings=2048,
        num_attention_heads=3, num_hidden_layers=2, rope_parameters={"rope_theta": 500.0, "rope_type": "default"},
        dtype="float32",
    )  # fmt: skip
    # transformers reads the renamed keys alone; a checkpoint of the original repository has the others alone.
    write_json(folder / "config.json", original | both | renamed)
    write_json(folder / "config.original.json", original | both)
    write_weights(folder)
    prompts = {"search_query": "search_query: ", "search_document": "search_document: "}
    write_sentence_transformer(folder, 24, "mean", 43, normalize=False, prompts=prompts, matryoshka_dims=[24, 10])
    return cases(prompts, dims=(10,))


@model(
    "gte-fused", "gte-multilingual-base in the layout of transformers 5", "cls, Normalize",
    "fused qkv_proj and up_gate_proj (up first); rotary; norms after the residual",
)  # fmt: skip
def gte(folder: Path) -> list:
    vocabulary = write_tokenizer(folder, xlmr_tokenizer(), "XLMRobertaTokenizer", ROBERTA_SPECIALS, 8192)
    config = dict(
        architectures=["GteModel"], attention_probs_dropout_prob=0.0, dtype="float32", hidden_act="gelu",
        hidden_dropout_prob=0.1, hidden_size=24, initializer_range=0.02, intermediate_size=23, layer_norm_eps=1e-12,
        max_position_embeddings=8192, model_type="gte", num_attention_heads=4, num_hidden_layers=3, pad_token_id=1,
        rope_parameters={"rope_theta": 20000.0, "rope_type": "default"}, transformers_version="5.23.0",
        type_vocab_size=1, vocab_size=vocabulary + 4,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder)
    write_sentence_transformer(folder, 24, "cls", 42)
    return cases(dims=(7,))


@model(
    "jina-v3-rotary", "jina-embeddings-v3 in the layout of transformers 5, without task adapters", "mean, Normalize",
    "XLM-R with rotary positions; fused Wqkv with bias; Matryoshka",
)  # fmt: skip
def jina_v3(folder: Path) -> list:
    vocabulary = write_tokenizer(folder, xlmr_tokenizer(), "XLMRobertaTokenizer", ROBERTA_SPECIALS, 8194)
    config = roberta_config(
        28, 2, 2, 35, vocabulary, 8194, model_type="jina_embeddings_v3", architectures=["JinaEmbeddingsV3Model"],
        torch_dtype=None, dtype="float32", position_embedding_type=None, matryoshka_dimensions=[8, 28],
        rope_parameters={"rope_theta": 20000.0, "rope_type": "default"}, transformers_version="5.23.0",
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder)
    prompts = {"retrieval.query": "Represent the query for finding the passage: "}
    write_sentence_transformer(folder, 28, "mean", 40, prompts=prompts)
    return cases(prompts, dims=(8,))


@model(
    "jina-bert-alibi", "jina-embeddings-v2-base-en", "mean, Normalize",
    "ALiBi in both directions with six heads (no power of two); gated feed-forward; no positions; model_type bert",
    runner="own_forward",
)  # fmt: skip
def jina_bert(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, 8192)
    implementation = "jinaai/jina-bert-implementation--"
    classes = dict(AutoConfig="configuration_bert.JinaBertConfig", AutoModel="modeling_bert.JinaBertModel")
    config = bert_config(
        24, 6, 2, 34, vocabulary, 8192, architectures=["JinaBertForMaskedLM"], position_embedding_type="alibi",
        feed_forward_type="geglu", emb_pooler="mean", attn_implementation="torch", model_max_length=8192,
        auto_map={key: implementation + value for key, value in classes.items()},
    )  # fmt: skip
    write_json(folder / "config.json", config)
    state = randomise(JinaBert(config), folder.name).state_dict()
    pooler = {  # an unused layer that the published checkpoints hold as well
        "pooler.dense.weight": short(noise((24, 24), folder.name, "pooler")), "pooler.dense.bias": torch.zeros(24),
    }  # fmt: skip
    write_state(folder, state | pooler)
    write_sentence_transformer(folder, 24, "mean", 49)
    return cases()


def modernbert_config(width: int, heads: int, layers: int, inner: int, vocabulary: int, window: int, tokens, **changes):
    """config.json of a ModernBERT: every third layer attends to all tokens, the others to a window."""
    config = dict(
        architectures=["ModernBertModel"], attention_bias=False, attention_dropout=0.0, classifier_pooling="mean",
        bos_token_id=tokens("[CLS]"), cls_token_id=tokens("[CLS]"), eos_token_id=tokens("[SEP]"),
        sep_token_id=tokens("[SEP]"), pad_token_id=tokens("[PAD]"), decoder_bias=True, deterministic_flash_attn=False,
        embedding_dropout=0.0, global_attn_every_n_layers=3, global_rope_theta=160000.0, hidden_activation="gelu",
        hidden_size=width, initializer_cutoff_factor=2.0, initializer_range=0.02, intermediate_size=inner,
        layer_norm_eps=1e-5, local_attention=window, local_rope_theta=10000.0, max_position_embeddings=8192,
        mlp_bias=False, mlp_dropout=0.0, model_type="modernbert", norm_bias=False, norm_eps=1e-5,
        num_attention_heads=heads, num_hidden_layers=layers, position_embedding_type="absolute",
        torch_dtype="float32", transformers_version="4.49.0", vocab_size=vocabulary,
    )  # fmt: skip
    return config | changes


def modernbert_tokenizer() -> Tokenizer:
    tokenizer = byte_bpe([], ["[UNK]", "[CLS]", "[SEP]", "[PAD]"], size=286, normalizer=normalizers.NFC())
    special(tokenizer, ["[MASK]"], lstrip=True)
    around(tokenizer, "[CLS] $A [SEP]")
    return tokenizer


@model(
    "modernbert-cls", "gte-modernbert-base", "cls, Normalize",
    "window of 10 in two of three layers, with a rotary base of their own; `model.` prefix and an unused head; "
    "bf16 weights",
    stored="bf16",
)  # fmt: skip
def modernbert_cls(folder: Path) -> list:
    tokenizer = modernbert_tokenizer()
    vocabulary = write_tokenizer(folder, tokenizer, "PreTrainedTokenizerFast", BERT_SPECIALS, 8192)
    config = modernbert_config(
        24, 4, 4, 30, vocabulary + 1, 10, tokenizer.token_to_id, architectures=["ModernBertForMaskedLM"],
        torch_dtype="bfloat16",
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, "AutoModelForMaskedLM", dtype="bf16")
    write_sentence_transformer(folder, 24, "cls", 46)
    return cases()


@model(
    "modernbert-st6", "modernbert-embed-base, saved by sentence-transformers 6", "mean, Normalize",
    "pooling_mode as a word; no max_seq_length, the limit is model_max_length of the tokenizer; prompts; Matryoshka",
    stored="f16",
)  # fmt: skip
def modernbert_st6(folder: Path) -> list:
    tokenizer = modernbert_tokenizer()
    vocabulary = write_tokenizer(folder, tokenizer, "PreTrainedTokenizerFast", BERT_SPECIALS, 44)
    config = modernbert_config(20, 2, 5, 26, vocabulary, 14, tokenizer.token_to_id, torch_dtype="float16")
    write_json(folder / "config.json", config)
    write_weights(folder, dtype="f16")
    prompts = {"query": "search_query: ", "document": "search_document: "}
    write_sentence_transformer(folder, 20, "mean", None, prompts=prompts, new=True)
    return cases(prompts, dims=(9,))
