#!/usr/bin/env python3
"""Makes the tiny models of tests/fixtures/models: random weights in the layout of real checkpoints.

    python tests/scripts/make_models.py [NAME ...]            # write the directories (all without NAME)
    python tests/scripts/make_models.py --check [NAME ...]    # compute again, compare with reference.json
    python tests/scripts/make_models.py --list

Each directory holds what a user has on disk (configuration, tokenizer, weights, files of sentence-transformers), and
reference.json: token ids and vectors that the reference libraries compute for it in f32, one text at a time, on one
thread. Tokenizers are trained here on a few sentences, weights come from a seed; nothing is downloaded. The same seed
and library versions give the same files, except that another processor may round a vector's last digit otherwise.

Requirements (the fixtures were made with these versions, Python 3.11, on a CPU):
    torch==2.15.0 transformers==5.23.0 sentence-transformers==6.2.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import importlib.metadata
import json
import logging
import math
import shutil
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

# ---------------------------------------------------------------------------------------------------------- texts

CORPUS = [
    "The tide goes out twice a day and leaves small pools between the stones of the harbour.",
    "A crab waits under the weed until the water comes back over the rocks.",
    "Search for the nearest passage: which animals live between the tides on a stony shore?",
    "Every vector stands for a text, and texts that mean the same stand near one another.",
    "query: where does the water go?  passage: it goes out to sea and it comes back again.",
    "Represent this sentence; find the answer that was given to the question before.",
    "In 2024 the keeper counted 318 limpets, 57 anemones and 6 starfish on the northern stones.",
    "def count(stones): return sum(1 for stone in stones if stone.wet and not stone.empty)",
    "let mut total = 0; for (name, value) in counts.iter() { total += value; }",
    "Le crabe était caché sous l'algue brûlée près du café, où la mer est très calme.",
    "Der Krebs wartet unter dem Stein; die Flut kommt später, und das Wasser läuft über die Größe.",
    "Краб ждёт под камнем, пока вода не вернётся к берегу моря.",
    "潮が引くと小さな蟹が石の間に見える。海の水は戻る。",
    "The keeper said that the sea keeps its own time, and that nobody has ever seen it wait.",
]
LONG = (
    "The keeper of the harbour wrote down every tide, and what it left behind: a crab, two shells, the end of a rope. "
    "Nobody asked for the list, and whether the last line still counts depends on where the text is cut. "
)
SENTENCE = "The crab waits between the wet stones."
TEXTS = [
    SENTENCE,
    "harbour",
    "",
    " \n\t ",
    "Crème brûlée im Café: naïve Größe, e\u0301 — 12,50 €",
    "潮が引く 🦀🌊 Краб ﬁn Ｗide ΩΜ",
    "a [SEP] b [CLS] </s> c <s> <|endoftext|> <eos> [MASK] <mask> [PAD]<pad> [UNK] ##s ▁x",
    "def count(stones):\n\treturn  sum(1 for s in stones)  # 0x1F\r\n",
    "ununderstandabilityness" * 2,
    LONG * 3,
]
FEW = [SENTENCE, "", LONG * 3]


def words_of(tokenizer: Tokenizer) -> Counter:
    """How often each word of the corpus stands there, after the tokenizer's own normalizer and splitter."""
    words = Counter()
    for line in CORPUS:
        if tokenizer.normalizer:
            line = tokenizer.normalizer.normalize_str(line)
        pieces = tokenizer.pre_tokenizer.pre_tokenize_str(line) if tokenizer.pre_tokenizer else [(line, None)]
        words.update(piece for piece, _ in pieces)
    return words


def most(counts: Counter, number: int) -> list:
    """The most frequent keys, ties in the order of the keys: the trainers of the library break ties by chance."""
    return sorted(counts, key=lambda key: (-counts[key], key))[:number]


# ----------------------------------------------------------------------------------------------------- tokenizers


def letters_of(words: Counter, number: int) -> list:
    letters = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    return most(letters, number)


