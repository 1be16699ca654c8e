#!/usr/bin/env python3
"""Tokens a second of embed-collections, onnxruntime and PyTorch, by model and by length of texts; as a markdown table.

onnxruntime runs in two ways, N sessions with one thread each and one session with N threads, each with the batch size
that was fastest in a short trial. The ratio is taken against the one with the higher median. PyTorch competes if
--peers names it: one model with N threads. The peers' figures leave out import and model load, ours in the pass do so as well;
"less start-up" is the whole process less one with a single chunk, which checks the program's own word from outside.
"""

import argparse
import gc
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from measure import BenchError, add_common_options, in_turn, markdown, positive, ratio, run_script, use_cores
from peer import Peer, tokenizer
from program import Program, Run
from pytorch import PyTorch
from sessions import Sessions
from texts import texts_of_length, write_collections

BATCH_SIZES = (1, 4, 8, 16, 32, 64)
# Beyond it a batch leaves the caches; every trial has the same texts, enough for one such batch in each session.
MOST_BATCH_TOKENS = 2048
LEAST_COSINE = 0.9999

HEADER = (
    "model",
    "tokens",
    "chunks",
    "this program",
    "less start-up",
    "onnxruntime, best",
    "sessions × threads, batch",
    "ratio in the pass",
    "ratio less start-up",
    "PyTorch, batch",
    "ratio to PyTorch",
    "least cosine",
    "largest difference",
)


@dataclass
class Ours:
    """This program over one set of chunks, and the last run with the vectors."""

    program: Program
    model: Path
    whole: Path
    one_chunk: Path
    last: Run | None = None

    def start_up_seconds(self) -> float:
        """The whole process with a single chunk."""
        return self.program.run(self.model, self.one_chunk).wall_seconds

    def pass_rate(self) -> float:
        """Tokens a second of the pass, in the program's own words."""
        self.last = self.program.run(self.model, self.whole)
        return self.last.summary_pass["tokens_per_second"]


@dataclass(frozen=True)
class Choice:
    """A peer that competes, and the tokens of a batch if it needs no trial."""

    kind: str
    batch_tokens: int | None

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """An argparse type: `KIND` or `KIND:TOKENS`."""
        kind, colon, batch_tokens = text.partition(":")
        if kind not in ("apart", "shared", "pytorch"):
            raise argparse.ArgumentTypeError(f"{text!r} is not of apart, shared, pytorch, with or without :TOKENS")
        return cls(kind, positive(batch_tokens) if colon else None)

    def peer(self, model: Path, threads: int) -> Peer:
        """The model as this peer runs it."""
        if self.kind == "pytorch":
            return PyTorch(model, threads)
        return Sessions(model, threads, 1) if self.kind == "apart" else Sessions(model, 1, threads)


def trial(peer: Peer, texts: Sequence[str], tokens: int) -> float:
    """Sets the batch size that is fastest; returns its tokens a second."""
    rates: dict[int, float] = {}
    for batch_size in BATCH_SIZES:
        if batch_size > 1 and batch_size * tokens > MOST_BATCH_TOKENS:
            break
        peer.batch_size = batch_size
        peer.embed(texts[: 2 * batch_size])
        start = time.perf_counter()
        peer.embed(texts)
        rates[batch_size] = len(texts) * tokens / (time.perf_counter() - start)
    tried = ", ".join(f"{size}: {rate:.0f}" for size, rate in rates.items())
    print(f"  {peer.name}, tokens/s by batch size: {tried}", file=sys.stderr, flush=True)
    peer.batch_size = max(rates, key=lambda size: rates[size])
    return rates[peer.batch_size]


