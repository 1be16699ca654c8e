"""What every peer does around its model, as its best users do it: texts sorted by length, batches shared by workers."""

import json
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from program import longest_text

# Token ids and mask of a batch, [texts, tokens] of int64, to its last hidden states, [texts, tokens, hidden] of f32.
Forward = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Peer:
    """Some workers over one model. `batch_size` may be changed between calls."""

    def __init__(self, name: str, model: Path, workers: Sequence[Forward], batch_size: int) -> None:
        self.name = name
        self.batch_size = batch_size
        self._workers = workers
        self._tokenizer = tokenizer(model)
        self._last_token = pools_last_token(model)

    @property
    def workers(self) -> int:
        """How many batches it computes at a time."""
        return len(self._workers)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Tokenises, sorts, batches, runs, pools and normalises: one row a text, in input order."""
        token_ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        order = sorted(range(len(token_ids)), key=lambda row: -len(token_ids[row]))
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        free: queue.SimpleQueue[Forward] = queue.SimpleQueue()
        for worker in self._workers:
            free.put(worker)

        def run(batch: list[int]) -> np.ndarray:
            worker = free.get()
            try:
                return encode(worker, [token_ids[row] for row in batch], self._last_token)
            finally:
                free.put(worker)

        with ThreadPoolExecutor(len(self._workers)) as pool:
            vectors = np.concatenate(list(pool.map(run, batches)))
        in_input_order = np.empty_like(vectors)
        in_input_order[order] = vectors
        return in_input_order

    def encode(self, token_ids: list[list[int]]) -> np.ndarray:
        """One batch through the first worker: the model and the pooling alone."""
        return encode(self._workers[0], token_ids, self._last_token)


def encode(forward: Forward, token_ids: list[list[int]], last_token: bool) -> np.ndarray:
    """Pads a batch on the right, runs it, takes the mean or the last of each text's tokens, makes it of unit length."""
    lengths = np.array([len(row) for row in token_ids])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    padded = np.zeros_like(mask)
    padded[mask == 1] = np.concatenate(token_ids)
    states = forward(padded, mask)
    if last_token:
        pooled = states[np.arange(len(lengths)), lengths - 1]
    else:
        # One product instead of a masked copy of all states.
        pooled = np.matmul(mask[:, None, :].astype(np.float32), states)[:, 0] / lengths[:, None].astype(np.float32)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def pools_last_token(model: Path) -> bool:
    """Whether a text's vector is that of its last token, not the mean."""
    settings = json.loads((model / "1_Pooling" / "config.json").read_text("utf-8"))
    return bool(settings.get("pooling_mode_lasttoken"))


def tokenizer(model: Path) -> Tokenizer:
    """The model's tokenizer, without padding, cutting where the model does."""
    loaded = Tokenizer.from_file(str(model / "tokenizer.json"))
    loaded.no_padding()
    loaded.enable_truncation(longest_text(model))
    return loaded
