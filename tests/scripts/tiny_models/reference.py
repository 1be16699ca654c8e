"""What the reference libraries compute for a directory: reference.json, and its check."""

import importlib.metadata
import json
import math
from pathlib import Path

import numpy
import torch
from tokenizers import Tokenizer
from torch import nn

from .files import as_text, rounded
from .jina_bert import JinaBertStandIn
from .texts import SENTENCE
from .weights import SEED


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


class SparseDocuments(Sparse):
    """The same of a model in which documents and queries take different ways, by SparseEncoder.encode_document."""

    library = "sentence_transformers.SparseEncoder.encode_document"

    def load(self):
        model = super().load()
        self.length = model[0].sub_modules["document"][0].max_seq_length
        return model

    def ids(self, text: str, case: dict) -> list:
        features = self.model[0].preprocess([text], prompt=self.prompt(case) or None, task="document")
        return features["input_ids"].flatten().tolist()

    def encode(self, texts: list, case: dict) -> list:
        options = {"convert_to_sparse_tensor": False, "show_progress_bar": False, "batch_size": len(texts)}
        return [row.tolist() for row in self.model.encode_document(texts, **options)]


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

    library = "JinaBert in tests/scripts/tiny_models/jina_bert.py (our own reading of the definition)"

    def load(self):
        return JinaBertStandIn(self.folder)

    def ids(self, text: str, case: dict) -> list:
        return self.raw_ids(self.prompt(case) + text, self.model.max_seq_length)

    def encode(self, texts: list, case: dict) -> list:
        return [self.model.vector(self.ids(text, case)) for text in texts]

    def facts(self) -> dict:
        return {"max_seq_length": self.length, "dimension": self.model.network.width, "prompts": self.model.prompts}


RUNNERS = {
    "sentence_transformers": Dense, "bge_m3": BgeM3, "sparse_encoder": Sparse, "sparse_documents": SparseDocuments,
    "multi_vector": MultiVector, "own_forward": JinaBertEncoder,
}  # fmt: skip


def distance(one: list, other: list) -> float:
    """Largest difference of a component between two vectors scaled to unit length."""
    one, other = numpy.array(one, numpy.float64), numpy.array(other, numpy.float64)
    if one.shape != other.shape:
        return math.inf
    lengths = [numpy.linalg.norm(vector) or 1.0 for vector in (one, other)]
    return float(numpy.abs(one / lengths[0] - other / lengths[1]).max())


def difference(one, other) -> float:
    """Largest difference of numbers in two results, relative above 1; infinite where anything else differs."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(difference, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, (int, float)):
        return abs(one - other) / max(1.0, abs(one))
    return 0.0 if one == other else math.inf


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
