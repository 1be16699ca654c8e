// Attention in bf16, where there are tensor cores for it.
#include "attention_half.cuh"

#if HAS_BF16
HALF_ATTENTION(bf16, __nv_bfloat16)
#endif
