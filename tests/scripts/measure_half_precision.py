#!/usr/bin/env python3
"""Measures what f16 and bf16 cost PyTorch with the tiny models: tests/fixtures/half_precision.json.

    python tests/scripts/measure_half_precision.py

For each model of tests/fixtures/models, the model as sentence-transformers loads it (or as the runner of its
reference.json has it) is put into these numbers, on the processor, one text at a time; the largest difference to the f32
results of reference.json is written down for each kind of vectors: of a component of a text's vector, both scaled to
unit length; of a token's weight, divided by it where it is more than 1; of a component of a token's vector.
tests/models/half_precision.rs allows twice that. What the library cannot compute in these numbers is left out, and said.
Requirements: those of make_models.py.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import json
import warnings
from pathlib import Path

import numpy as np
import torch

from tiny_models.reference import BgeM3, Dense, JinaBertEncoder, MultiVector, Sparse, SparseDocuments

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
NUMBERS = {"f16": torch.float16, "bf16": torch.bfloat16}


def unit(vector) -> np.ndarray:
    vector = np.asarray(vector, np.float64)
    return vector / max(np.linalg.norm(vector), np.finfo(np.float64).tiny)


def of_dense(found, expected) -> float:
    return float(np.abs(unit(found) - unit(expected)).max())


def of_sparse(found: dict, expected: dict) -> float:
    weight = lambda weights, token: weights.get(token, 0.0)
    one = lambda token: abs(weight(found, token) - weight(expected, token)) / max(1.0, weight(expected, token))
    return max(map(one, found.keys() | expected.keys()), default=0.0)


def of_multi(found, expected) -> float:
    return float(np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64)).max(initial=0.0))


class LowerDense(Dense):
    """A model in other numbers, the layers of sentence-transformers included."""

    def __init__(self, folder: Path, dtype: torch.dtype):
        super().__init__(folder)
        self.model.to(dtype)

    def vector(self, text: str, case: dict) -> np.ndarray:
        vectors = self.model.encode(
            [text], prompt_name=case.get("prompt_name"), prompt=case.get("prompt"), show_progress_bar=False,
            truncate_dim=case.get("truncate_dim"), normalize_embeddings=False, convert_to_numpy=False,
        )  # fmt: skip
        return vectors[0].to(torch.float64).numpy()

    def limit(self, case: dict) -> None:
        if limit := case.get("max_length", self.length):
            self.model.max_seq_length = limit

    def costs(self, case: dict):
        """(kind, largest difference) of each text and kind."""
        self.limit(case)
        for text, expected in zip(case["texts"], case["embeddings"]):
            if expected is not None:
                yield "dense", of_dense(self.vector(text, case), expected)


class LowerBgeM3(LowerDense, BgeM3):
    def __init__(self, folder: Path, dtype: torch.dtype):
        super().__init__(folder, dtype)
        load = lambda name: torch.load(self.folder / f"{name}.pt", weights_only=True)
        self.heads = {
            name: {key: tensor.to(dtype) for key, tensor in load(f"{name}_linear").items()}
            for name in ("sparse", "colbert")
        }

    def costs(self, case: dict):
        yield from super().costs(case)
        for ids, sparse, colbert in zip(case["token_ids"], case["sparse"], case["colbert"]):
            with torch.no_grad():
                hidden = self.model[0].model(torch.tensor([ids])).last_hidden_state[0]
                linear = lambda name, x: torch.nn.functional.linear(x, self.heads[name]["weight"], self.heads[name]["bias"])
                weights = linear("sparse", hidden).relu().flatten().to(torch.float64).tolist()
                vectors = torch.nn.functional.normalize(linear("colbert", hidden[1:]), dim=-1)
            best = {}
            for id, weight in zip(ids, weights):
                if id > 3:
                    best[str(id)] = max(weight, best.get(str(id), 0.0))
            yield "sparse", of_sparse(best, sparse)
            if colbert is not None:
                yield "multi", of_multi(vectors.to(torch.float64), colbert)


class LowerSparse(LowerDense, Sparse):
    def costs(self, case: dict):
        self.limit(case)
        for text, expected in zip(case["texts"], case["sparse"]):
            options = {"convert_to_sparse_tensor": False, "show_progress_bar": False}
            row = self.row(text, case, options).to(torch.float64).tolist()
            yield "sparse", of_sparse({str(id): weight for id, weight in enumerate(row) if weight}, expected)


    def row(self, text: str, case: dict, options: dict) -> torch.Tensor:
        return self.model.encode([text], prompt=case.get("prompt"), **options)[0]


class LowerSparseDocuments(LowerSparse, SparseDocuments):
    def row(self, text: str, case: dict, options: dict) -> torch.Tensor:
        return self.model.encode_document([text], **options)[0]


class LowerMultiVector(MultiVector):
    def __init__(self, folder: Path, dtype: torch.dtype):
        super().__init__(folder)
        self.model.to(dtype)

    def costs(self, case: dict):
        if "queries" in case:
            return
        encode = self.model.encode_query if case["task"] == "query" else self.model.encode_document
        for text, expected in zip(case["texts"], case["embeddings"]):
            vectors = encode([text], show_progress_bar=False)[0]
            yield "multi", of_multi(torch.as_tensor(vectors).to(torch.float64), expected)


class LowerJinaBert(LowerDense, JinaBertEncoder):
    def __init__(self, folder: Path, dtype: torch.dtype):
        JinaBertEncoder.__init__(self, folder)
        self.model.network.to(dtype)

    def vector(self, text: str, case: dict) -> np.ndarray:
        return np.array(self.model.vector(self.ids(text, case)), np.float64)


RUNNERS = {
    "sentence_transformers": LowerDense, "bge_m3": LowerBgeM3, "sparse_encoder": LowerSparse,
    "sparse_documents": LowerSparseDocuments, "multi_vector": LowerMultiVector, "own_forward": LowerJinaBert,
}  # fmt: skip


def worst(model, cases: list) -> dict:
    worst = {}
    for case in cases:
        for kind, cost in model.costs(case):
            worst[kind] = max(cost, worst.get(kind, 0.0))
    return worst


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    measured = {}
    for path in sorted(FIXTURES.glob("models/*/reference.json")):
        reference, name = json.loads(path.read_text()), path.parent.name
        runner = RUNNERS[reference["runner"]]
        try:
            costs = {dtype: worst(runner(path.parent, NUMBERS[dtype]), reference["cases"]) for dtype in NUMBERS}
        except (RuntimeError, TypeError, ValueError) as error:
            print(f"{name}: left out: {error}")
            continue
        kinds = next(iter(costs.values()))
        measured[name] = {kind: {dtype: float(f"{costs[dtype][kind]:.3g}") for dtype in NUMBERS} for kind in kinds}
        print(name, measured[name])
    (FIXTURES / "half_precision.json").write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
