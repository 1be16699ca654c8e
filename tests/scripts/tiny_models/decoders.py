"""Models made of language models, and T5's encoder."""

from pathlib import Path

from tokenizers import Tokenizer

from .catalogue import cases, model
from .files import write_json
from .layout import IDENTITY, decoder_config, write_sentence_transformer
from .vocabularies import around, qwen_tokenizer, sentencepiece_bpe, special, unigram, write_tokenizer
from .weights import write_weights

QWEN_SPECIALS = dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")
QWEN_OPTIONS = dict(padding_side="left", add_prefix_space=False, bos_token=None, unk_token=None)
INSTRUCT = "Instruct: Given a question, find the passage that answers it\nQuery:"


@model(
    "qwen2-bias", "jina-code-embeddings", "lasttoken, Normalize",
    "causal; three heads share one key/value head; q/k/v biases; `model.` prefix; no special token is added, so "
    "an empty text has none; bf16",
    stored="bf16",
)  # fmt: skip
def qwen2(folder: Path) -> list:
    vocabulary = write_tokenizer(
        folder, qwen_tokenizer(False), "Qwen2Tokenizer", QWEN_SPECIALS, 32768, **QWEN_OPTIONS
    )
    config = decoder_config(
        30, 3, 1, 2, 37, vocabulary + 3, model_type="qwen2", architectures=["Qwen2ForCausalLM"], rope_theta=1000000.0,
        torch_dtype="bfloat16", use_sliding_window=False, max_window_layers=2, bos_token_id=vocabulary - 3,
        eos_token_id=vocabulary - 1, matryoshka_dims=[11, 30],
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, "AutoModelForCausalLM", dtype="bf16")
    prompts = {"nl2code_query": "Find the code for the question:\n", "nl2code_document": "Code:\n"}
    write_sentence_transformer(folder, 30, "lasttoken", 57, prompts=prompts)
    return cases(prompts, dims=(11,))


@model(
    "qwen3-sharded", "Qwen3-Embedding-0.6B", "lasttoken, Normalize",
    "three shards with an index; norms of queries and keys; head_dim is not hidden/heads; the tokenizer appends "
    "<|endoftext|>; no `model.` prefix",
)  # fmt: skip
def qwen3(folder: Path) -> list:
    vocabulary = write_tokenizer(
        folder, qwen_tokenizer(True), "Qwen2Tokenizer", QWEN_SPECIALS, 131072, **QWEN_OPTIONS
    )
    config = decoder_config(
        19, 6, 2, 2, 33, vocabulary + 2, model_type="qwen3", architectures=["Qwen3ForCausalLM"], attention_bias=False,
        head_dim=6, rope_theta=1000000, use_sliding_window=False, max_window_layers=2, bos_token_id=vocabulary - 3,
        eos_token_id=vocabulary - 1,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, shards=3)
    write_sentence_transformer(folder, 19, "lasttoken", 52, prompts={"query": INSTRUCT, "document": ""})
    return cases(["query", "document"], dims=(8,))


def llama_tokenizer(template: str) -> Tokenizer:
    tokenizer = sentencepiece_bpe(["<unk>", "<s>", "</s>"], 318, splits_words=False)
    around(tokenizer, template)
    return tokenizer


