#!/usr/bin/env bash
# Checks the numbers of everything that is done on a GPU on a machine without one: candle's kernels and those of this project
# are compiled for the processor (stand_in/device.h) and run by a stand-in for the driver and cuBLAS (stand_in/driver.cpp).
# Each kernel of this project is held against plain tensors, and every model of tests/fixtures/models against its
# reference, in f32, f16 and bf16; memory that runs out and devices that are lost must cost no row. The check for machines
# that have a GPU (check.sh) is gone through as well, with small models.
#
#   tests/gpu/numbers.sh
#
# Needs Rust, Python 3 with numpy (PYTHON, if it is not python3), g++ 12 or newer and binutils, on x86-64 Linux. A development
# build; some three minutes once it is built.
set -euo pipefail
cd "$(dirname "$0")/../.."

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
work=$CARGO_TARGET_DIR/cuda-stand-in
tests/gpu/stand_in/build.sh "$work"
. tests/gpu/stand_in/toolkit.sh "$work"

echo "== the stand-in itself"
tests/gpu/stand_in/self_test/run.sh "$work" 2>/dev/null || tests/gpu/stand_in/self_test/run.sh "$work"

echo "== models against their references, memory, recovery"
on_gpu=(cargo test --quiet --features cuda)
export LD_LIBRARY_PATH=$work/libraries EMBED_TEST_STAND_IN=$work/libraries
export EMBED_TEST_GPU=GPU-00000000-0000-0000-0000-000000000000
# Each opens the GPU once, and has it for itself.
"${on_gpu[@]}" --test models reference_models::
"${on_gpu[@]}" --test models half_precision::
"${on_gpu[@]}" --test gpu -- recovery:: kernels::
# A tensor of 1 GiB is there, and another one is too much.
CUDA_STAND_IN_MIB=1200 "${on_gpu[@]}" --test gpu memory::
echo "== threads of a block from the last one to the first"
# What does not wait for other threads where it must gives other numbers.
CUDA_STAND_IN_ORDER=last "${on_gpu[@]}" --test models half_precision::
CUDA_STAND_IN_ORDER=last "${on_gpu[@]}" --test gpu kernels::

echo "== the check for machines with a GPU, with small models"
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
cp "$work/libraries/libnvidia-ml.so.1" "$state"
cat >"$state/libnvidia-ml.so.1.state" <<STATE
driver 580.65.06
cuda 13000
gpu ${EMBED_TEST_GPU} 8.0 81920 500 0 -1 0 Stand-in
STATE
# Another program of the check takes all memory of the device.
EMBEDDER_NVML_LIBRARY=$state/libnvidia-ml.so.1 XDG_CACHE_HOME=$state PATH=$PWD/tests/gpu/stand_in:$PATH CUDA_STAND_IN_MIB=256 \
    EMBED_GPU_PROGRAM=$CARGO_TARGET_DIR/debug/embed-collections \
    tests/gpu/check.sh cuda:0 --tiny --results "$state/results.json"
