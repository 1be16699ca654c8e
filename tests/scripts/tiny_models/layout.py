"""The files around the weights: config.json as transformers writes it, modules.json and its folders as
sentence-transformers does."""

import math
from pathlib import Path

from safetensors.torch import save_file

from .files import write_json
from .weights import noise, short

MODULE_TYPES = {  # of sentence-transformers up to 5, and since 6
    "Transformer": ("models.Transformer", "base.modules.transformer.Transformer"),
    "Pooling": ("models.Pooling", "sentence_transformer.modules.pooling.Pooling"),
    "Dense": ("models.Dense", "base.modules.dense.Dense"),
    "Normalize": ("models.Normalize", "base.modules.normalize.Normalize"),
    "StaticEmbedding": ("models.StaticEmbedding", "sentence_transformer.modules.static_embedding.StaticEmbedding"),
}
POOLINGS = {
    "cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken",
}  # fmt: skip
TANH = "torch.nn.modules.activation.Tanh"
IDENTITY = "torch.nn.modules.linear.Identity"


def write_modules(folder: Path, modules: list, new: bool = False) -> None:
    """modules.json for pairs of kind and path."""
    types = {kind: "sentence_transformers." + names[new] for kind, names in MODULE_TYPES.items()}
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": types.get(kind, kind)}
        for index, (kind, path) in enumerate(modules)
    ]
    write_json(folder / "modules.json", entries)


def write_dense(folder: Path, width: int, out: int, bias: bool, activation: str) -> None:
    write_json(
        folder / "config.json",
        {"in_features": width, "out_features": out, "bias": bias, "activation_function": activation},
    )
    key = (folder.parent.name, folder.name)
    state = {"linear.weight": short(noise((out, width), *key) / math.sqrt(width))}
    if bias:
        state["linear.bias"] = short(0.2 * noise((out,), *key, "bias"))
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def write_sentence_transformer(
    folder: Path, width: int, pooling, max_length: int | None, normalize: bool = True, dense: list = (),
    prompts: dict = {}, default_prompt: str | None = None, include_prompt: bool = True, new: bool = False, **more,
) -> None:  # fmt: skip
    """The files of sentence-transformers around the model; `new` are those of version 6."""
    modes = [pooling] if isinstance(pooling, str) else pooling
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    if new:
        pool = {"embedding_dimension": width, "pooling_mode": pooling, "include_prompt": include_prompt}
        output = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
        transformer = {"transformer_task": "feature-extraction", "modality_config": output}
        transformer["module_output_name"] = "token_embeddings"
    else:
        pool = {"word_embedding_dimension": width}
        pool |= {f"pooling_mode_{key}": mode in modes for mode, key in POOLINGS.items()}
        pool["include_prompt"] = include_prompt
        transformer = {"max_seq_length": max_length, "do_lower_case": False}
    write_json(folder / "1_Pooling" / "config.json", pool)
    write_json(folder / "sentence_bert_config.json", transformer)
    width *= len(modes)
    for index, (out, bias, activation) in enumerate(dense, start=2):
        modules.append(("Dense", f"{index}_Dense"))
        write_dense(folder / f"{index}_Dense", width, out, bias, activation)
        width = out
    if normalize:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
    write_modules(folder, modules, new)
    versions = {"sentence_transformers": "6.2.0" if new else "3.4.1", "transformers": "4.49.0", "pytorch": "2.6.0"}
    config = {"__version__": versions, "prompts": prompts, "default_prompt_name": default_prompt}
    if new:
        config["model_type"] = "SentenceTransformer"
    write_json(
        folder / "config_sentence_transformers.json", {**config, "similarity_fn_name": "cosine", **more}
    )


def bert_config(width: int, heads: int, layers: int, inner: int, vocabulary: int, positions: int, **changes) -> dict:
    """config.json of a BERT as transformers 4 wrote it; a change to None takes the key away."""
    config = dict(
        architectures=["BertModel"], attention_probs_dropout_prob=0.1, hidden_act="gelu", hidden_dropout_prob=0.1,
        hidden_size=width, initializer_range=0.02, intermediate_size=inner, layer_norm_eps=1e-12,
        max_position_embeddings=positions, model_type="bert", num_attention_heads=heads, num_hidden_layers=layers,
        pad_token_id=0, position_embedding_type="absolute", torch_dtype="float32", transformers_version="4.49.0",
        type_vocab_size=2, use_cache=True, vocab_size=vocabulary,
    )  # fmt: skip
    return {key: value for key, value in (config | changes).items() if value is not None}


def roberta_config(*sizes, **changes) -> dict:
    """Positions count from pad_token_id + 1 on, so two of them are never used."""
    own = dict(
        model_type="roberta", architectures=["RobertaModel"], layer_norm_eps=1e-5, type_vocab_size=1, pad_token_id=1,
        bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    return bert_config(*sizes, **(own | changes))


def decoder_config(width: int, heads: int, kv_heads: int, layers: int, inner: int, vocabulary: int, **changes) -> dict:
    """config.json of a Qwen, Mistral or Llama as transformers 4 wrote it; a change to None takes the key away."""
    config = dict(
        attention_dropout=0.0, hidden_act="silu", hidden_size=width, initializer_range=0.02, intermediate_size=inner,
        max_position_embeddings=2048, num_attention_heads=heads, num_hidden_layers=layers,
        num_key_value_heads=kv_heads, rms_norm_eps=1e-6, rope_theta=10000.0, tie_word_embeddings=True,
        torch_dtype="float32", transformers_version="4.51.3", use_cache=True, vocab_size=vocabulary,
    )  # fmt: skip
    return {key: value for key, value in (config | changes).items() if value is not None}
