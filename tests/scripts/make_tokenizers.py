#!/usr/bin/env python3
"""Makes tests/fixtures/tokenizers.json: directories of tokenizers, and the tokens that transformers gives for some texts.

    python tests/scripts/make_tokenizers.py

A case is a directory of tests/fixtures/models with some files changed: of an object the keys that are given (null takes
one away), a text as a whole file, null for no such file. `whole` are the tokens of its texts, `cut` the same with at most 8;
null where transformers refuses the directory. Requirements as those of make_models.py.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import json
import logging
import shutil
import tempfile
import warnings
from pathlib import Path

from transformers import AutoTokenizer
from transformers import logging as transformers_logging

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TEXTS = [
    "  The tide,  the Harbour and Käse ``x'' \n",
    "don't [SEP] </s> <mask>x <|endoftext|> 潮が",
    "stones<image>crab ▁a\tﬁn Ｗide trailing ",
    "Hello <new> tide dropping the stones into the harbour",
]
ADDED = {"lstrip": False, "rstrip": True, "normalized": False, "single_word": False, "special": False}
PRECOMPILED_SPACES = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def config(**keys):
    return {"tokenizer_config.json": keys}


def file(**keys):
    return {"tokenizer.json": keys}


def tokenizer(name):
    return json.loads((FIXTURES / "models" / name / "tokenizer.json").read_text())


def vocab_txt(name):
    vocab = tokenizer(name)["model"]["vocab"]
    return "".join(token + "\n" for token in sorted(vocab, key=vocab.get))


def bpe_files(name):
    model = tokenizer(name)["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"vocab.json": json.dumps(model["vocab"]), "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n"}


def bert_normalizer(**keys):
    return {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True} | keys


def cases():
    bert = "bert-minilm"
    for kind in ["BertTokenizer", "DistilBertTokenizerFast", "PreTrainedTokenizerFast", None]:
        yield bert, f"class {kind}", config(tokenizer_class=kind)
        cased = file(normalizer=bert_normalizer(lowercase=False))
        yield bert, f"file keeps upper case, {kind}", cased | config(tokenizer_class=kind, do_lower_case=None)
        yield bert, f"tokens elsewhere, {kind}", config(tokenizer_class=kind, extra_special_tokens=["<image>"])
        yield bert, f"cut left, {kind}", config(tokenizer_class=kind, truncation_side="left")
    yield bert, "no configuration, upper case", file(normalizer=bert_normalizer(lowercase=False)) | {"tokenizer_config.json": None}
    yield bert, "accents kept", config(tokenizer_class="BertTokenizer", strip_accents=False)
    yield bert, "characters together", config(tokenizer_class="BertTokenizer", tokenize_chinese_chars=False)
    yield bert, "special tokens cut", config(tokenizer_class="BertTokenizer", split_special_tokens=True)
    yield bert, "file cuts left", file(truncation={"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0})
    yield bert, "added by number", config(added_tokens_decoder={"150": ADDED | {"content": "<new>"}})
    yield bert, "added by text", {"added_tokens.json": {"<new>": 150}, "tokenizer_config.json": {"added_tokens_decoder": None}}
    yield bert, "older map", {"special_tokens_map.json": {"mask_token": "tide"}, "tokenizer_config.json": {"added_tokens_decoder": None}}
    yield bert, "a list that is none", config(tokenizer_class="BertTokenizer", extra_special_tokens="x")
    yield bert, "neither left nor right", config(truncation_side="middle")
    yield bert, "vocabulary alone", {"tokenizer.json": None, "tokenizer_config.json": None, "vocab.txt": vocab_txt(bert)}
    yield bert, "vocabulary of one that keeps upper case", {"tokenizer.json": None, "vocab.txt": vocab_txt(bert)} | config(
        tokenizer_class="BertTokenizer", do_lower_case=False
    )
    yield "mpnet-bias", "class", config(tokenizer_class="MPNetTokenizer")
    yield "roberta-mean", "class", config(tokenizer_class="RobertaTokenizer", add_prefix_space=None)
    yield "roberta-mean", "space before", config(tokenizer_class="RobertaTokenizer", add_prefix_space=True)
    yield "roberta-mean", "two files", {"tokenizer.json": None} | bpe_files("roberta-mean") | config(tokenizer_class="RobertaTokenizer")
    dropout = tokenizer("roberta-mean")["model"] | {"dropout": 0.5}
    yield "roberta-mean", "dropout", file(model=dropout) | config(tokenizer_class="RobertaTokenizer")
    for kind in ["XLMRobertaTokenizer", "CamembertTokenizer", "T5Tokenizer", "AlbertTokenizer", "PreTrainedTokenizerFast"]:
        newer = file(normalizer={"type": "Sequence", "normalizers": [PRECOMPILED_SPACES]}, pre_tokenizer=METASPACE)
        base = {"T5Tokenizer": "t5-dense", "AlbertTokenizer": "albert-shared-layers"}.get(kind, "xlmr-bin-heads")
        yield base, f"newer file, {kind}", newer | config(tokenizer_class=kind)
    yield "albert-shared-layers", "accents and case", config(tokenizer_class="AlbertTokenizer", keep_accents=True, do_lower_case=False)
    yield "t5-dense", "no template", file(post_processor=None) | config(tokenizer_class="T5Tokenizer")
    yield "deberta-v2", "class", config(tokenizer_class="DebertaV2Tokenizer")
    yield "deberta-v2", "lower case, signs", config(tokenizer_class="DebertaV2Tokenizer", do_lower_case=True, split_by_punct=True)
    hub = {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}, "pre_tokenizer": None}
    for more in [{}, {"legacy": True}, {"add_prefix_space": False}]:
        yield "llama-grouped", f"class {more}", file(**hub) | config(tokenizer_class="LlamaTokenizer", **more)
    yield "llama-grouped", "no class", file(**hub) | config(tokenizer_class=None)
    yield "mistral-window", "class", config(tokenizer_class="LlamaTokenizer")
    yield "gemma3-bidirectional", "class", config(tokenizer_class="GemmaTokenizer")
    for base in ["qwen2-bias", "qwen3-sharded"]:
        for kind in ["Qwen2Tokenizer", "PreTrainedTokenizerFast"]:
            other = file(normalizer=None) | config(tokenizer_class=kind, additional_special_tokens=["<image>"], add_prefix_space=True)
            yield base, f"other file, {kind}", other
    ends = {"add_eos_token": True, "eos_token": "<|endoftext|>"}
    yield "qwen2-bias", "two files", {"tokenizer.json": None} | bpe_files("qwen2-bias") | config(**ends)
    yield "modernbert-cls", "class", config(tokenizer_class="BertTokenizer", mask_token="tide")


def changed(folder, files):
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.unlink(missing_ok=True)
        elif isinstance(content, str):
            path.write_text(content)
        else:
            old = json.loads(path.read_text()) if path.exists() else {}
            for key, value in content.items():
                old[key] = value
                if value is None:
                    del old[key]
            path.write_text(json.dumps(old))


def main():
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    transformers_logging.set_verbosity_error()
    lines = []
    for base, name, files in cases():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            shutil.copytree(FIXTURES / "models" / base, folder)
            changed(folder, files)
            case = {"name": f"{base}, {name}", "base": base, "files": files, "whole": None, "cut": None}
            try:
                read = AutoTokenizer.from_pretrained(folder)
                case["whole"] = [read(text, truncation=False)["input_ids"] for text in TEXTS]
                case["cut"] = [read(text, truncation="longest_first", max_length=8)["input_ids"] for text in TEXTS]
            except Exception as error:
                print(f"{case['name']}: refused: {error}")
            lines.append(json.dumps(case, ensure_ascii=False, separators=(",", ":")))
    texts = json.dumps(TEXTS, ensure_ascii=False)
    (FIXTURES / "tokenizers.json").write_text('{"texts":' + texts + ',"cases":[\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main()
