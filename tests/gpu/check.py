#!/usr/bin/env python3
"""Runs the program on a GPU and on the processor and holds the results against each other; called by check.sh.

    check.py PROGRAM DEVICE [--only PART…] [--tiny] [--results FILE]

Parts, all of them unless some are named:
  architectures  every model of tests/fixtures/models, in an exclusive ensemble: in f32, f16 and bf16 as its reference is
  ensemble       MiniLM, bge-m3 and Qwen3-0.6B with random weights: as on the processor; memory back at the baseline after
                 each pass
  memory         another program takes all memory while bge-m3 is at work: no row may be lost or wrong
  speed          tokens a second of these three and of jina-code-1.5b in f16 and bf16, for texts of 128, 512 and 2,048
                 tokens, beside the rate of matrix products and beside sentence-transformers, where PyTorch is installed

--tiny makes the models small and the texts few, for a stand-in in place of a GPU: then the results say nothing of speed.
Results: benches/results/NAME-OF-THE-GPU.json, unless --results names another file.
"""

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import made_models

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["architectures", "ensemble", "memory", "speed"]
DTYPES = ["f32", "f16", "bf16"]
LENGTHS = [128, 512, 2048]
# One of each kind of vectors and of layers.
TINY_CHOICE = ["bert-minilm", "colbert-pylate", "qwen3-sharded", "splade-mlm", "static-st"]
# By how much the cosine of a made model's vectors to those in f32 falls short of 1 with PyTorch on a processor, for 75 texts
# of the example collections cut to 64 tokens, and those of the small models, cut to 16.
LOSSES = {
    "minilm-l6": {"f16": 5.7e-7, "bf16": 9.1e-5},
    "bge-m3": {"f16": 4.3e-6, "bf16": 7.0e-4},
    "qwen3-0.6b": {"f16": 1.6e-5, "bf16": 1.6e-3},
}
TINY_LOSSES = {
    "minilm-l6": {"f16": 7.3e-7, "bf16": 1.4e-4},
    "bge-m3": {"f16": 2.2e-6, "bf16": 3.0e-4},
    "qwen3-0.6b": {"f16": 5.5e-6, "bf16": 4.3e-4},
}
# What it may fall short here: as components may differ by twice as much, the square of that. In f32 nobody loses anything.
TIMES_LOSS, LOSS_IN_F32 = 4, 1e-6
# What may stay in use beside the context, as the program itself has it.
TOLERANCE_GB = 0.5
# Time that a measurement of speed should take at half the rate of matrix products, and its rate where nobody measures it.
SECONDS, USUAL_TFLOPS = 3, 50
BATCH_TOKENS = 65_536
# What the other program leaves free: enough for the smallest batches of bge-m3.
LEFT_MIB = 768


class Failure(Exception):
    """Something is not as it should be."""


