#!/usr/bin/env python3
"""Checks an output directory with readers that this project did not write.

    check_outputs.py OUTPUT_DIR

Every model's directory below it must have all four formats. Row by row they must agree: ids, order, tokens, statuses
and text digests, nulls where the status has no vector and NaN rows in npy, and float32 values equal in every bit.
Files must have the length and the digest that the manifest gives, and chunks.jsonl must tell of the same rows.

numpy and pyarrow are required; pandas, polars and duckdb read the same files where they are installed. What was
checked is printed; the first disagreement ends with a message and exit code 1.
"""

import hashlib
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

WITH_VECTOR = {"ok", "truncated"}
COLUMNS = ["id", "row", "vector", "tokens", "status", "text_sha256"]


def fail(message):
    sys.exit(f"check_outputs: {message}")


def require(condition, message):
    if not condition:
        fail(message)


def lines(path):
    # Not str.splitlines: an id may hold any character that Unicode calls a line end.
    with open(path, "rb") as file:
        return [json.loads(line) for line in file]


def bits(vector):
    return None if vector is None else np.asarray(vector, dtype=np.float32).tobytes()


def check_file(path, record):
    content = path.read_bytes()
    require(len(content) == record["bytes"], f"{path} has {len(content)} bytes, its manifest says {record['bytes']}")
    require(hashlib.sha256(content).hexdigest() == record["sha256"], f"{path} has another digest than its manifest says")


def compare(path, reader, found, expected):
    """Rows as tuples in the order of COLUMNS, vectors as bytes."""
    require(len(found) == len(expected), f"{path} has {len(found)} rows for {reader} instead of {len(expected)}")
    for one, other in zip(found, expected):
        for column, left, right in zip(COLUMNS, one, other):
            require(left == right, f"{path} row {other[1]}: {column} is {left!r} for {reader}, {right!r} in jsonl")


def rows_of_table(path, table, manifest):
    require(table.column_names == COLUMNS, f"{path} has the columns {table.column_names}")
    vector = table.schema.field("vector")
    expected = pa.list_(pa.field("item", pa.float32(), nullable=False), manifest["dimension"])
    require(vector.type == expected and vector.nullable, f"{path} has vectors of type {vector.type}")
    for key in ["model", "vector_space", "dimension"]:
        found = (table.schema.metadata or {}).get(key.encode(), b"").decode()
        require(found == str(manifest[key]), f"{path} has {found!r} as {key} in its metadata")
    vectors = []
    for chunk in table.column("vector").chunks:
        # Of a slice with nulls `flatten` leaves the nulls out.
        present = iter(chunk.flatten().to_numpy().reshape(-1, manifest["dimension"]))
        vectors += [bits(next(present)) if valid else None for valid in chunk.is_valid().to_pylist()]
    others = [table.column(name).to_pylist() for name in COLUMNS if name != "vector"]
    return list(zip(others[0], others[1], vectors, *others[2:]))


def rows_of_records(records):
    missing = lambda value: None if value is None or value != value else value
    return [
        tuple(bits(record[name]) if name == "vector" else missing(record[name]) for name in COLUMNS)
        for record in records
    ]


def with_pandas(pandas, path):
    return rows_of_records(pandas.read_parquet(path).to_dict("records"))


def with_polars(polars, path):
    frame = polars.read_parquet(path) if path.suffix == ".parquet" else polars.read_ipc(path)
    return rows_of_records(frame.to_dicts())


def with_duckdb(duckdb, path):
    records = duckdb.connect().execute("select * from read_parquet(?)", [str(path)]).fetchall()
    return rows_of_records([dict(zip(COLUMNS, record)) for record in records])


# Reader, and the formats it is tried on.
OTHERS = {
    "pandas": (with_pandas, ["parquet"]),
    "polars": (with_polars, ["parquet", "arrow"]),
    "duckdb": (with_duckdb, ["parquet"]),
}


def check_npy(part, expected, dimension):
    path = part.with_suffix(".npy")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    require(array.dtype == np.dtype("<f4"), f"{path} is {array.dtype}")
    require(array.shape == (len(expected), dimension), f"{path} has the shape {array.shape}")
    ids = json.loads(part.with_suffix(".ids.json").read_text(encoding="utf-8"))
    require(ids == [row[0] for row in expected], f"{part.with_suffix('.ids.json')} has other ids than jsonl")
    for values, row in zip(array, expected):
        if row[2] is None:
            require(bool(np.isnan(values).all()), f"{path} row {row[1]} has no vector in jsonl and is not all NaN")
        else:
            require(values.tobytes() == row[2], f"{path} row {row[1]} differs from jsonl")


