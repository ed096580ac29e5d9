// The kernels for CPUs with avx2,fma. Only C headers are included: an inline function of a C++ header that were
// compiled here with these instructions could be the one that the linker keeps for everybody.
#include <immintrin.h>
#include <stdint.h>

#include "table.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define MN_AVX2
namespace avx2 {
#include "simd.h"
#include "gemm.h"
#include "chunks.h"
#include "mlp.h"
#include "mlp_backward.h"
#include "depthwise.h"
#include "instantiate.h"
}  // namespace avx2
const Kernels* avx2_kernels(Storage s) { return s == FLOAT ? avx2::table<float, float>() : avx2::table<avx2::bf16, float>(); }
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