def merges_of(words: Counter, alphabet: list, number: int) -> list:
    """Byte pair encoding: the pairs to be joined, the most frequent first."""
    split = [([letter for letter in word], count) for word, count in words.items()]
    allowed, merges = set(alphabet), []
    while len(merges) < number:
        pairs = Counter()
        for parts, count in split:
            for left, right in zip(parts, parts[1:]):
                if left in allowed and right in allowed:
                    pairs[left, right] += count
        if not pairs:
            break
        best = most(pairs, 1)[0]
        merges.append(best)
        allowed.add("".join(best))
        for parts, _ in split:
            at = 0
            while at + 1 < len(parts):
                if (parts[at], parts[at + 1]) == best:
                    parts[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def special(tokenizer: Tokenizer, tokens: list, **options) -> None:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False, **options) for token in tokens])


def around(tokenizer: Tokenizer, single: str) -> None:
    """Special tokens added to each text, such as "[CLS] $A [SEP]"."""
    names = [name for name in dict.fromkeys(single.split()) if name != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=single + " " + single.replace("$A", "$B"),
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in names],
    )


def wordpiece(specials: list, size: int = 150, lowercase: bool = True) -> Tokenizer:
    """BERT's: letters, the same inside a word (##), frequent beginnings and endings."""
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = words_of(tokenizer)
    letters = letters_of(words, 54)
    inside = [letter for letter in letters if letter.isalnum()][:34]
    longer = Counter()
    for word, count in words.items():
        for cut in range(1, len(word)):
            longer["##" + word[cut:]] += count * (len(word) - cut - 1)
            longer[word[: cut + 1]] += count * cut
    vocabulary = [*specials, *letters, *("##" + letter for letter in inside)]
    vocabulary += [piece for piece in most(longer, size) if piece not in vocabulary][: size - len(vocabulary)]
    tokenizer.model = models.WordPiece({piece: id for id, piece in enumerate(vocabulary)}, unk_token="[UNK]")
    special(tokenizer, specials)
    return tokenizer


def bert_tokenizer(size: int = 150, lowercase: bool = True, more: list = ()) -> Tokenizer:
    tokenizer = wordpiece(["[PAD]", *more, "[UNK]", "[CLS]", "[SEP]", "[MASK]"], size, lowercase)
    around(tokenizer, "[CLS] $A [SEP]")
    return tokenizer


def byte_bpe(first: list, last: list, size: int = 300, normalizer=None, split: str | None = None) -> Tokenizer:
    """GPT-2's: the 256 bytes and merges of them; `first` and `last` special tokens have the lowest and highest ids."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = level
    if split:
        isolated = pre_tokenizers.Split(Regex(split), "isolated", invert=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([isolated, level])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = merges_of(words_of(tokenizer), alphabet, size - 256 - len(first) - len(last))
    vocabulary = [*first, *alphabet, *map("".join, merges)]
    tokenizer.model = models.BPE({piece: id for id, piece in enumerate(vocabulary)}, merges)
    special(tokenizer, [*first, *last])
    return tokenizer


def sentencepiece_bpe(specials: list, size: int, splits_words: bool) -> Tokenizer:
    """Llama's and Gemma's: letters and merges, with single bytes for what is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    words = words_of(tokenizer)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = letters_of(words, 36)
    merges = merges_of(words, letters, size - len(specials) - len(bytes_) - len(letters))
    vocabulary = {piece: id for id, piece in enumerate([*specials, *bytes_, *letters, *map("".join, merges)])}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    space = normalizers.Replace(" ", "▁")
    if splits_words:  # Gemma
        tokenizer.normalizer = space
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous", invert=False)
    else:  # Llama
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space])
    special(tokenizer, specials)
    return tokenizer


