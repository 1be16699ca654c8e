"""Tokenizers of every family, trained on the few sentences, and their files.

The trainers of the library break ties by chance; these are simple, and give the same vocabulary every time.
"""

import math
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from .files import write_json
from .texts import CORPUS


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
