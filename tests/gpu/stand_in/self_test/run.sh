#!/usr/bin/env bash
# Checks the stand-in itself: kernels.cu and main.cpp.
#
#   tests/gpu/stand_in/self_test/run.sh FOLDER      FOLDER as for build.sh, which was run
set -euo pipefail
here=$(realpath "$(dirname "$0")")
folder=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

source "$here/../compile.sh" "$work"
compile_module "$here/kernels.cu"
"${common[@]}" -Wall -Wextra -Werror -c "$here/main.cpp" -o "$work/main.o"
g++ -o "$work/test" "$folder/objects/shared_first.o" "$work/kernels.o" "$folder/objects/shared_end.o" "$work/main.o" \
    "$folder/objects"/{device,driver,memory,products}.o -lpthread

"$work/test"
CUDA_STAND_IN_ORDER=last "$work/test"
while IFS='|' read -r name said; do
    if "$work/test" "$name" 2>"$work/said"; then echo "$name did not end the program" >&2; exit 1; fi
    grep -q "CUDA stand-in: $said" "$work/said" || { echo "$name: $(cat "$work/said")" >&2; exit 1; }
done <<'CASES'
barrier|wrong_barrier: line [0-9]*: threads wait for others that do not come; 3 of 32 have ended
lines|wrong_lines: threads of one block wait at lines [0-9]* and [0-9]*
mask|wrong_mask: line [0-9]*: lane 0 is not in its own mask
index|wrong_index: index 8 beyond an array
dynamic|wrong_dynamic: thread 0 0 0 of block 0 0 0: signal 11, beyond its memory
place|wrong_place: thread 0 0 0 of block 0 0 0: signal 11, beyond its memory
tile|wrong_tile: a tile that does not begin at a multiple of 32 bytes
beside|memory beside a tensor of 12 bytes was written to
freed|wrong_place: thread 0 0 0 of block 0 0 0: signal 11, beyond its memory
copy|cuMemcpyHtoDAsync_v2: beyond the memory of the device
twice|cuMemFreeAsync: this is no memory of the device, or no more
context|cuStreamSynchronize: the thread has another context, or none
CASES
