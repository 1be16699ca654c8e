"""What PyTorch makes of the same device: the rate of matrix products, and sentence-transformers on the same models.

    torch_peer.py peak DEVICE DTYPE...                          one JSON object: TFLOP/s by dtype
    torch_peer.py encode DEVICE DTYPE MODEL FOLDER LENGTH...    a JSON object for each length, of the texts in FOLDER-LENGTH

Exits with 77 where a package is not installed. A process of its own, so that nothing of it stays on the device.
"""

import json
import sys
import time
from pathlib import Path

try:
    import torch
except ImportError:
    sys.exit(77)

DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
# As many as the program is told to take at once.
BATCH_TOKENS = 65_536


def wait(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds(device, work, repetitions):
    for _ in range(3):
        work()
    wait(device)
    start = time.perf_counter()
    for _ in range(repetitions):
        work()
    wait(device)
    return (time.perf_counter() - start) / repetitions


def peak(device, dtypes):
    size = 8192 if device.startswith("cuda") else 256
    rates = {}
    for name in dtypes:
        a, b = (torch.randn(size, size, device=device, dtype=DTYPES[name]) for _ in range(2))
        rates[name] = 2 * size**3 / seconds(device, lambda: a @ b, 30) / 1e12
    print(json.dumps(rates))


def encode(device, dtype, directory, folder, lengths):
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        sys.exit(77)
    arguments = {"torch_dtype": DTYPES[dtype], "attn_implementation": "sdpa"}
    model = SentenceTransformer(directory, device=device, local_files_only=True, model_kwargs=arguments)
    for length in lengths:
        chunks = Path(f"{folder}-{length}", "texts", "texts_chunks.json")
        texts = [chunk["text"] for chunk in json.loads(chunks.read_text())]
        model.max_seq_length = length
        batch_size = max(BATCH_TOKENS // length, 1)
        work = lambda some: model.encode(some, batch_size=batch_size, normalize_embeddings=True)
        work(texts[:batch_size])
        start = time.perf_counter()
        work(texts)
        rate = len(texts) * length / (time.perf_counter() - start)
        print(json.dumps({"tokens_of_a_text": length, "tokens_per_second": rate}), flush=True)


if __name__ == "__main__":
    what, on, *rest = sys.argv[1:]
    with torch.inference_mode():
        if what == "peak":
            peak(on, rest)
        else:
            encode(on, rest[0], rest[1], rest[2], [int(length) for length in rest[3:]])