def unigram(specials: list, unknown: str, size: int = 140, normalizer=None, by_words: bool = True) -> Tokenizer:
    """SentencePiece's unigram model: frequent substrings with the logarithm of their frequency."""
    tokenizer = Tokenizer(models.Unigram())
    if normalizer:
        tokenizer.normalizer = normalizer
    marks = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    steps = [pre_tokenizers.WhitespaceSplit(), marks] if by_words else [marks]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    words = words_of(tokenizer)
    counts = Counter()
    for word, count in words.items():
        for start in range(len(word)):
            for end in range(start + 1, min(start + 8, len(word)) + 1):
                counts[word[start:end]] += count
    letters = letters_of(words, 60)
    longer = Counter({piece: count * (len(piece) - 1) for piece, count in counts.items() if len(piece) > 1})
    pieces = most(Counter({p: counts[p] for p in letters + most(longer, size - len(specials) - len(letters))}), size)
    total = sum(counts[piece] for piece in pieces)
    scored = [(token, 0.0) for token in specials]
    scored += [(piece, round(math.log(counts[piece] / total), 4)) for piece in pieces]
    tokenizer.model = models.Unigram(scored, unk_id=specials.index(unknown), byte_fallback=False)
    special(tokenizer, specials)
    return tokenizer


def xlmr_tokenizer(normalizer=None) -> Tokenizer:
    tokenizer = unigram(["<s>", "<pad>", "</s>", "<unk>"], "<unk>", normalizer=normalizer)
    special(tokenizer, ["<mask>"], lstrip=True)
    around(tokenizer, "<s> $A </s>")
    return tokenizer


def roberta_tokenizer() -> Tokenizer:
    tokenizer = byte_bpe(["<s>", "<pad>", "</s>", "<unk>"], [], size=290)
    special(tokenizer, ["<mask>"], lstrip=True)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen_tokenizer(appends_end: bool) -> Tokenizer:
    ends = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_bpe([], ends, size=294, normalizer=normalizers.NFC(), split=QWEN_SPLIT)
    level = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.post_processor = level
    if appends_end:
        around(tokenizer, "$A <|endoftext|>")
        tokenizer.post_processor = processors.Sequence([level, tokenizer.post_processor])
    return tokenizer


BERT_SPECIALS = dict(
    cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
)
ROBERTA_SPECIALS = dict(
    bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>",
    mask_token="<mask>",
)  # fmt: skip


def write_tokenizer(folder: Path, tokenizer: Tokenizer, kind: str, specials: dict, max_length: int, **more) -> int:
    """tokenizer.json and its two companions; the number of tokens."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "special_tokens_map.json", specials)
    config = {"tokenizer_class": kind, "model_max_length": max_length, "clean_up_tokenization_spaces": False}
    write_json(folder / "tokenizer_config.json", {**config, **specials, **more})
    return tokenizer.get_vocab_size()


def write_bert_tokenizer(folder: Path, max_length: int = 512, kind: str = "BertTokenizer", **options) -> int:
    lowercase = options.get("lowercase", True)
    return write_tokenizer(folder, bert_tokenizer(**options), kind, BERT_SPECIALS, max_length, do_lower_case=lowercase)


# -------------------------------------------------------------------------------------------------------- weights

SEED = 1
ROWS = ("word_embeddings", "position_embeddings", "token_type_embeddings", "tok_embeddings")
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def noise(shape, *key) -> torch.Tensor:
    """Normally distributed numbers that depend on the key alone. Their lowest ten bits are zero, which packs better;
    they still need f32."""
    seed = zlib.crc32("/".join(map(str, (SEED, *key))).encode())
    values = numpy.random.RandomState(seed).standard_normal(tuple(shape)).astype(numpy.float32)
    return torch.from_numpy((values.view(numpy.int32) & ~0x3FF).view(numpy.float32))


def short(tensor: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy((tensor.detach().numpy().view(numpy.int32) & ~0x3FF).view(numpy.float32))


def randomise(model: nn.Module, name: str) -> nn.Module:
    """Large enough that every bias, mask, position and activation changes the result by more than rounding does."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            value = noise(parameter.shape, name, key)
            if parameter.dim() < 2:  # norms start at 1 (Gemma's at 0), biases at 0
                value = value * 0.2 + float(parameter.mean() > 0.5)
            elif any(part in key for part in ROWS):  # small, so that the epsilon of the norm after them shows
                value = value * 0.2
            elif any(part in key for part in ("embed_tokens", "shared", "rel_embeddings", "relative_attention_bias")):
                value = value * 0.6
            else:
                value = value * (1.2 / math.sqrt(parameter[0].numel()))
            parameter.copy_(short(value))
    return model.eval()


