"""ONNX graphs of models with rotary positions and gated feed-forward layers, written operator by operator.

onnxruntime's optimizer has no fusions for them: exported from PyTorch they would run as hundreds of small operators.
Here they are of those that onnxruntime has for language models (as its own builder of generative models has it):
GroupQueryAttention with the rotary positions in it, SkipSimplifiedLayerNormalization, QuickGelu for SiLU; the weights
of queries, keys and values are one matrix. Linear weights are stored as [inputs, outputs], beside the graph.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
MICROSOFT = "com.microsoft"


class Graph:
    """Nodes and weights as they are added."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        """A tensor of the graph; returns its name."""
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def weight(self, name: str) -> str:
        """A tensor of the model as it is."""
        return self.constant(name, self.weights[name])

    def add(self, kind: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node; returns the names of its outputs, or the only one."""
        name = f"{kind}_{len(self.nodes)}"
        results = [f"{name}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, results, name=name, domain=domain, **attributes))
        return results if outputs > 1 else results[0]

    def linear(self, states: str, *names: str) -> str:
        """The outputs of linear layers with the same input, side by side."""
        joined = "+".join(names)
        matrix = np.concatenate([self.weights[f"{name}.weight"] for name in names]).T
        product = self.add("MatMul", states, self.constant(f"{joined}.weight", matrix))
        if f"{names[0]}.bias" not in self.weights:
            return product
        bias = np.concatenate([self.weights[f"{name}.bias"] for name in names])
        return self.add("Add", product, self.constant(f"{joined}.bias", bias))

    def gated(self, states: str, layer: str) -> str:
        """SiLU of the gate times the other half, through the last of the three."""
        gate = self.linear(states, f"{layer}.mlp.gate_proj")
        gate = self.add("QuickGelu", gate, domain=MICROSOFT, alpha=1.0)
        inner = self.add("Mul", gate, self.linear(states, f"{layer}.mlp.up_proj"))
        return self.linear(inner, f"{layer}.mlp.down_proj")

    def save(self, path: Path, states: str) -> None:
        """Writes the graph, and the weights into a file beside it."""
        self.add_output(states)
        axes = ["texts", "tokens"]
        names = ("input_ids", "attention_mask")
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in names]
        output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*axes, None])
        graph = helper.make_graph(self.nodes, "gated", inputs, [output], list(self.initializers.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data")

    def add_output(self, states: str) -> None:
        """The output under the name that all graphs give it."""
        self.nodes.append(helper.make_node("Identity", [states], ["last_hidden_state"]))


def write_graph(network: Any, path: Path) -> str:
    """Writes the graph of a model of `transformers`; returns what it is made of."""
    config = network.config
    graph = Graph({name: values.numpy() for name, values in network.state_dict().items()})
    states = pre_norm_causal(graph, config) if config.model_type in ("qwen2", "qwen3") else post_norm(graph, config)
    graph.save(path, states)
    kinds = [node.op_type for node in graph.nodes if node.domain == MICROSOFT]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))


def pre_norm_causal(graph: Graph, config: Any) -> str:
    """Qwen2 and Qwen3."""
    heads, groups, head_size = config.num_attention_heads, config.num_key_value_heads, head_size_of(config)
    cos, sin = rotary_tables(graph, config)
    shape = graph.add("Shape", "attention_mask", start=1)
    total = graph.add("Cast", shape, to=TensorProto.INT32)
    one = graph.constant("one", np.array([1], np.int64))
    # Padding is on the right, where no token of a causal model looks: only the sums of the mask tell it.
    lengths = graph.add("ReduceSum", "attention_mask", one, keepdims=0)
    last = graph.add("Cast", graph.add("Sub", lengths, one), to=TensorProto.INT32)
    residual = graph.add("Gather", graph.weight("embed_tokens.weight"), "input_ids")
    epsilon = config.rms_norm_eps
    states = graph.add(
        "SimplifiedLayerNormalization", residual, graph.weight("layers.0.input_layernorm.weight"), epsilon=epsilon
    )

    def add_and_norm(residual: str, states: str, norm: str) -> tuple[str, str]:
        normed, _, _, total = graph.add(
            "SkipSimplifiedLayerNormalization",
            residual,
            states,
            graph.weight(f"{norm}.weight"),
            domain=MICROSOFT,
            outputs=4,
            epsilon=epsilon,
        )
        return total, normed

    for index in range(config.num_hidden_layers):
        layer = f"layers.{index}"
        joined = graph.linear(states, *(f"{layer}.self_attn.{name}_proj" for name in "qkv"))
        query, key, value = joined, "", ""
        if config.model_type == "qwen3":
            sizes = graph.constant("sizes", np.array([heads * head_size, groups * head_size, groups * head_size]))
            query, key, value = graph.add("Split", joined, sizes, axis=2, outputs=3)
            query = norm_of_heads(graph, query, f"{layer}.self_attn.q_norm", config)
            key = norm_of_heads(graph, key, f"{layer}.self_attn.k_norm", config)
        states = graph.add(
            "GroupQueryAttention",
            *(query, key, value, "", "", last, total, cos, sin),
            domain=MICROSOFT,
            num_heads=heads,
            kv_num_heads=groups,
            scale=head_size**-0.5,
            do_rotary=1,
        )
        states = graph.linear(states, f"{layer}.self_attn.o_proj")
        residual, states = add_and_norm(residual, states, f"{layer}.post_attention_layernorm")
        following = f"layers.{index + 1}.input_layernorm" if index + 1 < config.num_hidden_layers else "norm"
        residual, states = add_and_norm(residual, graph.gated(states, layer), following)
    return states


