#!/usr/bin/env python3
"""Seconds in the model for a single text, by embed-collections and by onnxruntime; as a markdown table.

Both clocks cover the model and the pooling alone. This program's is `stage_seconds.forward` of its run-summary.json:
"one of many" is that of a run over many collections with one chunk each, which are embedded one after the other,
divided by their number; "the first" is that of a run with a single chunk, right after the warm-up. Between two texts it
commits files, so that its threads have gone to sleep and its caches hold other things. onnxruntime is called again and
again, at once, or after a pause that lets its threads stop spinning as well. With --single-text the encoder of this
program is called again and again as well, by the benchmark of that name. A figure is the mean of a repetition's calls;
the table has the least.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measure import BenchError, add_common_options, in_turn, markdown, positive, ratio, run_script, use_cores
from peer import tokenizer
from program import Program, Run
from sessions import Sessions
from texts import texts_of_length, write_collections

PAUSE_SECONDS = 0.02
# A longer text takes seconds; fewer calls are enough then.
SHORT_TEXT_TOKENS = 512
CALLS_OF_LONG_TEXTS = 3
# So many calls are measured for each one before.
CALLS_PER_WARM_UP = 5

HEADER = ("model", "tokens", "threads", "contender", "milliseconds", "relative to the first row")


@dataclass(frozen=True)
class Case:
    """A model and the length of the text that it gets."""

    model: Path
    tokens: int

    @classmethod
    def parse(cls, text: str) -> "Case":
        """An argparse type: `DIRECTORY:TOKENS`."""
        model, _, tokens = text.rpartition(":")
        if not model:
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form MODEL:TOKENS")
        return cls(Path(model), positive(tokens))


def mean_seconds(peer: Sessions, token_ids: list[int], calls: int, pause_seconds: float) -> float:
    """Mean time of a call."""
    for _ in range(max(1, calls // CALLS_PER_WARM_UP)):
        peer.encode([token_ids])
    total = 0.0
    for _ in range(calls):
        time.sleep(pause_seconds)
        start = time.perf_counter()
        peer.encode([token_ids])
        total += time.perf_counter() - start
    return total / calls


def in_milliseconds(seconds: float) -> str:
    """With three digits or more."""
    return f"{seconds * 1000:,.0f}" if seconds >= 0.1 else f"{seconds * 1000:.3g}"


def forward_seconds(run: Run, batches: int, tokens: int) -> float:
    """Mean time in the model of one text, if every text was a batch of its own."""
    if (run.summary_pass["batches"], run.tokens) != (batches, batches * tokens):
        raise BenchError(
            f"expected {batches} batches of {tokens} tokens, the summary has {run.summary_pass['batches']}"
        )
    return run.forward_seconds / batches


def again_and_again(benchmark: Path, case: Case, threads: int) -> float:
    """Mean time of a call as the benchmark `single_text` prints it."""
    command = [str(benchmark), str(case.model), str(case.tokens)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for _, tokens, cores, _, mean in (line.split() for line in printed.splitlines()[1:]):
        if (int(tokens), int(cores)) == (case.tokens, threads):
            return float(mean) / 1000
    raise BenchError(f"{benchmark} printed nothing for {case.tokens} tokens on {threads} cores:\n{printed}")


def measure(options: argparse.Namespace, case: Case, threads: int) -> list[list[str]]:
    """The rows of one case with so many threads."""
    print(f"{case.model.name}, {case.tokens} tokens, threads: {threads}", file=sys.stderr, flush=True)
    calls = options.calls if case.tokens <= SHORT_TEXT_TOKENS else min(options.calls, CALLS_OF_LONG_TEXTS)
    words = tokenizer(case.model)
    (text,) = texts_of_length(words, case.tokens, 1)
    token_ids = words.encode(text).ids
    peer = Sessions(case.model, 1, threads)
    program = Program(options.program, threads)
    with tempfile.TemporaryDirectory(prefix="peers-") as directory:
        root = Path(directory)
        one = write_collections(root / "one", {"bench": [text]})
        many = write_collections(root / "many", {f"bench-{number:03}": [text] for number in range(calls)})
        contenders: dict[str, Callable[[], float]] = {
            "this program, one of many": lambda: forward_seconds(program.run(case.model, many), calls, case.tokens),
            "this program, the first": lambda: forward_seconds(program.run(case.model, one), 1, case.tokens),
            "onnxruntime, again and again": lambda: mean_seconds(peer, token_ids, calls, 0),
            "onnxruntime, after a pause": lambda: mean_seconds(peer, token_ids, calls, PAUSE_SECONDS),
        }
        if options.single_text:
            contenders["this program, again and again"] = lambda: again_and_again(options.single_text, case, threads)
        vectors = program.run(case.model, one).vectors
        if vectors is None or not math.isclose(
            float((vectors[0] * peer.encode([token_ids])[0]).sum()), 1, abs_tol=1e-4
        ):
            raise BenchError(f"{case.model.name}: the vectors of this program and of onnxruntime differ")
        seconds = in_turn(options.repetitions, contenders)
    ours, *_ = seconds.values()
    return [
        [case.model.name, str(case.tokens), str(threads), name, in_milliseconds(min(figures)), ratio(figures, ours)]
        for name, figures in seconds.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "cases",
        type=Case.parse,
        nargs="+",
        metavar="MODEL:TOKENS",
        help="a directory made by make_model.py, and the length of the text",
    )
    parser.add_argument(
        "--calls",
        type=positive,
        default=20,
        metavar="N",
        help=f"texts in a repetition (default 20; at most {CALLS_OF_LONG_TEXTS} beyond {SHORT_TEXT_TOKENS} tokens)",
    )
    parser.add_argument(
        "--single-text",
        type=Path,
        metavar="BINARY",
        help="what `cargo bench --bench single_text --no-run` has built",
    )
    add_common_options(parser)
    options = parser.parse_args()
    use_cores(options.threads)
    rows = []
    for case in options.cases:
        for threads in dict.fromkeys((options.threads, 1)):
            rows += measure(options, case, threads)
    print(markdown(HEADER, rows))
    return 0


if __name__ == "__main__":
    run_script(main)
