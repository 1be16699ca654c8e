#!/usr/bin/env bash
# The unsafe parts of the linear layers under valgrind: reads and writes outside of what they were given. Wants valgrind,
# which knows AVX2 and hides AVX-512, so that the kernels for AVX2 and for every processor are looked at.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v valgrind >/dev/null || { echo "valgrind is not installed" >&2; exit 2; }
binary=$(cargo test --lib --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*embed_collections-[^"]*\)".*/\1/p' | tail -n 1)
# Few cases of each property: everything is some fifty times slower.
PROPTEST_CASES=3 valgrind --quiet --error-exitcode=99 "$binary" --test-threads=2 \
    nn::cpu::gemm::columns nn::cpu::gemm::panels gemm::tests::layers_of_odd gemm::tests::rows_divided
