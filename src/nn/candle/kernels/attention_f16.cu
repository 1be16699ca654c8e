// Attention in f16.
#include "attention_half.cuh"

HALF_ATTENTION(f16, __half)
