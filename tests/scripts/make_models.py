#!/usr/bin/env python3
"""Makes the tiny models of tests/fixtures/models: random weights in the layout of real checkpoints.

    python tests/scripts/make_models.py [NAME ...]            # write the directories (all without NAME)
    python tests/scripts/make_models.py --check [NAME ...]    # compute again, compare with reference.json
    python tests/scripts/make_models.py --list

Each directory holds what a user has on disk (configuration, tokenizer, weights, files of sentence-transformers), and
reference.json: token ids and vectors that the reference libraries compute for it in f32, one text at a time, on one
thread. Tokenizers are trained here on a few sentences, weights come from a seed; nothing is downloaded. The same seed
and library versions give the same files, except that another processor may round a vector's last digit otherwise.

Requirements (the fixtures were made with these versions, Python 3.11, on a CPU):
    torch==2.15.0 transformers==5.23.0 sentence-transformers==6.2.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import logging
import shutil
import warnings
from pathlib import Path

import torch
import transformers

from tiny_models import decoders, encoders, other_kinds, sparse  # noqa: F401  (they fill the catalogue)
from tiny_models.catalogue import MODELS
from tiny_models.reference import check, write_reference


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these models")
    fixtures = Path(__file__).resolve().parent.parent / "fixtures" / "models"
    parser.add_argument("--output", type=Path, default=fixtures, help="default: tests/fixtures/models")
    parser.add_argument("--check", action="store_true", help="compute existing directories again and compare")
    parser.add_argument("--list", action="store_true", help="list the models")
    arguments = parser.parse_args()
    known = set(MODELS)
    if arguments.check:  # also directories that were made otherwise
        known = {path.parent.name for path in arguments.output.glob("*/reference.json")}
    unknown = sorted(set(arguments.names) - known)
    if unknown:
        parser.error(f"unknown model {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    if arguments.list:
        for made in MODELS.values():
            print(f"{made['name']:22} {made['stands_for']}; {made['pooling']}; {made['special']}")
        return

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    if arguments.check:
        for name in arguments.names or sorted(known):
            print(f"{name:22} differs by {check(arguments.output / name):.1e}", flush=True)
        return
    for made in [MODELS[name] for name in arguments.names or MODELS]:
        folder = arguments.output / made["name"]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_reference(folder, made, made["make"](folder))
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        print(f"{made['name']:22} {size(folder) / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
