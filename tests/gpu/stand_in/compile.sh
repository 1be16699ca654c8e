# To be sourced: how sources are compiled for the stand-ins, into the folder that is named.
stand_in_folder=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
compiled=$1

common=(g++ -std=c++17 -O2 -fPIC -mf16c -fno-strict-aliasing -ffp-contract=off)
# Alias rules of g++ are not those of nvcc; indices into shared memory are checked where its size is known.
kernel=("${common[@]}" -w -x c++ -fsanitize=bounds -fno-sanitize-recover=bounds -I "$stand_in_folder/include"
    -include "$stand_in_folder/include/stand_in.h" -D__CUDACC__ -D__CUDA_ARCH__=800 -D__CUDACC_VER_MAJOR__=13 -D__CUDACC_VER_MINOR__=0)

# A module in a namespace of its own, for modules have functions of the same names; and behind it the table of its
# kernels, which are what is called `extern "C" __global__ void`. Dynamic shared memory is where a launch has put it.
compile_module() {
    local source=$1 module
    module=$(basename "$source" .cu)
    sed -E 's/extern __shared__ +(__align__\([0-9]+\) +)?([A-Za-z_0-9 ]+[A-Za-z_0-9]) +(\w+)\[\];/\2 *\3 = static_cast<\2 *>(stand_in::dynamic_shared());/' \
        "$source" >"$compiled/$module.cu"
    {
        printf 'namespace module_%s {\n#include "%s.cu"\n' "$module" "$module"
        "${kernel[@]}" -E -I "$(dirname "$source")" -D__global__=STAND_IN_GLOBAL "$compiled/$module.cu" | tr '\n' ' ' |
            { grep -oP 'extern +"C" +STAND_IN_GLOBAL +void +\K\w+' || true; } | sed "s/.*/STAND_IN_KERNEL(\"$module\", &)/"
        printf '}\n'
    } >"$compiled/$module.cpp"
    grep -q STAND_IN_KERNEL "$compiled/$module.cpp" || { echo "$source has no kernels that could be found" >&2; return 1; }
    "${kernel[@]}" -I "$(dirname "$source")" -c "$compiled/$module.cpp" -o "$compiled/$module.o"
}
