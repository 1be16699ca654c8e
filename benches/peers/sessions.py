"""onnxruntime on a CPU as its best users run it: a fused graph, texts sorted by length, batches shared by sessions."""

import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from measure import BenchError
from program import longest_text


class Sessions:
    """Some sessions over one model, each with threads of its own. `batch_size` may be changed between calls."""

    def __init__(self, model: Path, sessions: int, threads_each: int, batch_size: int = 1) -> None:
        graph = model / "onnx" / "model.onnx"
        if not graph.is_file():
            raise BenchError(f"{graph} is missing: make the model's directory with make_model.py")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads_each
        options.inter_op_num_threads = 1
        self.name = f"{sessions} × {threads_each}"
        self.batch_size = batch_size
        self._tokenizer = tokenizer(model)
        self._sessions = [
            onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
            for _ in range(sessions)
        ]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Tokenises, sorts, batches, runs, pools and normalises: one row a text, in input order."""
        token_ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        order = sorted(range(len(token_ids)), key=lambda row: -len(token_ids[row]))
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        free: queue.SimpleQueue[onnxruntime.InferenceSession] = queue.SimpleQueue()
        for session in self._sessions:
            free.put(session)

        def run(batch: list[int]) -> np.ndarray:
            session = free.get()
            try:
                return encode(session, [token_ids[row] for row in batch])
            finally:
                free.put(session)

        with ThreadPoolExecutor(len(self._sessions)) as pool:
            vectors = np.concatenate(list(pool.map(run, batches)))
        in_input_order = np.empty_like(vectors)
        in_input_order[order] = vectors
        return in_input_order

    def encode(self, token_ids: list[list[int]]) -> np.ndarray:
        """One batch through the first session: the model and the pooling alone."""
        return encode(self._sessions[0], token_ids)


def encode(session: onnxruntime.InferenceSession, token_ids: list[list[int]]) -> np.ndarray:
    """Pads a batch, runs it, takes the mean over each text's tokens and scales it to unit length."""
    lengths = np.array([len(row) for row in token_ids])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    padded = np.zeros_like(mask)
    padded[mask == 1] = np.concatenate(token_ids)
    inputs = {"input_ids": padded, "attention_mask": mask, "token_type_ids": np.zeros_like(padded)}
    (states,) = session.run(["last_hidden_state"], inputs)
    # One product instead of a masked copy of all states.
    means = np.matmul(mask[:, None, :].astype(np.float32), states)[:, 0] / lengths[:, None].astype(np.float32)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def tokenizer(model: Path) -> Tokenizer:
    """The model's tokenizer, without padding, cutting where the model does."""
    loaded = Tokenizer.from_file(str(model / "tokenizer.json"))
    loaded.no_padding()
    loaded.enable_truncation(longest_text(model))
    return loaded
