#!/usr/bin/env bash
# Checks on a machine without a GPU what configs/cuda/build.sh builds: that the program starts without any library of
# CUDA and embeds on the processor, that a GPU which is not there is an error with its reason, and, with stand-ins for the
# driver (stand_in/driver.cpp, ../stand_in/nvml.c), that every architecture gets through each call of the driver in f32, f16
# and bf16, and through check.sh. The stand-ins compute by what g++ makes of the kernels; what nvcc made of them is loaded
# and not run.
#
#   tests/gpu/anywhere.sh [PROGRAM]       without PROGRAM one is built for compute capability 8.0, which takes long
#
# Needs Python 3 with numpy (PYTHON, if it is not python3).
set -euo pipefail
cd "$(dirname "$0")/../.."

program=${1:-}
if [ -z "$program" ]; then
    configs/cuda/build.sh 80
    program=${CARGO_TARGET_DIR:-target}/cuda-80/release/embed-collections
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export EMBED_LEASE_DIR=$work/leases HF_HUB_OFFLINE=1 XDG_CACHE_HOME=$work/cache
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

# embed NAME ARGUMENTS...: one run; its output is in $work/NAME, what it said in $work/NAME.log, its exit code in $code.
embed() {
    local name=$1; shift
    code=0
    "$program" --chunked-dir tests/data/Chunked --output-dir "$work/$name" --progress none "$@" \
        >"$work/$name.log" 2>&1 || code=$?
}
# passed NAME: it ended well, with as many vectors as there are texts.
passed() {
    [ "$code" = 0 ] || { tail -n 20 "$work/$1.log" >&2; fail "$1: exit code $code"; }
    python3 - "$work/$1/run-summary.json" <<'PYTHON' || fail "$1: vectors are missing"
import json, sys
counts = json.load(open(sys.argv[1]))["collections"]
total = lambda key: sum(collection[key] for collection in counts)
sys.exit(not (total("chunks") > 90 and total("failed") == 0 and total("ok") + total("truncated") + total("empty") == total("chunks")))
PYTHON
}

echo "== without a GPU"
if readelf -d "$program" | grep NEEDED | grep -iE 'cuda|cublas|curand|nvrtc|nvidia'; then
    fail "the program needs these to start"
fi
export EMBEDDER_NVML_LIBRARY=$work/nowhere/libnvidia-ml.so.1
"$program" --version
"$program" devices
embed processor --model tests/fixtures/models/bert-minilm
passed processor
embed refused --model tests/fixtures/models/bert-minilm --devices cuda:0
[ "$code" = 2 ] || fail "a GPU that is not there: exit code $code"
grep "there is no device cuda:0" "$work/refused.log" || fail "no reason is given: $(cat "$work/refused.log")"

echo "== with stand-ins for the driver"
folder=${CARGO_TARGET_DIR:-target}/cuda-stand-in
tests/gpu/stand_in/build.sh "$folder"
cp -r "$folder/libraries" "$work/libraries"
cat >"$work/libraries/libnvidia-ml.so.1.state" <<'STATE'
driver 580.65.06
cuda 13000
gpu GPU-00000000-0000-0000-0000-000000000000 8.0 81920 500 0 -1 0 Stand-in
gpu GPU-11111111-1111-1111-1111-111111111111 8.0 81920 500 0 -1 0 Stand-in
STATE
export EMBEDDER_NVML_LIBRARY=$work/libraries/libnvidia-ml.so.1 LD_LIBRARY_PATH=$work/libraries
export CUDA_STAND_IN_DEVICES=2 CUDA_STAND_IN_REPORT=$work/report

for model in tests/fixtures/models/*/; do
    for dtype in f32 f16 bf16; do
        name=$(basename "$model")-$dtype
        rm -f "$CUDA_STAND_IN_REPORT"
        embed "$name" --model "$model" --devices cuda:0 --dtype "$dtype"
        passed "$name"
        grep -q "device 0: [1-9].* 0 left, threshold none" "$CUDA_STAND_IN_REPORT" || fail "$name: $(cat "$CUDA_STAND_IN_REPORT")"
    done
    printf '%-24s %s\n' "$(basename "$model")" "$(head -n 1 "$CUDA_STAND_IN_REPORT")"
done

rm -f "$CUDA_STAND_IN_REPORT"
embed two --model tests/fixtures/models/bert-minilm --batch-tokens 64
passed two
[ "$(grep -c "device [01]: [1-9].* 0 left" "$CUDA_STAND_IN_REPORT")" = 2 ] || fail "two devices: $(cat "$CUDA_STAND_IN_REPORT")"
python3 - "$work/two/run-summary.json" <<'PYTHON' || fail "memory of the pools is not in the summary, or did not come back"
import json, sys
events = json.load(open(sys.argv[1]))["gpu_lease_events"]
pools = [sample[key] for event in events for sample in event["vram"].values() for key in ("allocated_gb", "reserved_gb")]
sys.exit(not pools or any(amount != 0 for amount in pools))
PYTHON

# Memory for the model and hardly any batch: batches shrink, and no row is lost.
rm -f "$CUDA_STAND_IN_REPORT"
CUDA_STAND_IN_MIB=1 embed small --model tests/fixtures/models/bert-minilm --devices cuda:0 --dtype f32 --batch-tokens 100000
passed small
grep "device 0: .* [1-9][0-9]* refused, .* 0 left" "$CUDA_STAND_IN_REPORT" || fail "memory did not run out: $(cat "$CUDA_STAND_IN_REPORT")"

# The numbers as well, and the check for machines with a GPU itself, with small models.
PATH=$PWD/tests/gpu/stand_in:$PATH CUDA_STAND_IN_MIB=256 EMBED_GPU_PROGRAM=$program \
    tests/gpu/check.sh cuda:0 --tiny --results "$work/results.json"

echo "all as it should be"
