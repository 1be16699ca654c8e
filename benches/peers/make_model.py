#!/usr/bin/env python3
"""Makes a model directory of a given shape with random weights, and its ONNX graph as onnxruntime likes it best.

The vectors of a random model mean nothing, but they cost what those of a trained one cost, and they must be equal in
every program: before it ends, the script compares onnxruntime with PyTorch.
"""

import argparse
import json
import logging
import math
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gated_graph import write_graph
from measure import BenchError, positive, run_script
from peer import tokenizer
from program import longest_text
from pytorch import PyTorch
from sessions import Sessions
from texts import texts_of_length

os.environ["HF_HUB_OFFLINE"] = "1"

INPUTS, OUTPUT = ["input_ids", "attention_mask", "token_type_ids"], "last_hidden_state"
# 1 - cosine and components; rounding in f32 stays a hundred times below.
TOLERANCE = 1e-4
LENGTHS_CHECKED = (3, 16, 100, 512)


@dataclass(frozen=True)
class Shape:
    """The sizes that decide what a model costs."""

    hidden: int
    layers: int
    heads: int
    inner: int
    family: str = "bert"
    """`model_type` of `transformers`."""
    groups: int | None = None
    """Heads of keys and values, if they are not those of queries."""
    head_size: int | None = None
    """Components of a head, if they are not the hidden ones shared out."""

    @property
    def causal(self) -> bool:
        """Tokens see those before them alone, and the last one stands for the text."""
        return self.family in ("qwen2", "qwen3")

    def config(self, vocabulary: int, positions: int) -> Any:
        """The configuration of `transformers`."""
        from transformers import AutoConfig

        sizes = {
            "vocab_size": vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "max_position_embeddings": positions,
        }
        if self.causal:
            sizes |= {"num_key_value_heads": self.groups, "use_cache": False}
        if self.head_size:
            sizes["head_dim"] = self.head_size
        return AutoConfig.for_model(self.family, **sizes)

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """A name, or four numbers with commas between them."""
        if text in SHAPES:
            return SHAPES[text]
        parts = text.split(",")
        if len(parts) != 4 or not all(part.isdecimal() and int(part) for part in parts):
            raise argparse.ArgumentTypeError(
                f"{text!r} is neither of {', '.join(SHAPES)} nor HIDDEN,LAYERS,HEADS,INNER"
            )
        shape = cls(*map(int, parts))
        if shape.hidden % shape.heads:
            raise argparse.ArgumentTypeError(f"{shape.hidden} components cannot be shared by {shape.heads} heads")
        return shape


SHAPES = {
    "minilm": Shape(384, 6, 12, 1536),
    "bert-base": Shape(768, 12, 12, 3072),
    "bert-large": Shape(1024, 24, 16, 4096),
    "nomic-large": Shape(1024, 24, 16, 4096, "nomic_bert"),
    "qwen2-0.5b": Shape(896, 24, 14, 4864, "qwen2", groups=2),
    "qwen3-0.6b": Shape(1024, 28, 16, 3072, "qwen3", groups=8, head_size=128),
}


def make_model(source: Path, output: Path, shape: Shape, max_positions: int, seed: int) -> None:
    """Writes a sentence-transformers directory with random weights and the tokenizer of `source`."""
    import torch
    from transformers import AutoModel

    torch.manual_seed(seed)
    model = AutoModel.from_config(shape.config(tokenizer(source).get_vocab_size(), max_positions))
    model.config.architectures = [type(model).__name__]
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.lower().endswith("norm.weight"):
                weights.normal_(1.0, 0.1)
            elif name.endswith("bias"):
                weights.normal_(0.0, 0.1)
            else:
                # Wide enough that attention is far from a plain mean: a fault in it must show in the vectors.
                # Gated layers with a norm after them would make much of every rounding.
                width = 0.9 if shape.family == "nomic_bert" else 1.4
                weights.normal_(0.0, width / math.sqrt(shape.hidden))
    model.save_pretrained(output)

    pipeline = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(pipeline.items())
    ]
    write_json(output / "modules.json", modules)
    write_json(output / "sentence_bert_config.json", {"max_seq_length": max_positions, "do_lower_case": False})
    mode = "lasttoken" if shape.causal else "mean_tokens"
    pooling = {
        "word_embedding_dimension": shape.hidden,
        "pooling_mode_mean_tokens": False,
        f"pooling_mode_{mode}": True,
    }
    write_json(output / "1_Pooling" / "config.json", pooling)
    (output / "2_Normalize").mkdir()
    shutil.copy(source / "tokenizer.json", output)
    settings = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    settings["model_max_length"] = max_positions
    # Else the class of some kinds of models would be taken for the one that is named here.
    settings["auto_map"] = {"AutoTokenizer": ["tokenizer.Source", None]}
    write_json(output / "tokenizer_config.json", settings)


