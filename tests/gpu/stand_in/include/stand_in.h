/* Everything that sources may include, so that it is there before they are put into a namespace of their own. */
#pragma once
#include <cuda/std/limits>
#include <cuda_fp8.h>
#include <mma.h>
