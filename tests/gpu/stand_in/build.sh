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

common=(g++ -std=c++17 -O2 -fPIC -mf16c -fno-strict-aliasing -ffp-contract=off)
# Alias rules of g++ are not those of nvcc; indices into shared memory are checked where its size is known.
kernel=("${common[@]}" -w -x c++ -fsanitize=bounds -fno-sanitize-recover=bounds -I "$stand_in/include"
    -include "$stand_in/include/stand_in.h" -D__CUDACC__ -D__CUDA_ARCH__=800 -D__CUDACC_VER_MAJOR__=13 -D__CUDACC_VER_MINOR__=0)

# A module in a namespace of its own, for modules have functions of the same names; and behind it the table of its
# kernels, which are what is called `extern "C" __global__ void`. Dynamic shared memory is where a launch has put it.
compile_module() {
    local source=$1 module
    module=$(basename "$source" .cu)
    sed -E 's/extern __shared__ +(__align__\([0-9]+\) +)?([A-Za-z_0-9 ]+[A-Za-z_0-9]) +(\w+)\[\];/\2 *\3 = static_cast<\2 *>(stand_in::dynamic_shared());/' \
        "$source" >"$objects/$module.cu"
    {
        printf 'namespace module_%s {\n#include "%s.cu"\n' "$module" "$module"
        "${kernel[@]}" -E -I "$(dirname "$source")" -D__global__=STAND_IN_GLOBAL "$objects/$module.cu" | tr '\n' ' ' |
            { grep -oP 'extern +"C" +STAND_IN_GLOBAL +void +\K\w+' || true; } | sed "s/.*/STAND_IN_KERNEL(\"$module\", &)/"
        printf '}\n'
    } >"$objects/$module.cpp"
    grep -q STAND_IN_KERNEL "$objects/$module.cpp" || { echo "$source has no kernels that could be found" >&2; return 1; }
    "${kernel[@]}" -I "$(dirname "$source")" -c "$objects/$module.cpp" -o "$objects/$module.o"
}
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
