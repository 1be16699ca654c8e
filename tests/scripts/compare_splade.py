#!/usr/bin/env python3
"""Holds the sparse vectors of an output against those that transformers computes for the same texts.

    compare_splade.py MODEL_DIRECTORY OUTPUT_DIR [LIMIT]

MODEL_DIRECTORY is a masked language model, OUTPUT_DIR an output of `embed-collections --emit sparse --format jsonl` for it,
with one model in it; LIMIT (all) is how many rows of each collection are compared. Weights are the largest over the tokens
of log(1 + relu(logit)), in f32, one text at a time. Texts are read from the chunk files that chunks.jsonl names, below the
directory that run-summary.json has as its input.

Prints the largest difference of a weight, and how many tokens have a weight on one side alone with the largest of these.
Needs torch and transformers.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer


def lines(path):
    with open(path, "rb") as file:
        return [json.loads(line) for line in file]


def entries_of(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        content = next((content[key] for key in ("chunks", "data", "records", "items") if key in content), [content])
    return content


def main():
    directory, output = sys.argv[1], Path(sys.argv[2])
    limit = int(sys.argv[3]) if len(sys.argv) > 3 else None
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForMaskedLM.from_pretrained(directory, dtype=torch.float32).eval()
    root = Path(json.loads((output / "run-summary.json").read_text())["config"]["chunked_dir"])
    rows = weights = alone = 0
    worst = worst_alone = 0.0
    files = {}
    for manifest in sorted(output.glob("*/*/manifest.json")):
        collection = manifest.parent.parent
        ledger = lines(collection / "chunks.jsonl")
        found = [row for part in sorted(manifest.parent.glob("part-*.jsonl")) for row in lines(part)]
        for chunk, row in list(zip(ledger, found))[:limit]:
            if row["sparse"] is None:
                continue
            path = root / collection.name / chunk["source"]["file"]
            entries = files.setdefault(path, entries_of(path)) if path not in files else files[path]
            entry = entries[chunk["source"]["index"]]
            text = entry if isinstance(entry, str) else entry["text"]
            inputs = tokenizer(text, truncation=True, max_length=model.config.max_position_embeddings, return_tensors="pt")
            with torch.no_grad():
                expected = model(**inputs).logits.relu().log1p().amax(dim=1)[0]
            ours = torch.zeros_like(expected)
            ours[row["sparse"]["indices"]] = torch.tensor(row["sparse"]["values"])
            difference = (ours - expected).abs()
            one_sided = (ours > 0) != (expected > 0)
            worst = max(worst, float((difference / expected.clamp(min=1)).max()))
            alone += int(one_sided.sum())
            worst_alone = max(worst_alone, float(torch.where(one_sided, difference, 0).max()))
            weights += int((expected > 0).sum())
            rows += 1
            if rows <= 3:
                top = expected.topk(5)
                words = ", ".join(f"{tokenizer.decode([i])} {w:.3f}" for w, i in zip(top.values, top.indices.tolist()))
                print(f"{row['id']}: {int((expected > 0).sum())} weights, the largest: {words}")
    print(f"{rows} texts, {weights} weights: largest difference {worst:.1e}; {alone} on one side alone, at most {worst_alone:.1e}")


main()
