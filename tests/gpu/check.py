#!/usr/bin/env python3
"""Runs the program on a GPU and on the processor and holds the results against each other; called by check.sh.

Checked: vectors of an exclusive ensemble of three models on both, the driver's numbers against nvidia-smi's, memory back
at the baseline after each pass, batches that are far too large. Measured: tokens a second of a BERT-base with random
weights, in f16 and bf16, with texts of 128, 512 and 2048 tokens; with torch also the peak of matrix products and what
PyTorch makes of the same shapes. What check.sh has measured of attention alone is put beside it.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "fixtures" / "models"
ENSEMBLE = ["bert-minilm", "qwen3-sharded", "modernbert-cls"]
HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 768, 12, 12, 3072, 2048
# 1 - cosine of vectors in bf16 and in f32; the fixtures' weights are large, which costs them more than real models.
LEAST_COSINE = {"f32": 0.99999, "f16": 0.9999, "bf16": 0.999}
# What may stay in use beside the context, as the program itself has it.
TOLERANCE_GB = 0.5


class Failure(Exception):
    """Something is not as it should be."""


def run(program, work, name, *arguments, exit_codes=(0,)):
    """One run of the program; its summary and its events."""
    output = work / name
    environment = {**os.environ, "EMBED_LEASE_DIR": str(work / "leases"), "HF_HUB_OFFLINE": "1"}
    command = [program, "--output-dir", output, "--progress", "none", *arguments]
    ended = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if ended.returncode not in exit_codes:
        raise Failure(f"{' '.join(map(str, command))}\nexit code {ended.returncode}\n{ended.stderr[-4000:]}")
    events = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    return output, json.loads((output / "run-summary.json").read_text()), events


def vectors(output):
    """Vectors by model, part and row."""
    found = {}
    for path in sorted(output.glob("*/*/part-*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row["vector"] is not None:
                found[path.parent.name, path.parent.parent.name, row["id"]] = np.array(row["vector"])
    return found


def least_cosine(one, other):
    if one.keys() != other.keys() or not one:
        raise Failure(f"{len(one)} and {len(other)} vectors, of different rows")
    cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return min(cosine(one[key], other[key]) for key in one)


def check_memory(summary, events):
    """Every pass gives its memory back, and numbers are those of the driver."""
    leaks = [event for event in events if event["event_type"] == "leak"]
    if leaks:
        raise Failure(f"memory did not come back: {leaks}")
    acquired = {}
    deltas = []
    for event in summary["gpu_lease_events"]:
        for device, sample in event["vram"].items():
            if sample["used_gb"] is None or sample["total_gb"] is None:
                raise Failure(f"the driver's numbers are missing: {event}")
            if event["event_type"] == "acquire":
                acquired[device] = sample["used_gb"]
            else:
                deltas.append(sample["used_gb"] - acquired[device])
    if not deltas or max(deltas) > TOLERANCE_GB:
        raise Failure(f"used memory after a pass minus before: {deltas} GB")
    return deltas


def check_ensemble(program, device, work):
    """Three models, one after the other, on the GPU as on the processor."""
    models = [MODELS / name for name in ENSEMBLE]
    shared = ["--chunked-dir", ROOT / "tests/data/Chunked", "--ensemble-models", *models, "--exclusive-ensemble"]
    shared += ["--fusion", "none"]
    expected = vectors(run(program, work, "processor", *shared, "--devices", "cpu", "--dtype", "f32", exit_codes=(0, 3))[0])
    results = {}
    for dtype, least in LEAST_COSINE.items():
        arguments = [*shared, "--devices", device, "--dtype", dtype]
        try:
            output, summary, events = run(program, work, f"gpu-{dtype}", *arguments, exit_codes=(0, 3))
        except Failure as failure:
            if dtype == "bf16" and "has compute capability" in str(failure):
                results[dtype] = {"refused": str(failure).strip().splitlines()[-1]}
                continue
            raise
        deltas = check_memory(summary, events)
        cosine = least_cosine(vectors(output), expected)
        if cosine < least:
            raise Failure(f"{dtype}: the least cosine to the processor's vectors is {cosine}, below {least}")
        results[dtype] = {"least_cosine": cosine, "vram_delta_gb": deltas}
    return results


def write_model(directory):
    """A BERT-base with random weights and a tokenizer that knows few words."""
    shutil.copytree(MODELS / "bert-minilm", directory)
    config = json.loads((directory / "config.json").read_text())
    config |= {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config |= {"intermediate_size": INNER, "max_position_embeddings": POSITIONS}
    (directory / "config.json").write_text(json.dumps(config))
    for path in directory.glob("sentence_bert_config.json"):
        path.write_text(json.dumps({"max_seq_length": POSITIONS, "do_lower_case": False}))
    for path in directory.glob("1_Pooling/config.json"):
        path.write_text(json.dumps({"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(json.loads((directory / "tokenizer_config.json").read_text()) | {"model_max_length": POSITIONS})
    )
    shapes = {f"embeddings.{name}_embeddings.weight": (rows, HIDDEN) for name, rows in
              (("word", config["vocab_size"]), ("position", POSITIONS), ("token_type", config["type_vocab_size"]))}
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}"
        norms += [f"{prefix}.attention.output.LayerNorm", f"{prefix}.output.LayerNorm"]
        for name, outputs, inputs in [
            *((f"attention.self.{part}", HIDDEN, HIDDEN) for part in ("query", "key", "value")),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", INNER, HIDDEN),
            ("output.dense", HIDDEN, INNER),
        ]:
            shapes |= {f"{prefix}.{name}.weight": (outputs, inputs), f"{prefix}.{name}.bias": (outputs,)}
    for norm in norms:
        shapes |= {f"{norm}.weight": (HIDDEN,), f"{norm}.bias": (HIDDEN,)}
    random = np.random.default_rng(1)
    header, parts, offset = {}, [], 0
    for name, shape in shapes.items():
        values = (random.standard_normal(shape) * 0.02 + (name.endswith("LayerNorm.weight"))).astype("<f4")
        parts.append(values.tobytes())
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(parts[-1])]}
        offset += len(parts[-1])
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def one_token_word(directory):
    """A word that is one token, whatever stands beside it."""
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(word for word in vocabulary if re.fullmatch("[a-z]{2,}", word))
    if not words:
        raise Failure("the tokenizer of the fixture knows no word")
    return words[0]


def flops_of_a_token(length):
    """Multiplications and additions of the products of one token."""
    return LAYERS * (2 * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER) + 4 * length * HIDDEN)


def measure(program, device, work, dtypes):
    model = work / "bert-base"
    write_model(model)
    word = one_token_word(model)
    results = []
    for length in (128, 512, 2048):
        texts = (1 << 21) // length
        chunked = work / f"texts-{length}" / "texts"
        chunked.mkdir(parents=True)
        chunks = [{"text": " ".join([word] * (length - 2))}] * texts
        (chunked / "texts_chunks.json").write_text(json.dumps(chunks))
        for dtype in dtypes:
            arguments = ["--chunked-dir", chunked.parent, "--model", model, "--devices", device, "--dtype", dtype]
            _, summary, _ = run(program, work, f"speed-{length}-{dtype}", *arguments, "--batch-tokens", 65536)
            one = summary["passes"][0]
            forward = one["stage_seconds"]["forward"]
            rate = one["tokens"] / forward
            results.append({
                "tokens_of_a_text": length, "dtype": dtype, "tokens": one["tokens"],
                "tokens_per_second_of_the_pass": one["tokens_per_second"],
                "tokens_per_second_of_forward": rate, "tflops_of_forward": rate * flops_of_a_token(length) / 1e12,
            })
            print(json.dumps(results[-1]), flush=True)
    return results


def pytorch(dtypes):
    """Peak of matrix products and the layers of the same shapes in PyTorch; None without it."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None

    def seconds(work, repetitions):
        for _ in range(3):
            work()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repetitions):
            work()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / repetitions

    results = {"version": torch.__version__, "matmul_tflops": {}, "tokens_per_second": []}
    for name in dtypes:
        dtype = {"f16": torch.float16, "bf16": torch.bfloat16}[name]
        size = 8192
        a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
        results["matmul_tflops"][name] = 2 * size**3 / seconds(lambda: a @ b, 30) / 1e12
        layer = torch.nn.TransformerEncoderLayer(HIDDEN, HEADS, INNER, 0.0, "gelu", batch_first=True)
        encoder = torch.nn.TransformerEncoder(layer, LAYERS).to("cuda", dtype).eval()
        for length in (128, 512, 2048):
            batch = torch.randn(65536 // length, length, HIDDEN, device="cuda", dtype=dtype)
            with torch.inference_mode():
                rate = 65536 / seconds(lambda: encoder(batch), 10)
            results["tokens_per_second"].append({"tokens_of_a_text": length, "dtype": name, "layers_alone": rate})
    return results


def main():
    program, device = Path(sys.argv[1]).resolve(), sys.argv[2]
    report = json.loads(subprocess.run([program, "devices", "--json"], capture_output=True, text=True, check=True).stdout)
    info = next((entry for entry in report["devices"] if entry["device"] == device), None)
    if info is None or info["kind"] != "cuda":
        print(f"there is no {device} here: nothing was checked", file=sys.stderr)
        return 77
    query = ["nvidia-smi", f"--id={info['uuid']}", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    name, total_mib = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().split(", ")
    if abs(info["total_bytes"] / 2**20 - float(total_mib)) > 1:
        raise Failure(f"{info['total_bytes']} bytes in all, and nvidia-smi says {total_mib} MiB")
    results = {"device": info, "driver": report["driver"], "cuda": report["cuda"]}
    results["program"] = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        results["ensemble"] = check_ensemble(program, device, work)
        dtypes = [dtype for dtype in ("f16", "bf16") if "refused" not in results["ensemble"][dtype]]
        results["speed"] = measure(program, device, work, dtypes)
        # More in one batch than any card holds: it is to be cut, and every row is to have its vector.
        arguments = ["--chunked-dir", work / "texts-2048", "--model", work / "bert-base", "--devices", device]
        _, summary, _ = run(program, work, "too-large", *arguments, "--batch-tokens", 1 << 21, "--batch-size", 1024)
        results["mitigations_of_a_batch_too_large"] = summary["passes"][0].get("mitigation_events")
        results["pytorch"] = pytorch(dtypes)
        times = os.environ.get("EMBED_ATTENTION_TIMES")
        results["attention_ms"] = [json.loads(line) for line in Path(times).read_text().splitlines()] if times else None
    path = ROOT / "benches" / "results" / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"all as it should be; {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