class Check:
    """The program, a device, and a folder for what they make."""

    def __init__(self, program, device, info, work, tiny):
        self.program, self.device, self.info, self.work, self.tiny = program, device, info, work, tiny
        self.shapes = {name: made_models.tiny(shape) if tiny else shape for name, shape in made_models.SHAPES.items()}
        self.losses = TINY_LOSSES if tiny else LOSSES
        self.lengths = [8, 24] if tiny else LENGTHS
        self.refused = {}

    def command(self, name, *arguments):
        everywhere = ["--output-dir", self.work / name, "--progress", "none", "--offline"]
        return list(map(str, [self.program, *everywhere, *arguments]))

    def environment(self, **variables):
        return {**os.environ, "EMBED_LEASE_DIR": str(self.work / "leases"), **variables}

    def run(self, name, *arguments, **variables):
        """One run of the program; its output, its summary and its events."""
        command = self.command(name, *arguments)
        ended = subprocess.run(command, env=self.environment(**variables), capture_output=True, text=True)
        return self.outcome(name, command, ended.returncode, ended.stderr)

    def outcome(self, name, command, exit_code, stderr):
        if exit_code != 0:
            raise Failure(f"{' '.join(command)}\nexit code {exit_code}\n{stderr[-4000:]}")
        output = self.work / name
        events = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
        return output, json.loads((output / "run-summary.json").read_text()), events

    def run_as(self, dtype, name, *arguments):
        """The same on the device in a dtype; None if the device does not have it, which it must say."""
        try:
            return self.run(name, *arguments, "--devices", self.device, "--dtype", dtype)
        except Failure as failure:
            if dtype == "bf16" and "has compute capability" in str(failure):
                self.refused[dtype] = str(failure).strip().splitlines()[-1]
                return None
            raise

    def in_all_dtypes(self, name, *arguments):
        """Each dtype that the device has, with the vectors of the run and what memory its passes kept: hardly any."""
        for dtype in DTYPES:
            if ran := self.run_as(dtype, f"{name}-{dtype}", *arguments):
                output, summary, events = ran
                yield dtype, vectors(output), memory_of_passes(summary, events)

    def model(self, name):
        """The directory of a made model, which is made if need be."""
        directory = self.work / "models" / name
        if not directory.exists():
            self.shapes[name].write(directory)
        return directory

    def hold(self, cosines, dtype):
        """Least cosines of models to what is exact must not fall short of 1 by too much."""
        for name, cosine in cosines.items():
            allowed = LOSS_IN_F32 if dtype == "f32" else TIMES_LOSS * self.losses[name][dtype]
            if not 1 - cosine <= allowed:
                raise Failure(f"{name} in {dtype}: its least cosine is {cosine}, which is more than {allowed:.1e} below 1")

    def models_and_texts(self, *names):
        texts = ["--chunked-dir", ROOT / "tests/data/Chunked", "--max-length", 16 if self.tiny else 64]
        return [*texts, "--exclusive-ensemble", "--fusion", "none", "--ensemble-models", *map(self.model, names)]

    def peer(self, *arguments):
        """What torch_peer.py prints, line by line; None without the packages that it needs."""
        on = "cuda:0" if not self.tiny else "cpu"
        command = [sys.executable, Path(__file__).with_name("torch_peer.py"), arguments[0], on, *arguments[1:]]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": self.info["uuid"]}
        ended = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
        if ended.returncode not in (0, 77):
            raise Failure(f"torch_peer.py: exit code {ended.returncode}\n{ended.stderr[-4000:]}")
        return None if ended.returncode == 77 else [json.loads(line) for line in ended.stdout.splitlines()]


