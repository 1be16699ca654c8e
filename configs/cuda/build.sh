#!/usr/bin/env bash
# Builds one program that starts anywhere, uses an NVIDIA GPU if there is one and the processor otherwise, on a machine
# that needs neither GPU nor driver nor toolkit: the compiler comes from Python wheels, and CUDA's libraries are opened
# when they are first called (trampolines.py).
#
#   configs/cuda/build.sh 80                   for compute capability 8.0 and newer: A100, RTX 30, L4, RTX 40, H100, …
#   configs/cuda/build.sh 75                   for 7.5 and newer, without bf16: T4, RTX 20
#   configs/cuda/build.sh 90                   for 9.0 alone: H100, H200
#   configs/cuda/build.sh 80 /usr/local/cuda   with the compiler of an installed toolkit
#
# Needs Rust, Python 3 with venv and pip, a C compiler and binutils; x86-64 Linux. The target folder is target/cuda-NN,
# or $CARGO_TARGET_DIR/cuda-NN. What is built needs a driver at least as new as the toolkit: 580 for CUDA 13.0.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly wheels="cuda-toolkit[nvcc,cudart,cccl]==13.0.3.0"

fail() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }

capability=${1:-}
toolkit=${2:-}
case $capability in
75 | 80 | 86 | 89 | 90 | 100 | 120) ;;
*) fail "the first argument is a compute capability without its point: 75, 80 or 90, not '$capability'" ;;
esac
[ "$(uname -sm)" = "Linux x86_64" ] || fail "the trampolines are for x86-64 Linux, this is $(uname -sm)"
for program in cargo python3 cc c++ ar readelf; do
    command -v "$program" >/dev/null || fail "$program is needed and not there"
done

base=${CARGO_TARGET_DIR:-$PWD/target}
work=$base/cuda
mkdir -p "$work"

if [ -z "$toolkit" ]; then
    stamp=$work/wheels/$(printf %s "$wheels" | tr -c 'a-zA-Z0-9.\n' _)
    if [ ! -e "$stamp" ]; then
        echo "== compiler from wheels: $wheels"
        [ -x "$work/pip/bin/python" ] || python3 -m venv "$work/pip"
        rm -rf "$work/wheels"
        "$work/pip/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/wheels" \
            "$wheels" nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
            nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
        touch "$stamp"
    fi
    toolkit=$work/wheels/nvidia/cu13
fi
nvcc=$toolkit/bin/nvcc
[ -x "$nvcc" ] || fail "there is no compiler at $nvcc"
"$nvcc" --version >/dev/null || fail "$nvcc cannot be run"
runtime=$(find -L "$toolkit" -name libcudart_static.a -print -quit)
[ -n "$runtime" ] || fail "there is no libcudart_static.a below $toolkit"

echo "== trampolines"
cargo fetch --locked --quiet
cudarc=$(cargo metadata --locked --format-version 1 --features cuda |
    python3 -c 'import json, os, sys
paths = [p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"]
print(os.path.dirname(paths[0]) if len(paths) == 1 else "")')
[ -n "$cudarc" ] || fail "Cargo.lock does not have exactly one cudarc"
# No shared library may lie in this folder: the linker would prefer it.
home=$work/home
rm -rf "$home"
mkdir -p "$home/lib" "$home/bin"
python3 configs/cuda/trampolines.py "$cudarc" "$home/lib"
cp "$runtime" "$home/lib/libcudart.a"
ln -s "$nvcc" "$home/bin/nvcc"
ln -s "$(dirname "$nvcc")/../include" "$home/include"

echo "== program for compute capability $capability"
export CARGO_TARGET_DIR=$base/cuda-$capability
# cudarc asks the nvcc in PATH for its version, and links with what lies in CUDA_HOME alone.
unset CUDA_PATH CUDA_ROOT CUDA_TOOLKIT_ROOT_DIR CUDNN_LIB
PATH=$(dirname "$nvcc"):$PATH CUDA_HOME=$home NVCC=$nvcc CUDA_COMPUTE_CAP=$capability \
    CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)} \
    cargo build --locked --release --features cuda --bin embed-collections

program=$CARGO_TARGET_DIR/release/embed-collections
echo "== checks"
needed=$(readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
echo "needs: $(echo "$needed" | tr '\n' ' ')"
if echo "$needed" | grep -qiE 'cuda|cublas|curand|nvrtc'; then
    fail "$program needs libraries of CUDA to start; is there a shared one beside the archives?"
fi
"$program" --version
"$program" devices
echo "built: $program"