def write_state(folder: Path, state: dict, dtype: str = "f32", shards: int = 1, pickled: bool = False) -> None:
    state = {key: state[key] for key in sorted(state)}
    state = {key: (t.to(DTYPES[dtype]) if t.is_floating_point() else t).contiguous() for key, t in state.items()}
    if pickled:
        torch.save({key: tensor.clone() for key, tensor in state.items()}, folder / "pytorch_model.bin")
        return
    names = ["model.safetensors"] if shards == 1 else [
        f"model-{index + 1:05}-of-{shards:05}.safetensors" for index in range(shards)
    ]  # fmt: skip
    place = {key: names[index % shards] for index, key in enumerate(state)}  # a layer's weights lie in several files
    for name in names:
        save_file({key: t for key, t in state.items() if place[key] == name}, folder / name, {"format": "pt"})
    if shards > 1:
        total = sum(tensor.nbytes for tensor in state.values())
        write_json(
            folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": place}
        )


def write_weights(folder: Path, kind: str = "AutoModel", adjust=None, prefix: str = "", extra: dict = {}, **options):
    """Weights of the class `kind` of transformers for the config.json in the folder, under the names on disk."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    config.dtype = torch.float32
    class_ = getattr(transformers, kind)
    model = randomise(class_.from_config(config) if kind.startswith("Auto") else class_(config), folder.name)
    if adjust:
        with torch.no_grad():
            adjust(model)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)  # the library knows under which names an architecture is stored
        state = load_file(Path(scratch) / "model.safetensors")
    write_state(folder, {prefix + key: tensor for key, tensor in state.items()} | extra, **options)


# ---------------------------------------------------------------------------------------------------------- files


def write_json(path: Path, data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")


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
        transformer = {
            "transformer_task": "feature-extraction", "modality_config": output, "module_output_name": "token_embeddings",
        }  # fmt: skip
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


# --------------------------------------------------------------------------------------------------------- models

MODELS = {}


def model(name: str, stands_for: str, pooling: str, special: str, runner: str = "sentence_transformers", stored="f32"):
    """Registers the function that writes the directory `name` and returns its cases."""

    def register(make):
        MODELS[name] = dict(
            name=name, stands_for=stands_for, pooling=pooling, special=special, runner=runner, stored=stored, make=make
        )
        return make

    return register


def cases(prompts=(), prompt: str = "passage: ", dims=(), length: int = 9) -> list:
    out = [dict(name="plain", texts=TEXTS)]
    out += [dict(name=f"prompt_name {name}", texts=FEW, prompt_name=name) for name in prompts]
    out.append(dict(name="prompt string", texts=FEW, prompt=prompt))
    out.append(dict(name=f"max_length {length}", texts=FEW, max_length=length))
    out += [dict(name=f"truncate_dim {dim}", texts=FEW[:2], truncate_dim=dim, normalize=True) for dim in dims]
    return out


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
    "roberta-noprompt", "instructor-like: the prompt is read but not pooled", "mean with include_prompt false, Normalize",
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
        torch.save({"weight": weight, "bias": short(0.2 * noise((out,), folder.name, name, "bias"))}, folder / f"{name}.pt")
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
        21, 3, 3, 31, vocabulary + 5, 64, model_type="deberta-v2", architectures=["DebertaV2Model"], layer_norm_eps=1e-7,
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
        mlp_fc1_bias=False, mlp_fc2_bias=False, n_embd=30, n_head=3, n_inner=26, n_layer=2, n_positions=8192,
        pad_vocab_size_multiple=1, parallel_block=False, prenorm=False, qkv_proj_bias=False, resid_pdrop=0.0,
        rotary_emb_base=500, rotary_emb_fraction=1.0, rotary_emb_interleaved=False, rotary_emb_scale_base=None,
        rotary_scaling_factor=None, scale_attn_weights=True, use_rms_norm=False,
    )  # fmt: skip
    both = dict(
        architectures=["NomicBertModel"], model_type="nomic_bert", pad_token_id=0, type_vocab_size=2,
        vocab_size=vocabulary + 2,
    )  # fmt: skip
    renamed = dict(
        hidden_act="silu", hidden_size=30, intermediate_size=26, layer_norm_eps=1e-12, max_position_embeddings=2048,
        num_attention_heads=3, num_hidden_layers=2, rope_parameters={"rope_theta": 500.0, "rope_type": "default"},
        dtype="float32",
    )  # fmt: skip
    # transformers reads the renamed keys alone; a checkpoint of the original repository has the others alone.
    write_json(folder / "config.json", original | both | renamed)
    write_json(folder / "config.original.json", original | both)
    write_weights(folder)
    prompts = {"search_query": "search_query: ", "search_document": "search_document: "}
    write_sentence_transformer(folder, 30, "mean", 43, normalize=False, prompts=prompts, matryoshka_dims=[30, 12])
    return cases(prompts, dims=(12,))


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


class JinaBert(nn.Module):
    """JinaBERT version 2, our own reading of its definition (jina-embeddings-v2: arXiv:2310.19923, ALiBi:
    arXiv:2108.12409, and the names and shapes of the published checkpoints): a BERT without position embeddings, whose
    attention scores lose slope × distance on both sides, with a gated feed-forward layer (exact GELU of the first half,
    times the second). Not computed by a library: a test against it shows that two readings agree."""

    def __init__(self, config: dict):
        super().__init__()
        self.width, self.heads, self.inner = (
            config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
        )  # fmt: skip
        width, norm = self.width, lambda: nn.LayerNorm(self.width, eps=config["layer_norm_eps"])
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config["vocab_size"], width),
                "token_type_embeddings": nn.Embedding(config["type_vocab_size"], width),
                "LayerNorm": norm(),
            }
        )
        layer = lambda: nn.ModuleDict(
            {
                "attention": nn.ModuleDict(
                    {
                        "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                        "output": nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": norm()}),
                    }
                ),
                "mlp": nn.ModuleDict(
                    {
                        "gated_layers": nn.Linear(width, 2 * self.inner, bias=False),
                        "wo": nn.Linear(self.inner, width),
                        "layernorm": norm(),
                    }
                ),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layer() for _ in range(config["num_hidden_layers"]))})

    def slopes(self) -> torch.Tensor:
        """For a power of two of heads 2^(-8/n), squared, cubed …; the heads beyond take every other one of 2n."""
        power = 2 ** int(math.log2(self.heads))
        slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
        slopes += [2 ** (-4 * (2 * head + 1) / power) for head in range(self.heads - power)]
        return torch.tensor(slopes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states [tokens, width] of one text."""
        embeddings = self.embeddings
        x = embeddings["word_embeddings"](ids) + embeddings["token_type_embeddings"].weight[0]
        x = embeddings["LayerNorm"](x)
        place = torch.arange(len(ids))
        bias = -self.slopes()[:, None, None] * (place[:, None] - place[None, :]).abs()
        for layer in self.encoder["layer"]:
            attention, mlp = layer["attention"], layer["mlp"]
            query, key, value = (
                attention["self"][name](x).view(len(ids), self.heads, -1).transpose(0, 1)
                for name in ("query", "key", "value")
            )
            scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]) + bias
            mixed = (scores.softmax(-1) @ value).transpose(0, 1).reshape(len(ids), self.width)
            x = attention["output"]["LayerNorm"](attention["output"]["dense"](mixed) + x)
            gate, up = mlp["gated_layers"](x).split(self.inner, dim=-1)
            x = mlp["layernorm"](mlp["wo"](nn.functional.gelu(gate) * up) + x)
        return x


