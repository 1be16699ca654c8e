"""embed-collections as its users run it: a process that reads files, writes files and says how long it took."""

import json
import os
import shlex
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from measure import BenchError

PEAK_INTERVAL_SECONDS = 0.02


@dataclass(frozen=True)
class Run:
    """What one run of the process did."""

    wall_seconds: float
    peak_bytes: int
    """Highest resident memory; mapped weight files count."""
    summary_pass: dict[str, Any]
    """`passes[0]` of run-summary.json."""
    vectors: np.ndarray | None
    """One row a chunk in input order, if they were written as npy."""

    @property
    def tokens(self) -> int:
        """Tokens encoded."""
        return self.summary_pass["tokens"]

    @property
    def forward_seconds(self) -> float:
        """Time in the model, pooling included, summed over threads."""
        return self.summary_pass["stage_seconds"]["forward"]


@dataclass(frozen=True)
class Program:
    """The program with the settings that all runs share."""

    binary: Path
    threads: int

    def run(self, model: Path, chunked: Path, output_format: str = "npy") -> Run:
        """Embeds all collections under `chunked`."""
        with tempfile.TemporaryDirectory(prefix="peers-") as directory:
            output = Path(directory) / "Embeddings"
            command = [str(self.binary.resolve()), "--model", str(model.resolve()), "--chunked-dir", str(chunked)]
            command += [
                "--output-dir",
                str(output),
                "--format",
                output_format,
                "--max-length",
                str(longest_text(model)),
            ]
            command += ["--threads", str(self.threads), "--force-cpu", "--offline", "--progress", "none"]
            wall_seconds, peak_bytes = _timed(command, Path(directory))
            try:
                summary_pass = json.loads((output / "run-summary.json").read_text("utf-8"))["passes"][0]
            except (ValueError, LookupError) as error:
                raise BenchError(f"run-summary.json has no pass that could be read: {error!r}") from error
            vectors = _vectors(output) if output_format == "npy" else None
            return Run(wall_seconds, peak_bytes, summary_pass, vectors)


def longest_text(model: Path) -> int:
    """Most tokens of a text that a model directory asks for and has positions for."""
    limits = [("config.json", "max_position_embeddings"), ("sentence_bert_config.json", "max_seq_length")]
    return min(json.loads((model / file).read_text("utf-8"))[key] for file, key in limits)


def _timed(command: list[str], directory: Path) -> tuple[float, int]:
    """Wall seconds and highest resident bytes of a command that succeeds."""
    # What the caller has set for own runs must not change what is measured.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EMBEDDER_", "EMBED_"))}
    environment["EMBED_LEASE_DIR"] = str(directory / "leases")
    log = directory / "log"
    with log.open("wb") as stream:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        peak = Peak(process.pid)
        code = process.wait()
        wall_seconds = time.perf_counter() - start
    if code != 0:
        message = log.read_text("utf-8", "replace")[-2000:]
        raise BenchError(f"exit code {code} of {shlex.join(command)}\n{message}")
    return wall_seconds, peak.bytes()


class Peak:
    """Highest resident memory of a process, looked up until it ends.

    What `wait4` says of a child is no less than the memory of the process that started it.
    """

    def __init__(self, pid: int) -> None:
        self._bytes = 0
        self._status = Path(f"/proc/{pid}/status")
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def bytes(self) -> int:
        """The last figure, once the process has ended."""
        self._thread.join()
        return self._bytes

    def _watch(self) -> None:
        while True:
            try:
                lines = dict(line.split(":", 1) for line in self._status.read_text("utf-8").splitlines())
                self._bytes = int(lines["VmHWM"].split()[0]) * 1024
            except (OSError, KeyError):  # it has ended
                return
            time.sleep(PEAK_INTERVAL_SECONDS)


def _vectors(output: Path) -> np.ndarray:
    """The shards of all collections, in order."""
    shards = sorted(output.glob("*/*/part-*.npy"))
    if not shards:
        raise BenchError("the run wrote no part-*.npy")
    return np.concatenate([np.load(shard) for shard in shards])