def measure(
    options: argparse.Namespace, model: Path, peers: Sequence[Peer], tokens: int
) -> tuple[list[str], float]:
    """One row of the table, and its least cosine."""
    print(f"{model.name}, {tokens} tokens:", file=sys.stderr, flush=True)
    words = tokenizer(model)
    in_trial = options.threads * max(1, MOST_BATCH_TOKENS // tokens)
    texts = texts_of_length(words, tokens, in_trial)
    tried = []
    for choice, peer in zip(options.peers, peers, strict=True):
        if choice.batch_tokens:
            peer.batch_size = max(1, choice.batch_tokens // tokens)
            peer.embed(texts[: peer.workers])
        else:
            tried.append(trial(peer, texts, tokens))
    wanted = options.seconds * max(tried) if tried else options.most_tokens
    # Nobody's last batch should be smaller than the others.
    step = math.lcm(options.threads, *(peer.workers * peer.batch_size for peer in peers))
    count = step * max(1, round(wanted / tokens / step))
    texts = texts_of_length(words, tokens, count)

    with tempfile.TemporaryDirectory(prefix="peers-") as directory:
        root = Path(directory)
        whole = write_collections(root / "whole", {"bench": texts})
        one_chunk = write_collections(root / "one", {"bench": texts[:1]})
        ours = Ours(Program(options.program, options.threads), model, whole, one_chunk)
        walls, start_ups = [], []
        theirs: dict[str, np.ndarray] = {}

        def run_ours() -> float:
            if not start_ups:
                start_ups.append(ours.start_up_seconds())
            pass_rate = ours.pass_rate()
            walls.append(ours.last.wall_seconds if ours.last else math.nan)
            return pass_rate

        def run_peer(peer: Peer) -> float:
            start = time.perf_counter()
            theirs[peer.name] = peer.embed(texts)
            return count * tokens / (time.perf_counter() - start)

        contenders = {"ours": run_ours}
        contenders |= {peer.name: lambda peer=peer: run_peer(peer) for peer in peers}
        rates = in_turn(options.repetitions, contenders)
    last = ours.last
    if last is None or last.vectors is None or last.tokens != count * tokens:
        raise BenchError(f"{model.name}: this program did not embed the {count * tokens} tokens that its peers did")

    less_start_up = [count * tokens / (wall - start_ups[0]) for wall in walls]
    sessions = [peer for peer in peers if isinstance(peer, Sessions)]
    best = max(sessions, key=lambda peer: statistics.median(rates[peer.name]))
    torch = next((peer for peer in peers if isinstance(peer, PyTorch)), None)
    cosine = min(float((last.vectors * vectors).sum(1).min()) for vectors in theirs.values())
    difference = max(float(np.abs(last.vectors - vectors).max()) for vectors in theirs.values())
    row = [model.name, str(tokens), str(count)]
    row += [f"{statistics.median(figures):,.0f}" for figures in (rates["ours"], less_start_up, rates[best.name])]
    row += [f"{best.name}, {best.batch_size}", ratio(rates["ours"], rates[best.name])]
    row += [ratio(less_start_up, rates[best.name])]
    if torch:
        row += [f"{statistics.median(rates[torch.name]):,.0f}, {torch.batch_size}"]
        row += [ratio(rates["ours"], rates[torch.name])]
    else:
        row += ["", ""]
    return [*row, f"{cosine:.6f}", f"{difference:.1e}"], cosine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="directories made by make_model.py")
    parser.add_argument(
        "--tokens", type=positive, nargs="+", default=[16, 128, 512], metavar="N", help="lengths (default 16 128 512)"
    )
    parser.add_argument(
        "--seconds", type=float, default=15.0, metavar="S", help="about how long one run takes (default 15)"
    )
    parser.add_argument(
        "--peers",
        type=Choice.parse,
        nargs="+",
        default=[Choice("apart", None), Choice("shared", None)],
        metavar="PEER[:TOKENS]",
        help="apart: onnxruntime, N sessions with a thread each; shared: one with N threads; pytorch (default both of "
        "onnxruntime); the tokens of a batch, else the best in a trial",
    )
    parser.add_argument(
        "--most-tokens",
        type=positive,
        default=2048,
        metavar="N",
        help="about the tokens of a run, where --peers leaves nothing to try (default 2048)",
    )
    add_common_options(parser)
    options = parser.parse_args()
    if all(choice.kind == "pytorch" for choice in options.peers):
        parser.error("--peers: apart or shared must be among them, for the ratio")
    use_cores(options.threads)
    rows, cosines = [], []
    for model in options.models:
        peers = [choice.peer(model, options.threads) for choice in options.peers]
        for tokens in options.tokens:
            row, cosine = measure(options, model, peers, tokens)
            rows.append(row)
            cosines.append(cosine)
        # The next model needs the memory.
        peers.clear()
        gc.collect()
    print(markdown(HEADER, rows))
    if not min(cosines) > LEAST_COSINE:
        print(f"FAILED: a cosine is not above {LEAST_COSINE}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_script(main)
