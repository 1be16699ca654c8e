#!/usr/bin/env python3
"""Rates, memory and the share of the model in embed-collections' time, by number of chunks; as markdown tables.

The texts of a directory of chunks are cut into pieces of 6 to 27 words and repeated; their first words make
them distinct.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import BenchError, add_common_options, markdown, positive, run_script, use_cores
from program import Program, Run

EXAMPLES = Path(__file__).parents[2] / "tests" / "data" / "Chunked"
CHUNKS_PER_FILE = 10_000
LEAST_WORDS, MOST_WORDS = 6, 30

RATES_HEADER = (
    "chunks",
    "tokens",
    "in the pass, tokens/s",
    "whole process, tokens/s",
    "whole process, chunks/s",
    "seconds",
    "peak memory, MB",
)
STAGES = ("forward", "wait", "read", "tokenize", "write")
STAGES_HEADER = ("chunks", "pass, s", *(f"{stage}, s" for stage in STAGES), "forward / (threads × pass)")


def source_texts(root: Path) -> Iterator[str]:
    """The texts of all plain JSON and JSON Lines files under a directory."""
    for path in sorted([*root.rglob("*_chunks.json"), *root.rglob("*.jsonl")]):
        content = path.read_text("utf-8")
        entries = json.loads(content) if path.suffix == ".json" else map(json.loads, content.splitlines())
        yield from (
            entry["text"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("text"), str)
        )


def pieces(root: Path) -> list[list[str]]:
    """The words of all texts, cut into pieces whose lengths go round."""
    words = (word for text in source_texts(root) for word in text.split())
    lengths = itertools.cycle(range(LEAST_WORDS, MOST_WORDS + 1, 7))
    cut = list(itertools.takewhile(bool, (list(itertools.islice(words, length)) for length in lengths)))
    if not cut:
        raise BenchError(f"{root}: no texts in *_chunks.json or *.jsonl")
    return cut


def write_chunks(root: Path, texts: Path, count: int, input_format: str) -> Path:
    """One collection of `count` distinct chunks; returns `root`."""
    (root / "bench").mkdir(parents=True)
    endless = enumerate(itertools.cycle(pieces(texts)))
    for number, start in enumerate(range(0, count, CHUNKS_PER_FILE)):
        chosen = itertools.islice(endless, min(CHUNKS_PER_FILE, count - start))
        chunks = [{"id": f"chunk-{row}", "text": " ".join([f"{piece[0]}{row}", *piece[1:]])} for row, piece in chosen]
        path = root / "bench" / f"part-{number:04}.{input_format}"
        if input_format == "parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(chunks), path)
        else:
            path.write_text("".join(json.dumps(chunk, ensure_ascii=False) + "\n" for chunk in chunks), "utf-8")
    return root


def rates_row(count: int, runs: list[Run]) -> list[str]:
    """The median of each figure; of the memory the highest."""
    rate = statistics.median(run.summary_pass["tokens_per_second"] for run in runs)
    wall = statistics.median(run.wall_seconds for run in runs)
    tokens, peak = runs[0].tokens, max(run.peak_bytes for run in runs)
    return [
        f"{count:,}",
        f"{tokens:,}",
        f"{rate:,.0f}",
        f"{tokens / wall:,.0f}",
        f"{count / wall:,.0f}",
        f"{wall:.1f}",
        f"{peak / 1e6:.0f}",
    ]


def stages_row(count: int, threads: int, runs: list[Run]) -> list[str]:
    """Where the time of the fastest run went."""
    fastest: dict[str, Any] = min(runs, key=lambda run: run.summary_pass["seconds"]).summary_pass
    seconds, stages = fastest["seconds"], fastest["stage_seconds"]
    share = stages["forward"] / (threads * seconds)
    return [f"{count:,}", f"{seconds:.2f}", *(f"{stages[stage]:.2f}" for stage in STAGES), f"{share:.3f}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model directory")
    parser.add_argument(
        "--chunks",
        type=positive,
        nargs="+",
        default=[1_000, 10_000, 20_000, 100_000],
        metavar="N",
        help="numbers of chunks (default 1000 10000 20000 100000)",
    )
    parser.add_argument("--texts", type=Path, default=EXAMPLES, metavar="DIR", help="chunks (default: the examples)")
    parser.add_argument("--input", choices=("jsonl", "parquet"), default="jsonl", help="of the chunks (default jsonl)")
    parser.add_argument("--format", default="parquet", metavar="NAME", help="of the vectors (default parquet)")
    add_common_options(parser)
    options = parser.parse_args()
    use_cores(options.threads)
    program = Program(options.program, options.threads)
    rates, stages = [], []
    for count in options.chunks:
        with tempfile.TemporaryDirectory(prefix="peers-") as directory:
            chunked = write_chunks(Path(directory) / "Chunked", options.texts, count, options.input)
            runs = []
            for _ in range(options.repetitions):
                runs.append(program.run(options.model, chunked, options.format))
                if runs[-1].summary_pass["rows"] != count:
                    raise BenchError(f"{runs[-1].summary_pass['rows']} of {count} chunks were embedded")
                print(f"{count} chunks: {runs[-1].wall_seconds:.1f} s", file=sys.stderr, flush=True)
        rates.append(rates_row(count, runs))
        stages.append(stages_row(count, options.threads, runs))
    print(markdown(RATES_HEADER, rates), markdown(STAGES_HEADER, stages), sep="\n\n")
    return 0


if __name__ == "__main__":
    run_script(main)
