#!/usr/bin/env python3
"""Tokens a second of embed-collections and of onnxruntime, by model and by length of the texts; as a markdown table.

onnxruntime runs in two ways, N sessions with one thread each and one session with N threads, each with the batch size
that was fastest in a short trial. The ratio is taken against the one with the higher median. Its figures leave out
import and model load, ours in the pass do so as well; "less start-up" is the whole process less one with a single
chunk, which checks the program's own word from outside.
"""

import argparse
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
from program import Program, Run
from sessions import Sessions, tokenizer
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


def trial(sessions: Sessions, texts: Sequence[str], tokens: int) -> float:
    """Sets the batch size that is fastest; returns its tokens a second."""
    rates: dict[int, float] = {}
    for batch_size in BATCH_SIZES:
        if batch_size > 1 and batch_size * tokens > MOST_BATCH_TOKENS:
            break
        sessions.batch_size = batch_size
        sessions.embed(texts[: 2 * batch_size])
        start = time.perf_counter()
        sessions.embed(texts)
        rates[batch_size] = len(texts) * tokens / (time.perf_counter() - start)
    tried = ", ".join(f"{size}: {rate:.0f}" for size, rate in rates.items())
    print(f"  onnxruntime {sessions.name}, tokens/s by batch size: {tried}", file=sys.stderr, flush=True)
    sessions.batch_size = max(rates, key=lambda size: rates[size])
    return rates[sessions.batch_size]


def measure(
    options: argparse.Namespace, model: Path, peers: Sequence[Sessions], tokens: int
) -> tuple[list[str], float]:
    """One row of the table, and its least cosine."""
    print(f"{model.name}, {tokens} tokens:", file=sys.stderr, flush=True)
    words = tokenizer(model)
    in_trial = options.threads * max(1, MOST_BATCH_TOKENS // tokens)
    texts = texts_of_length(words, tokens, in_trial)
    rate = max(trial(peer, texts, tokens) for peer in peers)
    # Nobody's last batch should be smaller than the others.
    step = math.lcm(options.threads, *(options.threads * peer.batch_size for peer in peers))
    count = step * max(1, round(options.seconds * rate / tokens / step))
    texts = texts_of_length(words, tokens, count)

    with tempfile.TemporaryDirectory(prefix="peers-") as directory:
        root = Path(directory)
        whole = write_collections(root / "whole", {"bench": texts})
        one_chunk = write_collections(root / "one", {"bench": texts[:1]})
        ours = Ours(Program(options.program, options.threads), model, whole, one_chunk)
        walls, start_ups, theirs = [], [], np.empty(0)

        def run_ours() -> float:
            start_ups.append(ours.start_up_seconds())
            pass_rate = ours.pass_rate()
            walls.append(ours.last.wall_seconds if ours.last else math.nan)
            return pass_rate

        def run_peer(peer: Sessions) -> float:
            nonlocal theirs
            start = time.perf_counter()
            theirs = peer.embed(texts)
            return count * tokens / (time.perf_counter() - start)

        contenders = {"ours": run_ours}
        contenders |= {peer.name: lambda peer=peer: run_peer(peer) for peer in peers}
        rates = in_turn(options.repetitions, contenders)
    last = ours.last
    if last is None or last.vectors is None or last.vectors.shape != theirs.shape or last.tokens != count * tokens:
        raise BenchError(f"{model.name}: this program did not embed the {count * tokens} tokens that onnxruntime did")

    # One-chunk runs vary by a few hundredths of a second: the least of them is the start-up.
    less_start_up = [count * tokens / (wall - min(start_ups)) for wall in walls]
    best = max(peers, key=lambda peer: statistics.median(rates[peer.name]))
    cosine = float((last.vectors * theirs).sum(1).min())
    row = [model.name, str(tokens), str(count)]
    row += [f"{statistics.median(figures):,.0f}" for figures in (rates["ours"], less_start_up, rates[best.name])]
    row += [f"{best.name}, {best.batch_size}", ratio(rates["ours"], rates[best.name])]
    row += [ratio(less_start_up, rates[best.name]), f"{cosine:.6f}", f"{np.abs(last.vectors - theirs).max():.1e}"]
    return row, cosine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="directories made by make_model.py")
    parser.add_argument(
        "--tokens", type=positive, nargs="+", default=[16, 128, 512], metavar="N", help="lengths (default 16 128 512)"
    )
    parser.add_argument(
        "--seconds", type=float, default=15.0, metavar="S", help="about how long one run takes (default 15)"
    )
    add_common_options(parser)
    options = parser.parse_args()
    use_cores(options.threads)
    rows, cosines = [], []
    for model in options.models:
        peers = [Sessions(model, options.threads, 1)]
        if options.threads > 1:
            peers.append(Sessions(model, 1, options.threads))
        for tokens in options.tokens:
            row, cosine = measure(options, model, peers, tokens)
            rows.append(row)
            cosines.append(cosine)
    print(markdown(HEADER, rows))
    if not min(cosines) > LEAST_COSINE:
        print(f"FAILED: a cosine is not above {LEAST_COSINE}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_script(main)