def norm_of_heads(graph: Graph, states: str, norm: str, config: Any) -> str:
    """Queries or keys, each head scaled for itself. GroupQueryAttention has an input for it, but not on a CPU."""
    apart = graph.constant("heads_apart", np.array([0, 0, -1, head_size_of(config)], np.int64))
    together = graph.constant("heads_together", np.array([0, 0, -1], np.int64))
    states = graph.add("Reshape", states, apart)
    weight = graph.weight(f"{norm}.weight")
    states = graph.add("SimplifiedLayerNormalization", states, weight, epsilon=config.rms_norm_eps)
    return graph.add("Reshape", states, together)


def post_norm(graph: Graph, config: Any) -> str:
    """Nomic's BERT."""
    cos, sin = rotary_tables(graph, config)
    start = graph.constant("first_position", np.array([0], np.int64))
    mask = graph.add("Cast", "attention_mask", to=TensorProto.INT32)
    # All tokens are of type 0.
    words, types = (graph.weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "token_type"))
    states = graph.add("Gather", graph.constant("embeddings", words + types[0]), "input_ids")
    norm = [graph.weight(f"embeddings.LayerNorm.{part}") for part in ("weight", "bias")]
    states = graph.add("LayerNormalization", states, *norm, epsilon=config.layer_norm_eps)
    sizes = graph.constant("sizes", np.array([config.num_attention_heads * head_size_of(config)] * 3, np.int64))

    def add_and_norm(residual: str, states: str, name: str) -> str:
        norm = [graph.weight(f"{name}.{part}") for part in ("weight", "bias")]
        return graph.add(
            "SkipLayerNormalization", states, residual, *norm, domain=MICROSOFT, epsilon=config.layer_norm_eps
        )

    for index in range(config.num_hidden_layers):
        layer = f"layers.{index}"
        joined = graph.linear(states, *(f"{layer}.self_attn.{name}_proj" for name in "qkv"))
        query, key, value = graph.add("Split", joined, sizes, axis=2, outputs=3)
        query, key = (
            graph.add(
                "RotaryEmbedding", values, start, cos, sin, domain=MICROSOFT, num_heads=config.num_attention_heads
            )
            for values in (query, key)
        )
        attended = graph.add(
            "MultiHeadAttention",
            *(query, key, value, "", mask),
            domain=MICROSOFT,
            num_heads=config.num_attention_heads,
        )
        attended = graph.linear(attended, f"{layer}.self_attn.o_proj")
        states = add_and_norm(states, attended, f"{layer}.post_attention_layernorm")
        states = add_and_norm(states, graph.gated(states, layer), f"{layer}.post_mlp_layernorm")
    return states


def rotary_tables(graph: Graph, config: Any) -> tuple[str, str]:
    """Cosines and sines, [positions, half of a head]."""
    size = head_size_of(config)
    frequencies = config.rope_parameters["rope_theta"] ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    angles = np.outer(np.arange(config.max_position_embeddings), frequencies)
    cos = graph.constant("cos", np.cos(angles).astype(np.float32))
    return cos, graph.constant("sin", np.sin(angles).astype(np.float32))


def head_size_of(config: Any) -> int:
    """Components of a head, which some models set apart from their hidden size."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
