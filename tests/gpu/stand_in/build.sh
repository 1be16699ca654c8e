#!/usr/bin/env bash
# Compiles the stand-ins for the libraries of NVIDIA, with the kernels of candle and of this project for the processor.
#
#   tests/gpu/stand_in/build.sh FOLDER      the libraries are in FOLDER/libraries, for LD_LIBRARY_PATH
#
# Needs g++ 12 or newer for x86-64 and cargo. What is there already, of the same sources, is kept.
set -euo pipefail
cd "$(dirname "$0")/../../.."

folder=$(realpath -m "$1")
stand_in=$PWD/tests/gpu/stand_in
objects=$folder/objects libraries=$folder/libraries
# Those of candle that encoders use; convolutions and weights of few bits are left out.
modules=(affine binary cast fill indexing reduce sort ternary unary)

candle=$(cargo metadata --locked --format-version 1 --features cuda | python3 -c 'import json, os, sys
paths = [p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "candle-kernels"]
print(os.path.dirname(paths[0]) if len(paths) == 1 else "")')
[ -n "$candle" ] || { echo "Cargo.lock does not have exactly one candle-kernels" >&2; exit 1; }
sources=()
for module in "${modules[@]}"; do sources+=("$candle/src/$module.cu"); done
shopt -s nullglob
sources+=(src/nn/candle/kernels/*.cu)

digest=$(cat "$stand_in"/*.{h,cpp,sh} "$stand_in"/include/{*.h,cuda/std/*} "$candle"/src/*.cuh src/nn/candle/kernels/*.cuh \
    tests/stand_in/nvml.c "${sources[@]}" <(printf '%s\n' "$(g++ --version)" "${sources[@]}") | sha256sum | cut -d ' ' -f 1)
[ "$(cat "$folder/digest" 2>/dev/null)" != "$digest" ] || exit 0
rm -rf "$objects" "$libraries" "$folder/digest"
mkdir -p "$objects" "$libraries"

source "$stand_in/compile.sh" "$objects"
compile_part() {
    local flags=()
    # The only part that takes time: more of it at once, and the product and the sum of a term rounded once.
    [ "$1" != products ] || flags=(-O3 -ffp-contract=fast)
    "${common[@]}" -Wall -Wextra -Werror "${flags[@]}" -c "$stand_in/$1.cpp" -o "$objects/$1.o"
}

parts=(device driver memory products shared_first shared_end)
failed=0 running=0
for work in "${sources[@]/#/module:}" "${parts[@]/#/part:}"; do
    if ((running == $(nproc))); then
        wait -n || failed=1
        running=$((running - 1))
    fi
    case $work in
    module:*) compile_module "${work#module:}" & ;;
    part:*) compile_part "${work#part:}" & ;;
    esac
    running=$((running + 1))
done
while ((running--)); do wait -n || failed=1; done
((failed == 0)) || exit 1

linked=()
for source in "${sources[@]}"; do linked+=("$objects/$(basename "$source" .cu).o"); done
# Shared memory of the kernels lies between the two that say so.
g++ -shared -Wl,-z,defs -o "$libraries/libcuda.so.1" "$objects/shared_first.o" "${linked[@]}" "$objects/shared_end.o" \
    "$objects"/{device,driver,memory,products}.o -lpthread
ln -s libcuda.so.1 "$libraries/libcublas.so.13"
ln -s libcuda.so.1 "$libraries/libcurand.so.10"
cc -shared -fPIC -O1 -o "$libraries/libnvidia-ml.so.1" tests/stand_in/nvml.c -ldl
printf %s "$digest" >"$folder/digest"
