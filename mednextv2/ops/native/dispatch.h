// The parts that operators share: the choice of the instruction set, checks of arguments, parameters as floats and
// packed, and the distribution of work to torch's threads.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "table.h"

namespace {

using at::Tensor;
using std::optional;

// Whether the processor has AMX tiles for bfloat16, and Linux lets this process use them: their state is large, and a
// process gets memory for it only on request.
bool has_tiles() {
#if defined(SYS_arch_prctl)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool there = (d >> 24 & 1) && (d >> 22 & 1);  // AMX-TILE, AMX-BF16
  const int request_permission = 0x1023, tile_data = 18;
  return there && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

InstructionSet detect() {
  const char* limit = std::getenv("MEDNEXTV2_ISA");  // the name of the highest set to use, for tests and comparisons
  const std::string most = limit ? limit : "";
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!avx512 || most == "avx2") return AVX2;
  if (!__builtin_cpu_supports("avx512bf16") || most == "avx512") return AVX512;
  return most != "avx512_bf16" && has_tiles() ? AMX : AVX512_BF16;
}

const InstructionSet instruction_set = detect();

const Kernels& kernels_for(const Tensor& x) {
  const Storage storage = x.scalar_type() == at::kBFloat16 ? BFLOAT16 : FLOAT;
  switch (instruction_set) {
    case AMX: return *amx_kernels(storage);
    case AVX512_BF16: return *avx512_bf16_kernels(storage);
    case AVX512: return *avx512_kernels(storage);
    default: return *avx2_kernels(storage);
  }
}

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

void check(const Tensor& x, const char* name, const Tensor& like) {
  TORCH_CHECK(x.scalar_type() == like.scalar_type(), "mednextv2: ", name, " is ", x.scalar_type(), ", expected ",
              like.scalar_type());
  TORCH_CHECK(x.is_contiguous(x.dim() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast),
              "mednextv2: ", name, " must be channels-last");
}

Tensor empty_channels_last(at::IntArrayRef size, const Tensor& like) {
  const auto format = size.size() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
  return at::empty(size, like.options().memory_format(format));
}

// Distribute [0, n) to torch's threads as f(worker, begin, end).
int64_t workers() { return at::get_num_threads(); }
template <class F> void share(int64_t n, const F& f) {
  const int64_t w = std::min<int64_t>(workers(), n);
  at::parallel_for(0, w, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) f(i, n * i / w, n * (i + 1) / w);
  });
}

// A parameter as floats, padded with zeros.
struct Floats {
  Tensor held;
  const float* data;
  explicit Floats(const Tensor& t) : held(t.to(at::kFloat).contiguous()), data(held.data_ptr<float>()) {}
};
Tensor scratch(int64_t bytes) { return at::empty({bytes}, at::TensorOptions().dtype(at::kByte)); }
std::vector<float> padded(const float* from, int64_t n, int64_t to) {
  std::vector<float> v(to, 0.0f);
  std::copy(from, from + n, v.begin());
  return v;
}

Tensor packed(const Kernels& kernels, const Floats& weight, int64_t sk, int64_t sn, int64_t k, int64_t n) {
  Tensor to = scratch(kernels.packed_elements(k, n) * kernels.element + 64);
  const int64_t panel = 2 * kernels.vector, panels = ceil_div(n, panel);
  share(panels, [&](int64_t, int64_t begin, int64_t end) {
    kernels.pack(weight.data, sk, sn, k, n, begin * panel, std::min(end * panel, n), to.data_ptr());
  });
  return to;
}

// Whether there are special instructions for products of bfloat16, so that they are not computed in float.
bool fast_bfloat16() { return instruction_set >= AVX512_BF16; }

std::string instructions(bool bfloat16) {  // the instructions for tensors of bfloat16, or else of float
  const char* names[] = {"AVX2", "AVX-512", "AVX-512 with bfloat16", "AMX with bfloat16"};
  return names[bfloat16 ? instruction_set : std::min(instruction_set, AVX512)];
}

}  // namespace
