"""Chunks whose length in tokens is known: random whole words of the model's own vocabulary, each of them one token."""

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from measure import BenchError

# [CLS] before and [SEP] after every text.
SPECIAL_TOKENS = 2


def texts_of_length(tokenizer: Tokenizer, tokens: int, count: int) -> list[str]:
    """`count` texts of exactly `tokens` tokens, special ones included; the same ones at every call."""
    words = sorted(word for word in tokenizer.get_vocab() if re.fullmatch("[a-z]{2,}", word))
    if tokens <= SPECIAL_TOKENS or not words:
        raise BenchError(f"no texts of {tokens} tokens: there are {len(words)} plain words in the vocabulary")
    dice = random.Random(tokens)
    texts = [" ".join(dice.choices(words, k=tokens - SPECIAL_TOKENS)) for _ in range(count)]
    wrong = {len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts)} - {tokens}
    if wrong:
        raise BenchError(
            f"texts of {tokens} tokens came out with {sorted(wrong)}: the model takes no longer ones, or splits words"
        )
    return texts


def write_collections(root: Path, collections: Mapping[str, Sequence[str]]) -> Path:
    """Each collection as one file of chunks; returns `root`."""
    for name, texts in collections.items():
        (root / name).mkdir(parents=True)
        (root / name / "all_chunks.json").write_text(json.dumps([{"text": text} for text in texts]), "utf-8")
    return root
