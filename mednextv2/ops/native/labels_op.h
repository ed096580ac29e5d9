// The operator mednextv2_native::labels: it checks its arguments and distributes the work to torch's threads.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <vector>

#include "labels.h"

namespace {

using at::Tensor;

const int64_t VOXELS = 1024;  // fewest voxels for which it is worth starting a thread

Tensor labels(const Tensor& sums, const Tensor& weights, at::TensorList low, at::TensorList high, at::TensorList share,
              at::IntArrayRef paint, bool wide) {
  const auto type = sums.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kHalf, "mednextv2: sums are ", type, ", expected float32 or float16");
  TORCH_CHECK(sums.dim() == 4 && sums.is_contiguous(), "mednextv2: sums must be contiguous, (X, Y, Z, C)");
  TORCH_CHECK(weights.sizes() == sums.sizes().slice(0, 3) && weights.is_contiguous() && weights.scalar_type() == at::kFloat,
              "mednextv2: weights must be contiguous float32, ", sums.sizes().slice(0, 3));
  TORCH_CHECK(low.size() == 3 && high.size() == 3 && share.size() == 3, "mednextv2: taps are for three axes");
  TORCH_CHECK(paint.empty() || ((int64_t)paint.size() == sums.size(3) && sums.size(3) <= MOST_REGIONS),
              "mednextv2: ", paint.size(), " labels of regions for ", sums.size(3), " outputs");
  Labels l{};
  l.channels = sums.size(3), l.sums = sums.data_ptr(), l.half = type == at::kHalf, l.weights = weights.data_ptr<float>();
  for (int axis = 0; axis < 3; axis++) {
    const int64_t n = low[axis].numel(), size = sums.size(axis);
    l.grid[axis] = size, l.target[axis] = n;
    for (const Tensor* t : {&low[axis], &high[axis]})
      TORCH_CHECK(t->scalar_type() == at::kLong && t->is_contiguous() && t->numel() == n &&
                      (n == 0 || (t->min().item<int64_t>() >= 0 && t->max().item<int64_t>() < size)),
                  "mednextv2: taps of axis ", axis, " must be contiguous int64 from 0 to ", size - 1);
    TORCH_CHECK(share[axis].scalar_type() == at::kFloat && share[axis].is_contiguous() && share[axis].numel() == n,
                "mednextv2: shares of axis ", axis, " must be contiguous float32");
    l.low[axis] = low[axis].data_ptr<int64_t>(), l.high[axis] = high[axis].data_ptr<int64_t>();
    l.share[axis] = share[axis].data_ptr<float>();
  }
  l.paint = paint.empty() ? nullptr : paint.data();
  Tensor codes = at::empty(weights.sizes(), at::TensorOptions().dtype(at::kInt));
  Tensor found = at::empty({l.target[0], l.target[1], l.target[2]}, at::TensorOptions().dtype(wide ? at::kShort : at::kByte));
  if (found.numel() == 0) return found;
  l.codes = codes.data_ptr<int32_t>(), l.labels = found.data_ptr(), l.wide = wide;
  at::parallel_for(0, codes.numel(), VOXELS, [&](int64_t begin, int64_t end) { labels_codes(l, begin, end); });
  at::parallel_for(0, l.target[0] * l.target[1], VOXELS / l.target[2] + 1, [&](int64_t begin, int64_t end) {
    std::vector<float> room(labels_scratch_bytes(l) / sizeof(float) + 1);
    labels_lines(l, begin, end, room.data());
  });
  return found;
}

}  // namespace
