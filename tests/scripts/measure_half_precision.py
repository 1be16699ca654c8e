#!/usr/bin/env python3
"""Measures what f16 and bf16 cost PyTorch with the tiny models: tests/fixtures/half_precision.json.

    python tests/scripts/measure_half_precision.py

For each model of tests/fixtures/models with one vector a text, the model as sentence-transformers loads it is put into
these numbers, on the processor, one text at a time; the largest difference of a component to the f32 vectors of
reference.json is written down, both scaled to unit length. tests/half_precision.rs allows twice that. What the library
cannot compute in these numbers is left out, and said. Requirements: those of make_models.py.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import json
import warnings
from pathlib import Path

import numpy as np
import torch

from tiny_models.reference import Dense

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
NUMBERS = {"f16": torch.float16, "bf16": torch.bfloat16}


class Lower(Dense):
    """A model in other numbers, the layers of sentence-transformers included."""

    def __init__(self, folder: Path, dtype: torch.dtype):
        super().__init__(folder)
        self.model.to(dtype)

    def encode(self, texts: list, case: dict) -> list:
        vectors = self.model.encode(
            texts, prompt_name=case.get("prompt_name"), prompt=case.get("prompt"), show_progress_bar=False,
            truncate_dim=case.get("truncate_dim"), normalize_embeddings=False, convert_to_numpy=False,
        )  # fmt: skip
        return [vector.to(torch.float64).numpy() for vector in vectors]


def unit(vector) -> np.ndarray:
    vector = np.asarray(vector, np.float64)
    return vector / max(np.linalg.norm(vector), np.finfo(np.float64).tiny)


def cost(model: Lower, cases: list) -> float:
    worst = 0.0
    for case in cases:
        if limit := case.get("max_length", model.length):
            model.model.max_seq_length = limit
        for text, expected in zip(case["texts"], case["embeddings"]):
            if expected is not None:
                found = model.encode([text], case)[0]
                worst = max(worst, float(np.abs(unit(found) - unit(expected)).max()))
    return worst


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    measured = {}
    for path in sorted(FIXTURES.glob("models/*/reference.json")):
        reference, name = json.loads(path.read_text()), path.parent.name
        if reference["runner"] != "sentence_transformers":
            continue
        try:
            costs = {dtype: cost(Lower(path.parent, NUMBERS[dtype]), reference["cases"]) for dtype in NUMBERS}
        except (RuntimeError, TypeError, ValueError) as error:
            print(f"{name}: left out: {error}")
            continue
        measured[name] = {dtype: float(f"{value:.3g}") for dtype, value in costs.items()}
        print(name, measured[name])
    (FIXTURES / "half_precision.json").write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
