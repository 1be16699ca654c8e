#!/usr/bin/env bash
# Everything that only a machine with an NVIDIA GPU can show, in one command. Without a GPU it says so and exits with 77.
#
#   tests/gpu/check.sh [DEVICE [OPTIONS]]      DEVICE as in --devices, cuda:0 if it is left out; OPTIONS of check.py
#
# Needs Rust and a CUDA toolkit (nvcc), or EMBED_GPU_PROGRAM with a program that is built already; then the tests
# that are compiled are left out. Python 3 with numpy (PYTHON, if it is not python3); with torch the rate of matrix
# products, and with sentence-transformers its speed, are measured as well. Nothing is fetched.
# Results: benches/results/NAME-OF-THE-GPU.json.
set -euo pipefail
cd "$(dirname "$0")/../.."
device=${1:-cuda:0}
shift || true
python=${PYTHON:-python3}
"$python" -c 'import numpy' || { echo "check.sh: $python has no numpy; install it, or name another Python in PYTHON" >&2; exit 1; }

if ! nvidia-smi --query-gpu=uuid --format=csv,noheader >/dev/null 2>&1; then
    echo "check.sh: there is no NVIDIA GPU, or no driver, on this machine: nothing was checked" >&2
    exit 77
fi

program=${EMBED_GPU_PROGRAM:-}
if [ -z "$program" ]; then
    command -v nvcc >/dev/null || { echo "check.sh: nvcc is not in PATH; install a toolkit, or name a built program in EMBED_GPU_PROGRAM" >&2; exit 1; }
    cargo build --release --features cuda
    program=${CARGO_TARGET_DIR:-target}/release/embed-collections
    uuid=$("$program" devices --json | python3 -c 'import json, sys
print(next((d["uuid"] for d in json.load(sys.stdin)["devices"] if d["device"] == sys.argv[1]), ""))' "$device")
    [ -n "$uuid" ] || { "$program" devices; echo "check.sh: there is no $device" >&2; exit 77; }
    echo "== GPU = reference, in f32, f16 and bf16, for every architecture; memory"
    # Each opens the GPU once, and has it for itself.
    for tests in "models reference_models::" "models half_precision::" "gpu memory::" "gpu kernels::"; do
        # shellcheck disable=SC2086
        EMBED_TEST_GPU=$uuid cargo test --release --features cuda --test $tests -- --test-threads 1 --nocapture
    done
    echo "== milliseconds of attention over 65,536 tokens, by the project's kernels and by plain tensors"
    EMBED_TEST_GPU=$uuid cargo test --release --features cuda --test gpu kernels:: -- --ignored --nocapture |
        grep '^{' | tee "$(dirname "$program")/attention.jsonl"
    export EMBED_ATTENTION_TIMES=$(dirname "$program")/attention.jsonl
fi

exec "$python" tests/gpu/check.py "$program" "$device" "$@"
