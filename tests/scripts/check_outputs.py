#!/usr/bin/env python3
"""Checks an output directory with readers that this project did not write.

    check_outputs.py OUTPUT_DIR

Every model's directory below it must have all four formats. Row by row they must agree: ids, order, tokens, statuses
and text digests, nulls where the status has no vector and NaN rows in npy, and float32 values equal in every bit; so must
sparse vectors and the vectors of tokens, where the manifest says that there are any.
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


def columns_of(manifest):
    """In the order of the tables. jsonl has `sparse` in place of its two columns."""
    columns = ["id", "row"]
    if manifest["dimension"]:
        columns.append("vector")
    if "sparse_dimension" in manifest:
        columns += ["sparse_indices", "sparse_values"]
    if "multi_dimension" in manifest:
        columns.append("multi")
    return columns + ["tokens", "status", "text_sha256"]



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


def indices_bits(indices):
    return None if indices is None else np.asarray(indices, dtype=np.uint32).tobytes()


def multi_bits(vectors):
    """How many there are and their numbers."""
    if vectors is None:
        return None
    return len(vectors), b"".join(bits(vector) for vector in vectors)


# How a value becomes one that can be compared bit by bit.
FORMS = {"vector": bits, "sparse_indices": indices_bits, "sparse_values": bits, "multi": multi_bits}


def compare(path, reader, found, expected, columns):
    """Rows as tuples in the order of the columns, vectors as bytes."""
    require(len(found) == len(expected), f"{path} has {len(found)} rows for {reader} instead of {len(expected)}")
    for one, other in zip(found, expected):
        for column, left, right in zip(columns, one, other):
            require(left == right, f"{path} row {other[1]}: {column} is {left!r} for {reader}, {right!r} in jsonl")


def rows_of_table(path, table, manifest):
    columns = columns_of(manifest)
    require(table.column_names == columns, f"{path} has the columns {table.column_names}")
    item = lambda kind: pa.field("item", kind, nullable=False)
    types = {
        "vector": pa.list_(item(pa.float32()), manifest["dimension"] or 1),
        "sparse_indices": pa.list_(item(pa.uint32())),
        "sparse_values": pa.list_(item(pa.float32())),
        "multi": pa.list_(item(pa.list_(item(pa.float32()), manifest.get("multi_dimension", 1)))),
    }
    for name in set(types) & set(columns):
        field = table.schema.field(name)
        require(field.type == types[name] and field.nullable, f"{path} has {name} of type {field.type}")
    for key in ["model", "vector_space", "dimension", "multi_dimension"]:
        if manifest.get(key):
            found = (table.schema.metadata or {}).get(key.encode(), b"").decode()
            require(found == str(manifest[key]), f"{path} has {found!r} as {key} in its metadata")
    return rows_of_records(table.to_pylist(), columns)


def missing(value):
    return None if value is None or (isinstance(value, float) and value != value) else value


def rows_of_records(records, columns):
    return [
        tuple(FORMS[name](record[name]) if name in FORMS else missing(record[name]) for name in columns)
        for record in records
    ]


def rows_of_lines(records, columns):
    """jsonl has the two lists of a sparse vector in one object."""
    for record in records:
        if "sparse" in record:
            sparse = record.pop("sparse") or {"indices": None, "values": None}
            record |= {"sparse_indices": sparse["indices"], "sparse_values": sparse["values"]}
    return rows_of_records(records, columns)


def with_pandas(pandas, path, columns):
    return rows_of_records(pandas.read_parquet(path).to_dict("records"), columns)


def with_polars(polars, path, columns):
    frame = polars.read_parquet(path) if path.suffix == ".parquet" else polars.read_ipc(path)
    return rows_of_records(frame.to_dicts(), columns)


def with_duckdb(duckdb, path, columns):
    records = duckdb.connect().execute("select * from read_parquet(?)", [str(path)]).fetchall()
    return rows_of_records([dict(zip(columns, record)) for record in records], columns)


# Reader, and the formats it is tried on.
OTHERS = {
    "pandas": (with_pandas, ["parquet"]),
    "polars": (with_polars, ["parquet", "arrow"]),
    "duckdb": (with_duckdb, ["parquet"]),
}


def load(path, dtype, shape=None):
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    require(array.dtype == np.dtype(dtype), f"{path} is {array.dtype}")
    require(shape is None or array.shape == shape, f"{path} has the shape {array.shape}")
    return array


def check_npy(part, expected, manifest, columns):
    ids = json.loads(part.with_suffix(".ids.json").read_text(encoding="utf-8"))
    require(ids == [row[0] for row in expected], f"{part.with_suffix('.ids.json')} has other ids than jsonl")
    column = lambda name: [row[columns.index(name)] for row in expected]
    if "vector" in columns:
        path = part.with_suffix(".npy")
        array = load(path, "<f4", (len(expected), manifest["dimension"]))
        for row, (values, wanted) in enumerate(zip(array, column("vector"))):
            if wanted is None:
                require(bool(np.isnan(values).all()), f"{path} row {row} has no vector in jsonl and is not all NaN")
            else:
                require(values.tobytes() == wanted, f"{path} row {row} differs from jsonl")
    if "sparse_values" in columns:
        indptr = load(part.with_suffix(".sparse.indptr.npy"), "<i8", (len(expected) + 1,))
        indices = load(part.with_suffix(".sparse.indices.npy"), "<u4", (indptr[-1],))
        values = load(part.with_suffix(".sparse.values.npy"), "<f4", (indptr[-1],))
        for row, (start, end) in enumerate(zip(indptr, indptr[1:])):
            found = indices[start:end].tobytes(), values[start:end].tobytes()
            wanted = column("sparse_indices")[row] or b"", column("sparse_values")[row] or b""
            require(found == wanted, f"{part} row {row}: sparse differs from jsonl")
    if "multi" in columns:
        offsets = load(part.with_suffix(".multi.offsets.npy"), "<i8", (len(expected) + 1,))
        vectors = load(part.with_suffix(".multi.npy"), "<f4", (offsets[-1], manifest["multi_dimension"]))
        for row, (start, end) in enumerate(zip(offsets, offsets[1:])):
            found = (int(end - start), vectors[start:end].tobytes())
            require(found == (column("multi")[row] or (0, b"")), f"{part} row {row}: multi differs from jsonl")


def check_values(part, row, record, manifest):
    """What a row of jsonl must be by itself."""
    has_vector = record["status"] in WITH_VECTOR
    for name in FORMS:
        if name in record:
            require((record[name] is not None) == has_vector, f"{part}.jsonl row {row} is {record['status']} and disagrees")
    if not has_vector:
        return
    finite = lambda values: bool(np.isfinite(np.asarray(values, dtype=np.float32)).all())
    if "vector" in record:
        require(len(record["vector"]) == manifest["dimension"], f"{part}.jsonl row {row} has {len(record['vector'])} values")
        require(finite(record["vector"]), f"{part}.jsonl row {row} is not finite")
    if "sparse_values" in record:
        indices, values = record["sparse_indices"], record["sparse_values"]
        require(len(indices) == len(values), f"{part}.jsonl row {row} has {len(indices)} tokens and {len(values)} weights")
        require(indices == sorted(set(indices)), f"{part}.jsonl row {row} has tokens out of order")
        require(not indices or indices[-1] < manifest["sparse_dimension"], f"{part}.jsonl row {row} has no such token")
        require(finite(values) and all(value > 0 for value in values), f"{part}.jsonl row {row} has weights that are none")
    for vector in record.get("multi") or []:
        require(len(vector) == manifest["multi_dimension"], f"{part}.jsonl row {row}: a vector of {len(vector)} values")
        require(finite(vector), f"{part}.jsonl row {row} is not finite")


def check_model(directory, readers):
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    require(set(manifest["formats"]) == {"jsonl", "parquet", "arrow", "npy"}, f"{directory} lacks a format")
    columns, next_row, statuses, everything = columns_of(manifest), 0, {}, []
    keys = [name for name in columns if name != "sparse_values"]
    keys = ["sparse" if name == "sparse_indices" else name for name in keys]
    extensions = ["jsonl", "parquet", "arrow", "ids.json"]
    extensions += ["npy"] * ("vector" in columns)
    extensions += ["sparse.indptr.npy", "sparse.indices.npy", "sparse.values.npy"] * ("sparse_values" in columns)
    extensions += ["multi.offsets.npy", "multi.npy"] * ("multi" in columns)
    listed = {"manifest.json"}
    for number, shard in enumerate(manifest["shards"]):
        part = directory / f"part-{number:05}"
        require(shard["number"] == number and shard["first_row"] == next_row, f"{part} is listed out of order")
        names = {f"{part.name}.{extension}" for extension in extensions}
        require({file["name"] for file in shard["files"]} == names, f"{part} has other files than its formats need")
        listed |= names
        for file in shard["files"]:
            check_file(directory / file["name"], file)

        records = lines(part.with_suffix(".jsonl"))
        require(all(list(record) == keys for record in records), f"{part}.jsonl has other keys than {keys}")
        expected = rows_of_lines(records, columns)
        require(len(expected) == shard["rows"], f"{part}.jsonl has {len(expected)} rows, its manifest says {shard['rows']}")
        for record in records:
            row, status = record["row"], record["status"]
            require(row == next_row, f"{part}.jsonl has row {row} where {next_row} belongs")
            check_values(part, row, record, manifest)
            statuses[status] = statuses.get(status, 0) + 1
            next_row += 1

        parquet, arrow = part.with_suffix(".parquet"), part.with_suffix(".arrow")
        compare(parquet, "pyarrow", rows_of_table(parquet, pa.parquet.read_table(parquet), manifest), expected, columns)
        with pa.memory_map(str(arrow)) as source:
            compare(arrow, "pyarrow", rows_of_table(arrow, pa.ipc.open_file(source).read_all(), manifest), expected, columns)
        check_npy(part, expected, manifest, columns)
        for name, module in readers.items():
            read, suffixes = OTHERS[name]
            for extension in suffixes:
                path = part.with_suffix(f".{extension}")
                compare(path, name, read(module, path, columns), expected, columns)
        everything += [(row[0], row[1], row[-1]) for row in expected]
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
