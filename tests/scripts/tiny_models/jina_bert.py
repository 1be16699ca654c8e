"""JinaBERT version 2 in PyTorch, since no library that is installed knows it."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


class JinaBert(nn.Module):
    """JinaBERT version 2, our own reading of its definition (jina-embeddings-v2: arXiv:2310.19923, ALiBi:
    arXiv:2108.12409, and the names and shapes of the published checkpoints): a BERT without position embeddings, whose
    attention scores lose slope × distance on both sides, with a gated feed-forward layer (exact GELU of the first
    half, times the second). Not computed by a library: a test against it shows that two readings agree."""

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
            scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]) + bias.to(x.dtype)
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
