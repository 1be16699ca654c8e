"""PyTorch on a CPU: transformers' own model in f32 with SDPA attention, without a cache."""

import os
from pathlib import Path

import numpy as np

from peer import Peer

os.environ["HF_HUB_OFFLINE"] = "1"


class PyTorch(Peer):
    """One model whose operators share some threads. The number of threads holds for the whole process."""

    def __init__(self, model: Path, threads: int, batch_size: int = 1) -> None:
        import torch
        from transformers import AutoModel

        torch.set_num_threads(threads)
        network = AutoModel.from_pretrained(model, attn_implementation="sdpa", dtype=torch.float32).eval()
        # A cache of keys is for generating; here it would only cost.
        arguments = {"use_cache": False} if hasattr(network.config, "use_cache") else {}

        def forward(token_ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            # Without padding no mask is needed, and attention is quicker without one.
            attention_mask = None if mask.all() else torch.from_numpy(mask)
            with torch.inference_mode():
                output = network(input_ids=torch.from_numpy(token_ids), attention_mask=attention_mask, **arguments)
            return output.last_hidden_state.numpy()

        super().__init__("PyTorch", model, [forward], batch_size)
