# To be sourced: sets the environment in which cargo builds the feature `cuda` without a toolkit, with nvcc beside this file
# and, in place of CUDA's libraries, the trampolines that open them at the first call.
#
#   . tests/gpu/stand_in/toolkit.sh FOLDER      FOLDER is for what it makes

stand_in_home=$(realpath -m "$1")/home
if [ ! -e "$stand_in_home/lib/libcudart.a" ]; then
    cudarc=$(cargo metadata --locked --format-version 1 --features cuda |
        python3 -c 'import json, os, sys
paths = [p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"]
print(os.path.dirname(paths[0]) if len(paths) == 1 else "")')
    [ -n "$cudarc" ] || { echo "Cargo.lock does not have exactly one cudarc" >&2; exit 1; }
    rm -rf "$stand_in_home"
    mkdir -p "$stand_in_home/lib" "$stand_in_home/bin" "$stand_in_home/include"
    python3 configs/cuda/trampolines.py "$cudarc" "$stand_in_home/lib" >/dev/null
    ln -s "$PWD/tests/gpu/stand_in/nvcc" "$stand_in_home/bin/nvcc"
    # candle's build asks for it; kernels that are launched through it are not linked.
    ar cr "$stand_in_home/lib/libcudart.a"
fi
unset CUDA_PATH CUDA_ROOT CUDA_TOOLKIT_ROOT_DIR CUDNN_LIB cudarc
export CUDA_HOME=$stand_in_home NVCC=$stand_in_home/bin/nvcc CUDA_COMPUTE_CAP=80 PATH=$stand_in_home/bin:$PATH
