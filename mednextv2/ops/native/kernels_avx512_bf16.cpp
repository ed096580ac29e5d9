// The kernels for CPUs with avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16. Only C headers are included: an inline function of a C++ header that were
// compiled here with these instructions could be the one that the linker keeps for everybody.
#include <immintrin.h>
#include <stdint.h>

#include "table.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#endif
#define MN_AVX512
#define MN_BF16
namespace avx512_bf16 {
#include "simd.h"
#include "gemm.h"
#include "chunks.h"
#include "mlp.h"
#include "mlp_backward.h"
#include "depthwise.h"
#include "instantiate.h"
}  // namespace avx512_bf16
const Kernels* avx512_bf16_kernels(Storage s) {
  return s == FLOAT ? avx512_kernels(FLOAT) : avx512_bf16::table<avx512_bf16::bf16, avx512_bf16::bf16>();
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
