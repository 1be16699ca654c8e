"""Random weights that depend on a seed and on their names alone, and the files that hold them."""

import math
import tempfile
import zlib
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .files import write_json

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
