"""Models with the shapes of well-known ones and random weights, as directories that any loader takes.

A fixture of the same architecture lends its tokenizer and its configuration; what is not a size stays as it is there. numpy
is all that is needed: benches/peers/make_model.py, which makes graphs for onnxruntime as well, needs PyTorch.
"""

import json
import shutil
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "models"
# Every model takes texts of so many tokens, and some special ones.
POSITIONS = 2048 + 8
# Deviations of weights, times the root of the hidden size, and of biases and norms. Wide enough that attention is far from
# a plain mean, and biases and norms far from nothing: a fault in any of them must show in the vectors.
WEIGHTS, OTHERS = 1.4, 0.1


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, in the words of transformers' configurations."""

    fixture: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    # A decoder has these.
    num_key_value_heads: int = 0
    head_dim: int = 0

    @property
    def is_decoder(self):
        return self.num_key_value_heads > 0

    def flops_of_a_token(self, length):
        """Multiplications and additions for a token of a text of so many tokens; the vocabulary is only looked up."""
        hidden, inner, queries = self.hidden_size, self.intermediate_size, self.num_attention_heads * self._head()
        projections = hidden * (2 * queries + 2 * self._key_value())
        feed_forward = (3 if self.is_decoder else 2) * hidden * inner
        # Scores and weighted values; a causal token sees half of them.
        attention = 2 * length * queries / (2 if self.is_decoder else 1)
        return 2 * self.num_hidden_layers * (projections + feed_forward + attention)

    def _head(self):
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def _key_value(self):
        return (self.num_key_value_heads or self.num_attention_heads) * self._head()

    def tensors(self):
        """Names and shapes, as the checkpoints of transformers have them without a prefix."""
        hidden, inner, queries = self.hidden_size, self.intermediate_size, self.num_attention_heads * self._head()
        key_value = self._key_value()
        if not self.is_decoder:
            yield "embeddings.word_embeddings.weight", (self.vocab_size, hidden)
            yield "embeddings.position_embeddings.weight", (POSITIONS, hidden)
            yield "embeddings.token_type_embeddings.weight", (self._types(), hidden)
            yield from _linear("embeddings.LayerNorm", (hidden,))
            for layer in (f"encoder.layer.{layer}" for layer in range(self.num_hidden_layers)):
                for part in ("query", "key", "value"):
                    yield from _linear(f"{layer}.attention.self.{part}", (hidden, hidden))
                yield from _linear(f"{layer}.attention.output.dense", (hidden, hidden))
                yield from _linear(f"{layer}.attention.output.LayerNorm", (hidden,))
                yield from _linear(f"{layer}.intermediate.dense", (inner, hidden))
                yield from _linear(f"{layer}.output.dense", (hidden, inner))
                yield from _linear(f"{layer}.output.LayerNorm", (hidden,))
            return
        is_qwen3 = self._config()["model_type"] == "qwen3"
        yield "embed_tokens.weight", (self.vocab_size, hidden)
        yield "norm.weight", (hidden,)
        for layer in (f"layers.{layer}" for layer in range(self.num_hidden_layers)):
            for part, outputs in (("q", queries), ("k", key_value), ("v", key_value)):
                names = _linear(f"{layer}.self_attn.{part}_proj", (outputs, hidden))
                yield from list(names)[: 1 if is_qwen3 else 2]
            if is_qwen3:
                yield f"{layer}.self_attn.q_norm.weight", (self.head_dim,)
                yield f"{layer}.self_attn.k_norm.weight", (self.head_dim,)
            yield f"{layer}.self_attn.o_proj.weight", (hidden, queries)
            yield f"{layer}.mlp.gate_proj.weight", (inner, hidden)
            yield f"{layer}.mlp.up_proj.weight", (inner, hidden)
            yield f"{layer}.mlp.down_proj.weight", (hidden, inner)
            yield f"{layer}.input_layernorm.weight", (hidden,)
            yield f"{layer}.post_attention_layernorm.weight", (hidden,)

    def _config(self):
        return json.loads((FIXTURES / self.fixture / "config.json").read_text())

    def _types(self):
        return self._config()["type_vocab_size"]

    def write(self, directory):
        """Makes the directory; weights are in f16."""
        weights = ("*.safetensors", "*.bin", "*.pt", "*.index.json", "reference.json")
        shutil.copytree(FIXTURES / self.fixture, directory, ignore=shutil.ignore_patterns(*weights))
        sizes = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"]
        sizes += ["num_key_value_heads"] if self.is_decoder else []
        sizes += ["head_dim"] if self.head_dim else []
        changed = {name: getattr(self, name) for name in sizes} | {"max_position_embeddings": POSITIONS}
        _change(directory / "config.json", changed)
        _change(directory / "sentence_bert_config.json", {"max_seq_length": POSITIONS - 8})
        _change(directory / "tokenizer_config.json", {"model_max_length": POSITIONS - 8})
        _change(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": self.hidden_size})
        _write_weights(directory / "model.safetensors", dict(self.tensors()), WEIGHTS / self.hidden_size**0.5)


# Sizes as published in each model's config.json.
SHAPES = {
    "minilm-l6": Shape("bert-minilm", 384, 6, 12, 1536, 30_522),
    "bge-m3": Shape("xlmr-bin-heads", 1024, 24, 16, 4096, 250_002),
    "qwen3-0.6b": Shape("qwen3-sharded", 1024, 28, 16, 3072, 151_669, num_key_value_heads=8, head_dim=128),
    "jina-code-1.5b": Shape("qwen2-bias", 1536, 28, 12, 8960, 151_936, num_key_value_heads=2),
}


def tiny(shape):
    """The same with two small layers and the vocabulary of its fixture, for a machine that only pretends to have a GPU."""
    groups = shape.num_attention_heads // (shape.num_key_value_heads or shape.num_attention_heads)
    return replace(
        shape,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=shape._config()["vocab_size"],
        num_key_value_heads=max(4 // groups, 1) if shape.is_decoder else 0,
        head_dim=16 if shape.head_dim else 0,
    )


def write_texts(directory, number, length):
    """A collection of texts of at least so many tokens for any tokenizer, no two of which begin alike."""
    random = np.random.default_rng(number * 10_000 + length)
    words = ["the", "tide", "rises", "over", "stones", "and", "sand", "while", "crabs", "wait", "below", "kelp"]
    folder = directory / "texts"
    folder.mkdir(parents=True)
    drawn = random.integers(0, len(words), (number, length))
    chunks = [{"text": f"{place} " + " ".join(words[word] for word in row)} for place, row in enumerate(drawn)]
    (folder / "texts_chunks.json").write_text(json.dumps(chunks))
    return directory


def _linear(name, shape):
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _change(path, values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _write_weights(path, shapes, deviation):
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # Billions of random numbers take minutes; a long row of them, begun anywhere, is as good.
    random = np.random.default_rng(1)
    normal = random.standard_normal(1 << 22, dtype=np.float32)
    weights, biases, norms = ((a + b * normal).astype("<f2") for a, b in [(0, deviation), (0, OTHERS), (1, OTHERS)])
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            left = int(np.prod(shape))
            if name.endswith("bias"):
                drawn = biases
            else:
                drawn = norms if "norm" in name.lower() else weights
            while left:
                start = int(random.integers(0, drawn.size // 2))
                part = drawn[start : start + left]
                part.tofile(file)
                left -= part.size