class JinaBertStandIn:
    """What `Dense` asks of a SentenceTransformer, for mean pooling and unit length."""

    def __init__(self, folder: Path):
        read = lambda name: json.loads((folder / name).read_text("utf-8"))
        self.network = JinaBert(read("config.json")).eval()
        state = load_file(folder / "model.safetensors")
        self.network.load_state_dict({key: tensor for key, tensor in state.items() if not key.startswith("pooler.")})
        self.max_seq_length = read("sentence_bert_config.json")["max_seq_length"]
        prompts = read("config_sentence_transformers.json")
        self.prompts, self.default_prompt_name = prompts["prompts"], prompts["default_prompt_name"]

    def __getitem__(self, index: int):
        return self.network

    def vector(self, ids: list) -> list:
        with torch.no_grad():
            return nn.functional.normalize(self.network(torch.tensor(ids)).mean(0), dim=0).tolist()


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
            model_type="ColBERT", prompts={}, default_prompt_name=None, similarity_fn_name="MaxSim", query_prefix="[Q] ",
            document_prefix="[D] ", query_length=11, document_length=30, attend_to_expansion_tokens=False,
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


# ------------------------------------------------------------------------------------------------------ reference


class Dense:
    """One vector per text, by SentenceTransformer.encode."""

    library = "sentence_transformers.SentenceTransformer.encode"

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = self.load()
        self.length = self.model.max_seq_length if self.model.max_seq_length not in (None, math.inf) else None

    def load(self):
        from sentence_transformers import SentenceTransformer

        options = {"dtype": torch.float32}
        return SentenceTransformer(str(self.folder), device="cpu", local_files_only=True, model_kwargs=options)

    def prompt(self, case: dict) -> str:
        name = case.get("prompt_name", self.model.default_prompt_name)
        return case["prompt"] if "prompt" in case else self.model.prompts[name] if name else ""

    def raw_ids(self, text: str, limit: int | None) -> list:
        """What tokenizer.json says without transformers."""
        static = list(self.folder.glob("*StaticEmbedding/tokenizer.json"))
        path = static[0] if static else self.folder / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if limit:
            tokenizer.enable_truncation(limit)
        bare = type(self.model[0]).__name__ == "StaticEmbedding"
        return tokenizer.encode(text, add_special_tokens=not bare).ids

    def ids(self, text: str, case: dict) -> list:
        features = self.model[0].preprocess([text], prompt=self.prompt(case) or None)
        return features["input_ids"].flatten().tolist()

    def encode(self, texts: list, case: dict) -> list:
        vectors = self.model.encode(
            texts, prompt_name=case.get("prompt_name"), prompt=case.get("prompt"), show_progress_bar=False,
            truncate_dim=case.get("truncate_dim"), normalize_embeddings=case.get("normalize", False),
            batch_size=len(texts),
        )  # fmt: skip
        return [vector.tolist() for vector in vectors]

    def results(self, case: dict) -> dict:
        limit = case.get("max_length", self.length)
        if limit:
            self.model.max_seq_length = limit
        out = {"token_ids": [], "full_token_counts": [], "embeddings": []}
        for text in case["texts"]:
            whole = self.prompt(case) + text
            raw = self.raw_ids(whole, limit)
            out["full_token_counts"].append(len(self.raw_ids(whole, None)))
            out["token_ids"].append(self.ids(text, case) if raw else [])
            if raw != out["token_ids"][-1]:
                raise SystemExit(f"{self.folder.name}: transformers and tokenizer.json disagree about {text!r}")
            # Without any token the library fails, except for static embeddings.
            static = type(self.model[0]).__name__ == "StaticEmbedding"
            out["embeddings"].append(self.encode([text], case)[0] if raw or static else None)
        known = [index for index, vector in enumerate(out["embeddings"]) if vector is not None]
        batch = self.encode([case["texts"][index] for index in known], case)
        for index, vector in zip(known, batch):
            if distance(vector, out["embeddings"][index]) > 2e-6:
                raise SystemExit(f"{self.folder.name}: the library depends on the batch at {case['texts'][index]!r}")
        return out

    def facts(self) -> dict:
        return {
            "modules": [type(module).__name__ for module in self.model], "max_seq_length": self.length,
            "dimension": self.model.get_embedding_dimension(), "prompts": self.model.prompts,
            "default_prompt_name": self.model.default_prompt_name,
        }  # fmt: skip


