// The kernels for CPUs with AMX tiles of bfloat16. Only C headers are included: an inline function of a C++ header that were
// compiled here with these instructions could be the one that the linker keeps for everybody. The tile instructions are
// written for the assembler and need no switch of the compiler.
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
#define MN_AMX
namespace amx {
#include "simd.h"
#include "gemm.h"
#include "chunks.h"
#include "mlp.h"
#include "mlp_backward.h"
#include "depthwise.h"
#include "instantiate.h"
}  // namespace amx
const Kernels* amx_kernels(Storage s) {
  return s == FLOAT ? avx512_kernels(FLOAT) : amx::table<amx::bf16, amx::bf16>();
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
