# To be sourced: sets the environment in which cargo builds the feature `cuda` without a toolkit, with nvcc beside this file
# and, in place of CUDA's libraries, the trampolines that open them at the first call.
#
#   . tests/gpu/stand_in/toolkit.sh FOLDER      FOLDER is for what it makes

stand_in_cudarc=$(cargo metadata --locked --format-version 1 --features cuda |
    python3 -c 'import json, os, sys
paths = [p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"]
print(os.path.dirname(paths[0]) if len(paths) == 1 else "")')
[ -n "$stand_in_cudarc" ] || { echo "Cargo.lock does not have exactly one cudarc" >&2; exit 1; }
stand_in_home=$(realpath -m "$1")/home
if [ "$(cat "$stand_in_home/of" 2>/dev/null)" != "$(basename "$stand_in_cudarc")" ]; then
    rm -rf "$stand_in_home"
    mkdir -p "$stand_in_home/lib" "$stand_in_home/bin" "$stand_in_home/include"
    python3 configs/cuda/trampolines.py "$stand_in_cudarc" "$stand_in_home/lib" >/dev/null
    # candle's build asks for it; kernels that are launched through it are not linked.
    ar cr "$stand_in_home/lib/libcudart.a"
    basename "$stand_in_cudarc" >"$stand_in_home/of"
fi
ln -sfn "$PWD/tests/gpu/stand_in/nvcc" "$stand_in_home/bin/nvcc"
unset CUDA_PATH CUDA_ROOT CUDA_TOOLKIT_ROOT_DIR CUDNN_LIB stand_in_cudarc
export CUDA_HOME=$stand_in_home NVCC=$stand_in_home/bin/nvcc CUDA_COMPUTE_CAP=80 PATH=$stand_in_home/bin:$PATH