class BgeM3(Dense):
    """Dense, and the two heads as the model card of bge-m3 defines them: on each token's last hidden state, a weight
    per token id (relu, the largest of equal ids, no special tokens) and a unit vector per token after the first."""

    library = "sentence_transformers.SentenceTransformer.encode; heads in PyTorch as FlagEmbedding defines them"

    def results(self, case: dict) -> dict:
        out = super().results(case) | {"sparse": [], "colbert": []}
        heads = {}
        for name in ("sparse_linear", "colbert_linear"):
            state = torch.load(self.folder / f"{name}.pt", weights_only=True)
            heads[name] = lambda x, s=state: nn.functional.linear(x, s["weight"], s["bias"])
        for ids, text in zip(out["token_ids"], case["texts"]):
            with torch.no_grad():
                hidden = self.model[0].model(torch.tensor([ids])).last_hidden_state[0]
                weights = heads["sparse_linear"](hidden).relu().flatten().tolist()
                vectors = nn.functional.normalize(heads["colbert_linear"](hidden[1:]), dim=-1)
            best = {}
            for id, weight in zip(ids, weights):
                if id > 3 and weight > 0:
                    best[id] = max(weight, best.get(id, 0.0))
            out["sparse"].append({str(id): best[id] for id in sorted(best)})
            out["colbert"].append(vectors.tolist() if case["name"] == "plain" and text in (SENTENCE, "") else None)
        return out


