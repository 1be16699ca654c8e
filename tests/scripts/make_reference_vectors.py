#!/usr/bin/env python3
"""Computes reference vectors with sentence-transformers for a root of chunked collections.

    python3 tests/scripts/make_reference_vectors.py --chunked-dir tests/data/Chunked --model MODEL_DIR \\
        --output tests/fixtures/reference/all-MiniLM-L6-v2

MODEL_DIR is an unpacked all-MiniLM-L6-v2. For every collection the output is NAME.npy, float32 [rows, dimension], a row
of NaN where a chunk has no text, and NAME.ids.json with the chunk ids, both in the order in which embed-collections
reads. This reader is deliberately independent of the program's own: a simple one in Python that holds everything in
memory. The versions of the libraries are written to versions.json.
"""

import argparse
import gzip
import importlib.metadata
import json
from pathlib import Path

import numpy
from sentence_transformers import SentenceTransformer


def texts_of(path: Path, root: Path):
    """(id, text) of every chunk of one file, in order."""
    name = path.name
    if name.endswith(".parquet"):
        import pyarrow.parquet

        entries = pyarrow.parquet.read_table(path).to_pylist()
    else:
        data = path.read_bytes()
        if name.endswith(".gz"):
            data, name = gzip.decompress(data), name[:-3]
        elif name.endswith(".zst"):
            import zstandard

            data, name = zstandard.ZstdDecompressor().decompressobj().decompress(data), name[:-4]
        text = data.decode("utf-8-sig")
        if name.endswith((".jsonl", ".ndjson")):
            entries = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            entries = json.loads(text)
            if isinstance(entries, dict):
                lists = [entries[key] for key in ("chunks", "data", "records", "items") if isinstance(entries.get(key), list)]
                entries = lists[0] if lists else [entries]
            elif isinstance(entries, str):
                entries = [entries]
    for index, entry in enumerate(entries):
        place = f"{path.relative_to(root).as_posix()}#{index}"
        if isinstance(entry, str):
            yield place, entry
            continue
        metadata = entry.get("metadata")
        given = metadata.get("chunk_id") if isinstance(metadata, dict) else None
        for key in ("id", "chunk_id", "_id"):
            given = given if given not in (None, "") else entry.get(key)
        yield (place if given in (None, "") else str(given)), entry["text"]


def is_chunk_file(path: Path) -> bool:
    stem = path.name.removesuffix(".gz").removesuffix(".zst")
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    return not hidden and not stem.endswith("processing_summary.json") and stem.endswith((".json", ".jsonl", ".ndjson", ".parquet"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunked-dir", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    model = SentenceTransformer(options.model, device="cpu")
    options.output.mkdir(parents=True, exist_ok=True)
    for collection in sorted(path for path in options.chunked_dir.iterdir() if path.is_dir()):
        files = sorted((path for path in collection.rglob("*") if path.is_file() and is_chunk_file(path)), key=lambda path: path.parts)
        rows = [row for path in files for row in texts_of(path, collection)]
        seen, ids = set(), []
        for file_index, (chunk_id, _) in enumerate(rows):
            if chunk_id in seen:
                raise SystemExit(f"{collection.name}: the id {chunk_id!r} occurs twice; this reader does not rename")
            seen.add(chunk_id)
            ids.append(chunk_id)
        full = [index for index, (_, text) in enumerate(rows) if text.strip()]
        vectors = numpy.full((len(rows), model.get_sentence_embedding_dimension()), numpy.nan, dtype=numpy.float32)
        vectors[full] = model.encode([rows[index][1] for index in full], batch_size=16, convert_to_numpy=True)
        numpy.save(options.output / f"{collection.name}.npy", vectors)
        (options.output / f"{collection.name}.ids.json").write_text(json.dumps(ids, ensure_ascii=False, indent=0) + "\n")
        print(f"{collection.name}: {len(rows)} rows, {len(full)} vectors")
    libraries = ("sentence-transformers", "transformers", "tokenizers", "torch", "numpy")
    versions = {name: importlib.metadata.version(name) for name in libraries}
    (options.output / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