def write_json(path: Path, value: object) -> None:
    """A JSON file, with its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def export_graph(model_dir: Path) -> str:
    """Writes onnx/model.onnx; returns what was fused."""
    from transformers import AutoModel

    (model_dir / "onnx").mkdir()
    # Eager attention is the form that the optimizer knows.
    network = AutoModel.from_pretrained(model_dir, attn_implementation="eager").eval()
    if network.config.model_type == "bert":
        return export_bert(network, model_dir)
    return write_graph(network, model_dir / "onnx" / "model.onnx")


def export_bert(bert: Any, model_dir: Path) -> str:
    """A BERT as onnxruntime's optimizer fuses it."""
    import torch
    from onnxruntime.transformers.optimizer import optimize_model

    class States(torch.nn.Module):
        """Only the last hidden states: the exporter would keep the pooler."""

        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return self.bert(**dict(zip(INPUTS, inputs, strict=True))).last_hidden_state

    ids = torch.full((2, 8), 1000)
    mask = torch.ones_like(ids).tril(6)
    with tempfile.TemporaryDirectory(dir=model_dir) as directory:
        plain = str(Path(directory) / "plain.onnx")
        torch.onnx.export(
            States(),
            (ids, mask, torch.zeros_like(ids)),
            plain,
            input_names=INPUTS,
            output_names=[OUTPUT],
            dynamic_axes={name: {0: "texts", 1: "tokens"} for name in [*INPUTS, OUTPUT]},
            opset_version=17,
            dynamo=False,
        )
        heads, hidden = bert.config.num_attention_heads, bert.config.hidden_size
        fused = optimize_model(plain, model_type="bert", num_heads=heads, hidden_size=hidden, opt_level=0)
    counts = {kind: count for kind, count in fused.get_fused_operator_statistics().items() if count}
    if counts.get("Attention") != bert.config.num_hidden_layers:
        raise BenchError(f"the attention of some layers was not fused: {counts}")
    fused.save_model_to_file(str(model_dir / "onnx" / "model.onnx"))
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def compare(model_dir: Path) -> tuple[float, float]:
    """Least cosine and largest difference of a component between onnxruntime and PyTorch, over texts of all lengths."""
    cores = len(os.sched_getaffinity(0))
    words = tokenizer(model_dir)
    lengths = [length for length in LENGTHS_CHECKED if length <= longest_text(model_dir)]
    texts = [text for length in lengths for text in texts_of_length(words, length, 2)]
    # All in one batch: padding must not matter.
    theirs = Sessions(model_dir, 1, cores, len(texts)).embed(texts)
    expected = PyTorch(model_dir, cores).embed(texts)
    return float((theirs * expected).sum(1).min()), float(np.abs(theirs - expected).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", type=Path, required=True, metavar="DIR", help="a BERT model directory: tokenizer, vocabulary"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the directory to make")
    parser.add_argument(
        "--shape",
        type=Shape.parse,
        metavar="SHAPE",
        help=f"{', '.join(SHAPES)}, or HIDDEN,LAYERS,HEADS,INNER of a BERT; without it the model of --source as it is",
    )
    parser.add_argument("--positions", type=positive, default=512, metavar="N", help="longest text (default 512)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random weights (default 0)")
    options = parser.parse_args()
    if not (options.source / "tokenizer.json").is_file():
        raise BenchError(f"{options.source} is no model directory: tokenizer.json is missing")
    if options.output.exists():
        raise BenchError(f"{options.output} is there already; remove it first")

    warnings.simplefilter("ignore")  # of the exporter, about tracing
    logging.disable(logging.WARNING)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    if options.shape:
        make_model(options.source, options.output, options.shape, options.positions, options.seed)
    else:
        shutil.copytree(options.source, options.output, ignore=shutil.ignore_patterns("onnx"))
    print(f"{options.output}: fused {export_graph(options.output)}")
    cosine, difference = compare(options.output)
    print(f"onnxruntime and PyTorch: least cosine {cosine:.7f}, largest difference of a component {difference:.1e}")
    if not (cosine > 1 - TOLERANCE and difference < TOLERANCE):
        raise BenchError(f"the vectors differ by more than {TOLERANCE}: the graph is not the model")
    return 0


if __name__ == "__main__":
    run_script(main)