def check_model(directory, readers):
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    require(set(manifest["formats"]) == {"jsonl", "parquet", "arrow", "npy"}, f"{directory} lacks a format")
    dimension, next_row, statuses, everything = manifest["dimension"], 0, {}, []
    listed = {"manifest.json"}
    for number, shard in enumerate(manifest["shards"]):
        part = directory / f"part-{number:05}"
        require(shard["number"] == number and shard["first_row"] == next_row, f"{part} is listed out of order")
        names = {f"{part.name}.{extension}" for extension in ["jsonl", "parquet", "arrow", "npy", "ids.json"]}
        require({file["name"] for file in shard["files"]} == names, f"{part} has other files than its formats need")
        listed |= names
        for file in shard["files"]:
            check_file(directory / file["name"], file)

        records = lines(part.with_suffix(".jsonl"))
        require(all(list(record) == COLUMNS for record in records), f"{part}.jsonl has other keys than {COLUMNS}")
        expected = rows_of_records(records)
        require(len(expected) == shard["rows"], f"{part}.jsonl has {len(expected)} rows, its manifest says {shard['rows']}")
        for identifier, row, vector, _, status, _ in expected:
            require(row == next_row, f"{part}.jsonl has row {row} where {next_row} belongs")
            require((vector is not None) == (status in WITH_VECTOR), f"{part}.jsonl row {row} is {status} and disagrees")
            if vector is not None:
                values = np.frombuffer(vector, dtype=np.float32)
                require(len(values) == dimension, f"{part}.jsonl row {row} has {len(values)} values")
                require(bool(np.isfinite(values).all()), f"{part}.jsonl row {row} is not finite")
            statuses[status] = statuses.get(status, 0) + 1
            next_row += 1

        parquet, arrow = part.with_suffix(".parquet"), part.with_suffix(".arrow")
        compare(parquet, "pyarrow", rows_of_table(parquet, pa.parquet.read_table(parquet), manifest), expected)
        with pa.memory_map(str(arrow)) as source:
            compare(arrow, "pyarrow", rows_of_table(arrow, pa.ipc.open_file(source).read_all(), manifest), expected)
        check_npy(part, expected, dimension)
        for name, module in readers.items():
            read, extensions = OTHERS[name]
            for extension in extensions:
                path = part.with_suffix(f".{extension}")
                compare(path, name, read(module, path), expected)
        everything += [(row[0], row[1], row[5]) for row in expected]
    require(next_row == manifest["rows"], f"{directory} has {next_row} rows, its manifest says {manifest['rows']}")
    counts = {status: count for status, count in manifest["counts"].items() if count}
    require(counts == statuses, f"{directory} has the statuses {statuses}, its manifest says {counts}")
    if manifest["complete"]:
        strays = {path.name for path in directory.iterdir()} - listed
        require(not strays, f"{directory} is complete and also has {sorted(strays)}")
    return manifest, everything


def check_ledger(collection, manifest, everything):
    vouched = json.loads((collection / "chunks.manifest.json").read_text(encoding="utf-8"))
    check_file(collection / "chunks.jsonl", vouched["file"])
    ledger = [(row["id"], row["row"], row["text_sha256"]) for row in lines(collection / "chunks.jsonl")]
    require(ledger == everything, f"{collection}/chunks.jsonl tells of other rows than {manifest['model']}")


def main():
    if len(sys.argv) != 2:
        fail("one argument is needed: the output directory")
    readers = {}
    for name in OTHERS:
        try:
            readers[name] = importlib.import_module(name)
        except ImportError:
            print(f"{name} is not installed: not checked with it")
    manifests = sorted(Path(sys.argv[1]).glob("*/*/manifest.json"))
    require(manifests, f"{sys.argv[1]} has no output")
    for path in manifests:
        manifest, everything = check_model(path.parent, readers)
        if manifest["complete"]:
            check_ledger(path.parent.parent, manifest, everything)
        state = "complete, with its ledger" if manifest["complete"] else "incomplete, ledger not checked"
        print(f"{path.parent}: {manifest['rows']} rows in {len(manifest['shards'])} shards agree ({state})")
    modules = {"numpy": np, "pyarrow": pa, **readers}
    print("checked with", ", ".join(f"{name} {module.__version__}" for name, module in modules.items()))


main()