class Sparse(Dense):
    """A weight per token id, by SparseEncoder.encode."""

    library = "sentence_transformers.SparseEncoder.encode"

    def load(self):
        from sentence_transformers import SparseEncoder

        options = {"dtype": torch.float32}
        return SparseEncoder(str(self.folder), device="cpu", local_files_only=True, model_kwargs=options)

    def encode(self, texts: list, case: dict) -> list:
        options = {"convert_to_sparse_tensor": False, "show_progress_bar": False, "batch_size": len(texts)}
        return [row.tolist() for row in self.model.encode(texts, prompt=case.get("prompt"), **options)]

    def results(self, case: dict) -> dict:
        out = super().results(case)
        rows = out.pop("embeddings")
        out["sparse"] = [{str(id): weight for id, weight in enumerate(row) if weight} for row in rows]
        out["nonzero"] = [len(row) for row in out["sparse"]]
        return out


class MultiVector:
    """A unit vector per kept token, by MultiVectorEncoder; and the scores (MaxSim) of queries and documents."""

    library = "sentence_transformers.MultiVectorEncoder.encode_query and encode_document"

    def __init__(self, folder: Path):
        from sentence_transformers import MultiVectorEncoder

        options = {"dtype": torch.float32}
        self.model = MultiVectorEncoder(str(folder), device="cpu", local_files_only=True, model_kwargs=options)

    def results(self, case: dict) -> dict:
        if "queries" in case:
            queries = self.model.encode_query(case["queries"], show_progress_bar=False)
            documents = self.model.encode_document(case["texts"], show_progress_bar=False)
            return {"maxsim": self.model.similarity(queries, documents).tolist()}
        task = case["task"]
        encode = self.model.encode_query if task == "query" else self.model.encode_document
        out = {"token_ids": [], "attention_mask": [], "embeddings": []}
        for text in case["texts"]:
            features = self.model[0].preprocess([text], prompt=self.model.prompts.get(task) or None, task=task)
            out["token_ids"].append(features["input_ids"][0].tolist())
            out["attention_mask"].append(features["attention_mask"][0].tolist())
            out["embeddings"].append(encode([text], show_progress_bar=False)[0].tolist())
        return out

    def facts(self) -> dict:
        names = ("max_seq_length", "query_length", "document_length", "query_expansion")
        return {name: getattr(self.model[0], name, None) for name in names} | {"prompts": self.model.prompts}


class JinaBertEncoder(Dense):
    """Our own PyTorch forward and pooling, since no library that is installed knows this architecture."""

    library = "JinaBert in tests/scripts/make_models.py (our own reading of the definition)"

    def load(self):
        return JinaBertStandIn(self.folder)

    def ids(self, text: str, case: dict) -> list:
        return self.raw_ids(self.prompt(case) + text, self.model.max_seq_length)

    def encode(self, texts: list, case: dict) -> list:
        return [self.model.vector(self.ids(text, case)) for text in texts]

    def facts(self) -> dict:
        return {"max_seq_length": self.length, "dimension": self.model.network.width, "prompts": self.model.prompts}


RUNNERS = {
    "sentence_transformers": Dense, "bge_m3": BgeM3, "sparse_encoder": Sparse, "multi_vector": MultiVector,
    "own_forward": JinaBertEncoder,
}  # fmt: skip


