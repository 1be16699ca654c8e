"""How everything here is measured: the same cores for all, contenders in turn, ratios within a repetition."""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Threads of onnxruntime spin for a moment after their work; the next contender must not share its cores with them.
SETTLE_SECONDS = 0.3


class BenchError(Exception):
    """Something could not be measured; the message says what and why."""


def run_script(script: Callable[[], int]) -> None:
    """Ends the process with the script's exit code, or with 2 and one line if it could not do its work."""
    try:
        code = script()
    except (BenchError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


def use_cores(count: int) -> None:
    """Restricts this process, and all that it starts, to `count` cores: nobody can use more."""
    available = sorted(os.sched_getaffinity(0))
    if count > len(available):
        raise BenchError(f"--threads {count}: this process may use only {len(available)} cores")
    os.sched_setaffinity(0, available[:count])
    os.environ["RAYON_NUM_THREADS"] = str(count)


def in_turn(repetitions: int, contenders: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """The figure of each contender in each repetition; every repetition begins with another contender."""
    names = list(contenders)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(repetitions):
        first = repetition % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(SETTLE_SECONDS)
            figures[name].append(contenders[name]())
            print(f"  repetition {repetition + 1}: {name}: {figures[name][-1]:.6g}", file=sys.stderr, flush=True)
    return figures


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """`median (min to max)` of ours / theirs, each repetition against the same one."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def positive(text: str) -> int:
    """An argparse type: a whole number from 1 on."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return value


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """The options that all measurements have."""
    parser.add_argument("--program", type=Path, required=True, metavar="FILE", help="the embed-collections to measure")
    parser.add_argument("--threads", type=positive, default=2, metavar="N", help="cores for everyone (default 2)")
    parser.add_argument("--repetitions", type=positive, default=3, metavar="N", help="repetitions (default 3)")
