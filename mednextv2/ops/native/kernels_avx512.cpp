// The kernels for CPUs with avx2,fma,avx512f,avx512bw,avx512dq,avx512vl. Only C headers are included: an inline function of a C++ header that were
// compiled here with these instructions could be the one that the linker keeps for everybody.
#include <immintrin.h>
#include <stdint.h>

#include "table.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#endif
#define MN_AVX512
namespace avx512 {
#include "simd.h"
#include "gemm.h"
#include "chunks.h"
#include "mlp.h"
#include "mlp_backward.h"
#include "depthwise.h"
#include "instantiate.h"
}  // namespace avx512
const Kernels* avx512_kernels(Storage s) { return s == FLOAT ? avx512::table<float, float>() : avx512::table<avx512::bf16, float>(); }
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