def distance(one: list, other: list) -> float:
    """Largest difference of a component between two vectors scaled to unit length."""
    one, other = numpy.array(one, numpy.float64), numpy.array(other, numpy.float64)
    if one.shape != other.shape:
        return math.inf
    lengths = [numpy.linalg.norm(vector) or 1.0 for vector in (one, other)]
    return float(numpy.abs(one / lengths[0] - other / lengths[1]).max())


def difference(one, other) -> float:
    """Largest difference of numbers in two results, relative where they exceed 1; infinite where anything else differs."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(difference, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, (int, float)):
        return abs(one - other) / max(1.0, abs(one))
    return 0.0 if one == other else math.inf


def rounded(value):
    """Floats with the eight digits that tell one f32 from the next in most places; the tolerance is far above."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def as_text(value, depth: int = 0) -> str:
    """JSON with a line for each entry, but lists of numbers or short texts on one line."""
    inner = " " * (depth + 1)
    if isinstance(value, dict) and depth < 3 and any(isinstance(item, (dict, list, str)) for item in value.values()):
        items = [f"{inner}{json.dumps(key)}: {as_text(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + " " * depth + "}"
    if isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value):
        return "[\n" + ",\n".join(inner + as_text(item, depth + 1) for item in value) + "\n" + " " * depth + "]"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def versions() -> dict:
    names = ("torch", "transformers", "sentence-transformers", "tokenizers", "safetensors", "numpy")
    return {name: importlib.metadata.version(name).split("+")[0] for name in names}


def write_reference(folder: Path, made: dict, cases: list) -> None:
    runner = RUNNERS[made["runner"]](folder)
    results = [case | rounded(runner.results(case)) for case in cases]
    data = {key: made[key] for key in ("name", "stands_for", "pooling", "special")}
    data |= {
        "made_with": {"seed": SEED}, "libraries": versions(), "runner": made["runner"], "library_call": runner.library,
        "stored_dtype": made["stored"], "compute_dtype": "f32", "facts": runner.facts(), "cases": results,
    }  # fmt: skip
    (folder / "reference.json").write_text(as_text(data) + "\n", "utf-8")


GIVEN = ("name", "texts", "queries", "task", "prompt_name", "prompt", "max_length", "truncate_dim", "normalize")
CHECK_TOLERANCE = 2e-6


def check(folder: Path) -> float:
    """Computes a directory's cases again; the largest difference."""
    reference = json.loads((folder / "reference.json").read_text("utf-8"))
    runner = RUNNERS[reference["runner"]](folder)
    worst = 0.0
    for case in reference["cases"]:
        given = {key: case[key] for key in GIVEN if key in case}
        expected = {key: value for key, value in case.items() if key not in GIVEN}
        found = difference(expected, rounded(runner.results(given)))
        if not found < CHECK_TOLERANCE:
            raise SystemExit(f"{folder.name}, {case['name']}: differs by {found} from what was written")
        worst = max(worst, found)
    return worst


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these models")
    fixtures = Path(__file__).resolve().parent.parent / "fixtures" / "models"
    parser.add_argument("--output", type=Path, default=fixtures, help="default: tests/fixtures/models")
    parser.add_argument("--check", action="store_true", help="compute existing directories again and compare")
    parser.add_argument("--list", action="store_true", help="list the models")
    arguments = parser.parse_args()
    known = set(MODELS)
    if arguments.check:  # also directories that were made otherwise
        known = {path.parent.name for path in arguments.output.glob("*/reference.json")}
    unknown = sorted(set(arguments.names) - known)
    if unknown:
        parser.error(f"unknown model {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    if arguments.list:
        for made in MODELS.values():
            print(f"{made['name']:22} {made['stands_for']}; {made['pooling']}; {made['special']}")
        return

    import transformers

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    if arguments.check:
        for name in arguments.names or sorted(known):
            print(f"{name:22} differs by {check(arguments.output / name):.1e}", flush=True)
        return
    for made in [MODELS[name] for name in arguments.names or MODELS]:
        folder = arguments.output / made["name"]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_reference(folder, made, made["make"](folder))
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        print(f"{made['name']:22} {size(folder) / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