LLAMA_SPECIALS = dict(bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>")


@model(
    "mistral-window", "e5-mistral-7b-instruct", "lasttoken, Normalize",
    "causal with a sliding window of 13; head_dim is not hidden/heads; <s> and </s> added; f16 weights", stored="f16",
)  # fmt: skip
def mistral(folder: Path) -> list:
    tokenizer = llama_tokenizer("<s> $A </s>")
    vocabulary = write_tokenizer(folder, tokenizer, "PreTrainedTokenizerFast", LLAMA_SPECIALS, 4096)
    config = decoder_config(
        23, 4, 2, 2, 41, vocabulary, model_type="mistral", architectures=["MistralModel"], head_dim=8,
        rms_norm_eps=1e-5, sliding_window=13, bos_token_id=1, eos_token_id=2, torch_dtype="float16",
        tie_word_embeddings=False,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, dtype="f16")
    write_sentence_transformer(folder, 23, "lasttoken", 55, prompts={"web_search_query": INSTRUCT + " "})
    return cases(["web_search_query"])


@model(
    "llama-grouped", "embedding models made of Llama", "mean, Normalize",
    "causal; five heads share one key/value head; rope_parameters and dtype as transformers 5 writes them; <s> "
    "added; right padding; bf16",
    stored="bf16",
)  # fmt: skip
def llama(folder: Path) -> list:
    vocabulary = write_tokenizer(
        folder, llama_tokenizer("<s> $A"), "PreTrainedTokenizerFast", LLAMA_SPECIALS, 4096, padding_side="right"
    )
    config = decoder_config(
        30, 5, 1, 3, 39, vocabulary + 5, model_type="llama", architectures=["LlamaModel"], attention_bias=False,
        mlp_bias=False, pretraining_tp=1, bos_token_id=1, eos_token_id=2, rope_theta=None, torch_dtype=None,
        dtype="bfloat16", rope_parameters={"rope_theta": 500000.0, "rope_type": "default"}, rms_norm_eps=1e-5,
        transformers_version="5.23.0", tie_word_embeddings=False, head_dim=6,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, dtype="bf16")
    write_sentence_transformer(folder, 30, "mean", 54)
    return cases(dims=(13,))


@model(
    "gemma3-bidirectional", "EmbeddingGemma-300m", "mean, Dense, Dense, Normalize",
    "attends both ways, in a window in two of three layers; norms multiply by 1 + weight; embeddings × "
    "sqrt(hidden); Matryoshka",
)  # fmt: skip
def gemma3(folder: Path) -> list:
    tokenizer = sentencepiece_bpe(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], 312, splits_words=True)
    around(tokenizer, "<bos> $A <eos>")
    specials = dict(
        bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>"
    )
    vocabulary = write_tokenizer(
        folder, tokenizer, "GemmaTokenizer", specials, 2048, add_bos_token=True, add_eos_token=True
    )
    config = decoder_config(
        18, 3, 1, 3, 26, vocabulary, model_type="gemma3_text", architectures=["Gemma3TextModel"], attention_bias=False,
        attn_logit_softcapping=None, final_logit_softcapping=None, head_dim=8, hidden_act=None,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"], _sliding_window_pattern=3,
        hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=12, rope_local_base_freq=10000.0,
        rope_theta=1000000.0, sliding_window=14, use_bidirectional_attention=True, bos_token_id=2, eos_token_id=1,
        pad_token_id=0, tie_word_embeddings=None,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder)
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    dense = [(34, False, IDENTITY), (18, False, IDENTITY)]
    write_sentence_transformer(folder, 18, "mean", 50, dense=dense, prompts=prompts)
    return cases(prompts, dims=(7,))


@model(
    "t5-dense", "sentence-t5-base, gtr-t5", "mean, Dense without bias, Normalize",
    "encoder only; relative position bias of the first layer for all; attention not scaled; gated-gelu; d_kv is "
    "not d_model/heads",
)  # fmt: skip
def t5(folder: Path) -> list:
    tokenizer = unigram(["<pad>", "</s>", "<unk>"], "<unk>")
    extra = ["<extra_id_0>", "<extra_id_1>"]
    special(tokenizer, extra)
    around(tokenizer, "$A </s>")
    specials = dict(eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    vocabulary = write_tokenizer(
        folder, tokenizer, "T5Tokenizer", specials, 512, extra_ids=2, additional_special_tokens=extra
    )
    config = dict(
        architectures=["T5EncoderModel"], d_ff=34, d_kv=7, d_model=25, decoder_start_token_id=0, dropout_rate=0.1,
        eos_token_id=1, feed_forward_proj="gated-gelu", initializer_factor=1.0, is_encoder_decoder=True,
        layer_norm_epsilon=1e-6, model_type="t5", n_positions=512, num_decoder_layers=2, num_heads=3, num_layers=2,
        pad_token_id=0, relative_attention_max_distance=30, relative_attention_num_buckets=12, torch_dtype="float32",
        transformers_version="4.49.0", use_cache=True, vocab_size=vocabulary + 6,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, "T5EncoderModel")
    write_sentence_transformer(folder, 25, "mean", 47, dense=[(14, False, IDENTITY)])
    return cases()
