"""onnxruntime on a CPU: a graph of the operators that it has for transformers, in one session or several."""

from pathlib import Path

import numpy as np
import onnxruntime

from measure import BenchError
from peer import Forward, Peer


class Sessions(Peer):
    """Some sessions over one model, each with threads of its own."""

    def __init__(self, model: Path, sessions: int, threads_each: int, batch_size: int = 1) -> None:
        graph = model / "onnx" / "model.onnx"
        if not graph.is_file():
            raise BenchError(f"{graph} is missing: make the model's directory with make_model.py")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads_each
        options.inter_op_num_threads = 1
        workers = [
            forward_of(onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"]))
            for _ in range(sessions)
        ]
        super().__init__(f"{sessions} × {threads_each}", model, workers, batch_size)


def forward_of(session: onnxruntime.InferenceSession) -> Forward:
    """A call of the session; not every graph has token types."""
    names = [value.name for value in session.get_inputs()]

    def forward(token_ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": token_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(token_ids)}
        (states,) = session.run(["last_hidden_state"], {name: inputs[name] for name in names})
        return states

    return forward