def vectors(output):
    """Unit vectors (a list of them for multi-vector models, weights by token for sparse ones) by model, part and row."""
    found = {}
    for path in sorted(output.glob("*/*/part-*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            key = path.parent.name, path.parent.parent.name, row["id"]
            if row.get("sparse") is not None:
                found[key] = dict(zip(row["sparse"]["indices"], finite(row["sparse"]["values"], key)))
            elif row.get("multi") is not None:
                found[key] = unit(finite(row["multi"], key))
            elif row.get("vector") is not None:
                found[key] = unit(finite(row["vector"], key))
    return found


def finite(values, key):
    """As an array. What is not a number is in nobody's order, and would pass for the best."""
    values = np.array(values, dtype=float)
    if not np.isfinite(values).all():
        raise Failure(f"{key} has numbers that are not finite")
    return values


def unit(vectors):
    # A static model's vector of a text that it does not know has no direction.
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.finfo(float).tiny)


def same_rows(found, expected):
    if found.keys() != expected.keys() or not found:
        raise Failure(f"{len(found)} and {len(expected)} vectors, of different rows")


def least_cosines(found, expected):
    same_rows(found, expected)
    least = {}
    for key, one in found.items():
        least[key[0]] = min(least.get(key[0], 1.0), float(one @ expected[key]))
    return least


def memory_of_passes(summary, events):
    """By how much more memory is in use after each pass than before, by the numbers of the driver."""
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


class References:
    """What the fixtures' own libraries make of some texts: reference.json beside each of them."""

    def __init__(self, names):
        self.cases, self.texts = {}, []
        for name in names:
            cases = json.loads((made_models.FIXTURES / name / "reference.json").read_text())["cases"]
            # As the program does by itself: the prompt of documents where there is one, no other length or dimension.
            by_name = {case["name"]: case for case in cases}
            usual = ("prompt_name document", "prompt_name passage", "documents", "plain")
            self.cases[name] = next(by_name[case] for case in usual if case in by_name)
            self.texts += [text for text in self.cases[name]["texts"] if text not in self.texts]
        self.costs = json.loads((made_models.FIXTURES.parent / "half_precision.json").read_text())

    def write_texts(self, directory):
        folder = directory / "reference"
        folder.mkdir(parents=True)
        (folder / "texts_chunks.json").write_text(json.dumps([{"text": text} for text in self.texts]))
        return directory

    def differences(self, name, found):
        """The largest difference of a component or weight, and whether every text that is more than blanks has a vector."""
        case = self.cases[name]
        largest = 0.0
        for text, expected in zip(case["texts"], case["sparse" if name_of_kind(case) == "sparse" else "embeddings"]):
            one = found.get((name, "reference", f"texts_chunks.json#{self.texts.index(text)}"))
            if one is None:
                if text.strip() and expected is not None:
                    raise Failure(f"{name} has no vector of {text!r}")
                continue
            largest = max(largest, difference(one, expected))
        return largest

    def allowed(self, name, dtype):
        """As tests/models/half_precision.rs has it; None where nobody knows."""
        case = self.cases[name]
        if dtype == "f32":
            return 2.5e-5 if name_of_kind(case) == "sparse" else 5e-6
        costs = self.costs.get(name, {}).get(name_of_kind(case), {})
        return 2 * costs[dtype] if dtype in costs else None


def name_of_kind(case):
    if "task" in case:
        return "multi"
    return "dense" if "embeddings" in case else "sparse"


def difference(found, expected):
    """Of components of unit vectors, or of weights by token over the weight where that is more than 1."""
    if isinstance(found, dict):
        expected = {int(token): weight for token, weight in expected.items()}
        pairs = ((found.get(token, 0), expected.get(token, 0)) for token in found.keys() | expected.keys())
        return max((abs(one - other) / max(other, 1) for one, other in pairs), default=0)
    expected = unit(np.array(expected, dtype=float))
    return float(np.abs(found - expected).max(initial=0)) if found.shape == expected.shape else float("inf")


def check_architectures(check):
    names = sorted(path.parent.name for path in made_models.FIXTURES.glob("*/reference.json"))
    if check.tiny:
        names = [name for name in names if name in TINY_CHOICE]
    references = References(names)
    arguments = ["--chunked-dir", references.write_texts(check.work / "references"), "--exclusive-ensemble"]
    arguments += ["--fusion", "none", "--ensemble-models", *(made_models.FIXTURES / name for name in names)]
    results = {}
    for dtype, found, _ in check.in_all_dtypes("fixtures", *arguments):
        results[dtype] = {name: references.differences(name, found) for name in names}
        over = []
        for name, largest in results[dtype].items():
            allowed = references.allowed(name, dtype)
            print(f"{name} in {dtype}: {largest:.1e} of {allowed and f'{allowed:.1e}'}", flush=True)
            over += [name] if allowed is not None and not largest <= allowed else []
        if over:
            raise Failure(f"in {dtype} these are further from their references than they may be: {', '.join(over)}")
    return results


def check_ensemble(check):
    arguments = check.models_and_texts("minilm-l6", "bge-m3", "qwen3-0.6b")
    expected = vectors(check.run("processor", *arguments, "--devices", "cpu", "--dtype", "f32")[0])
    results = {}
    for dtype, found, deltas in check.in_all_dtypes("made", *arguments):
        cosines = least_cosines(found, expected)
        results[dtype] = {"least_cosine": cosines, "vram_delta_gb": deltas}
        print(f"{dtype}: {results[dtype]}", flush=True)
        check.hold(cosines, dtype)
    return results


class Neighbour:
    """Takes all memory of a device but some, as another program would; gives it back at the end."""

    def __init__(self, uuid, chunk_mib):
        self.chunk_mib = chunk_mib
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        wanted = bytes.fromhex(uuid.removeprefix("GPU-").replace("-", ""))
        found = (ctypes.c_ubyte * 16)()
        for number in range(count.value):
            self.device = ctypes.c_int()
            self.call("cuDeviceGet", ctypes.byref(self.device), number)
            self.call("cuDeviceGetUuid_v2", found, self.device)
            if bytes(found) == wanted:
                break
        else:
            raise Failure(f"the driver does not have {uuid}")
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)
        self.call("cuCtxSetCurrent", context)
        self.chunks = []

    def call(self, name, *arguments):
        code = getattr(self.driver, name)(*arguments)
        if code:
            raise Failure(f"{name}: {code}")

    def take(self, left_mib):
        pointer = ctypes.c_uint64()
        while self.driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(self.chunk_mib << 20)) == 0:
            self.chunks.append(pointer.value)
        self.give_back(left_mib // self.chunk_mib)
        return len(self.chunks) * self.chunk_mib

    def give_back(self, chunks):
        for _ in range(min(chunks, len(self.chunks))):
            self.call("cuMemFree_v2", ctypes.c_uint64(self.chunks.pop()))

    def close(self):
        self.give_back(len(self.chunks))
        self.call("cuDevicePrimaryCtxRelease_v2", self.device)


def check_memory(check):
    """Batches of many tokens are under way when there is suddenly no memory for the next ones."""
    number, length = (96, 32) if check.tiny else (1024, 2048)
    texts = made_models.write_texts(check.work / "for-memory", number, length)
    arguments = ["--chunked-dir", texts, "--model", check.model("bge-m3"), "--max-length", length, "--dtype", "f16"]
    arguments += ["--devices", check.device, "--foreign", "share"]
    expected = vectors(check.run("alone", *arguments)[0])
    # The stand-in's memory is that of a process, which has to be small from the start.
    limits = {"CUDA_STAND_IN_MIB": "1"} if check.tiny else {}
    arguments += ["--batch-tokens", BATCH_TOKENS]
    command = check.command("crowded", *arguments)
    neighbour = Neighbour(check.info["uuid"], chunk_mib=16 if check.tiny else 256)
    try:
        with tempfile.TemporaryFile("w+") as log:
            running = subprocess.Popen(command, env=check.environment(**limits), stdout=subprocess.DEVNULL, stderr=log)
            while running.poll() is None and not has_happened(check.work / "crowded", "model_loaded"):
                time.sleep(0.002)
            taken = neighbour.take(0 if check.tiny else LEFT_MIB)
            exit_code = running.wait()
            log.seek(0)
            output, summary, _ = check.outcome("crowded", command, exit_code, log.read())
    finally:
        neighbour.close()
    cosines = least_cosines(vectors(output), expected)
    check.hold(cosines, "f16")
    mitigations = summary["passes"][0]["mitigation_counts"]
    if not mitigations.keys() & {"free_caches", "split_batch", "shrink_batch", "use_cpu"}:
        raise Failure(f"{taken} MiB were taken, and nothing was done about it: {mitigations}")
    print(f"{taken} MiB were taken from under a run: {mitigations}, no row lost", flush=True)
    return {"taken_mib": taken, "mitigations": mitigations, "least_cosine": cosines}


def has_happened(output, event_type):
    try:
        return f'"{event_type}"' in (output / "events.jsonl").read_text()
    except FileNotFoundError:
        return False


def check_speed(check):
    dtypes = [dtype for dtype in ("f16", "bf16") if dtype not in check.refused]
    peaks = check.peer("peak", *dtypes)
    peaks = peaks[0] if peaks else {}
    results = {"matmul_tflops": peaks, "shapes": []}
    for name, shape in check.shapes.items():
        folder = check.work / f"texts-{name}"
        for length in check.lengths:
            flops = max(peaks.values(), default=USUAL_TFLOPS) * 1e12 / 2 * SECONDS
            tokens = 64 if check.tiny else min(max(flops / shape.flops_of_a_token(length), 1 << 16), 1 << 21)
            made_models.write_texts(Path(f"{folder}-{length}"), max(int(tokens) // length, 2), length)
        for dtype in dtypes:
            ours = [speed_of(check, name, folder, length, dtype) for length in check.lengths]
            if None in ours:
                continue
            theirs = check.peer("encode", dtype, check.model(name), folder, *check.lengths)
            for one, peer in zip(ours, theirs or [None] * len(ours)):
                one["part_of_matmul_peak"] = one["tflops"] / peaks[dtype] if dtype in peaks else None
                rate = peer["tokens_per_second"] if peer else None
                one["sentence_transformers_tokens_per_second"] = rate
                one["times_sentence_transformers"] = one["tokens_per_second"] / rate if rate else None
                results["shapes"].append(one)
                print(", ".join(f"{key}: {shortened(value)}" for key, value in one.items()), flush=True)
    return results


def speed_of(check, name, folder, length, dtype):
    arguments = ["--chunked-dir", f"{folder}-{length}", "--model", check.model(name), "--max-length", length]
    arguments += ["--batch-tokens", BATCH_TOKENS, "--format", "npy"]
    ran = check.run_as(dtype, f"speed-{name}-{length}-{dtype}", *arguments)
    if ran is None:
        return None
    _, summary, _ = ran
    one = summary["passes"][0]
    texts = summary["collections"][0]["chunks"]
    if one["tokens"] != texts * length:
        raise Failure(f"{name}: {one['tokens']} tokens were encoded of {texts} texts of {length}")
    rate = one["tokens"] / one["stage_seconds"]["forward"]
    return {
        "shape": name,
        "dtype": dtype,
        "tokens_of_a_text": length,
        "tokens": one["tokens"],
        "tokens_per_second": one["tokens_per_second"],
        "tokens_per_second_of_forward": rate,
        "tflops": rate * check.shapes[name].flops_of_a_token(length) / 1e12,
    }


def shortened(value):
    return f"{value:.3g}" if isinstance(value, float) else value


def said(*command):
    """What a program prints that has to succeed."""
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if ended.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}: exit code {ended.returncode}\n{ended.stderr}")
    return ended.stdout


def name_by_driver(info):
    """The name of the device, from a program that must agree on its memory."""
    query = [f"--id={info['uuid']}", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    name, total_mib = said("nvidia-smi", *query).strip().split(", ")
    if abs(info["total_bytes"] / 2**20 - float(total_mib)) > 1:
        raise Failure(f"{info['total_bytes']} bytes in all, and nvidia-smi says {total_mib} MiB")
    return name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("device")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    report = json.loads(said(program, "devices", "--json"))
    info = next((entry for entry in report["devices"] if entry["device"] == arguments.device), None)
    if info is None or info["kind"] != "cuda":
        print(f"there is no {arguments.device} here: nothing was checked", file=sys.stderr)
        return 77
    name = name_by_driver(info)
    results = {"program": said(program, "--version").strip()}
    results |= {"device": info, "driver": report["driver"], "cuda": report["cuda"]}
    checks = dict(zip(PARTS, [check_architectures, check_ensemble, check_memory, check_speed]))
    with tempfile.TemporaryDirectory() as folder:
        check = Check(program, arguments.device, info, Path(folder), arguments.tiny)
        for part in arguments.only:
            print(f"== {part}", flush=True)
            start = time.monotonic()
            results[part] = checks[part](check)
            print(f"   {time.monotonic() - start:.0f} s", flush=True)
        results["refused"] = check.refused
    times = os.environ.get("EMBED_ATTENTION_TIMES")
    results["attention_ms"] = [json.loads(line) for line in Path(times).read_text().splitlines()] if times else None
    path = arguments.results or ROOT / "benches" / "results" / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"all as it should be; {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
