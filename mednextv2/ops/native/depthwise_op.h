// The depthwise convolution of a batch, forward and backward.
#pragma once
#include "dispatch.h"

namespace {

// The geometry of a convolution; `big` and `small` are `(N, C, *spatial)` tensors.
Convolution describe(const Tensor& big, const Tensor& small, const Tensor& weight, int64_t stride, bool up) {
  Convolution c{};
  c.samples = big.size(0), c.channels = big.size(1), c.stride = stride, c.up = up;
  const int64_t flat = big.dim() == 4 ? 1 : 0;  // a 2D image is a volume with one plane
  for (int64_t i = 0; i < 3; i++) {
    c.big[i] = i < flat ? 1 : big.size(2 + i - flat);
    c.small[i] = i < flat ? 1 : small.size(2 + i - flat);
    c.kernel[i] = i < flat ? 1 : weight.size(2 + i - flat);
  }
  return c;
}

// Weights as (taps, padded channels), reversed if requested.
std::vector<float> taps(const Kernels& k, const Floats& weight, int64_t channels, int64_t count, bool turned) {
  const int64_t wide = round_up(channels, k.vector);
  std::vector<float> to(count * wide, 0.0f);
  for (int64_t c = 0; c < channels; c++)
    for (int64_t t = 0; t < count; t++) to[t * wide + c] = weight.data[c * count + (turned ? count - 1 - t : t)];
  return to;
}

int64_t lines(const int64_t size[3], int64_t samples) { return samples * size[0] * size[1]; }

std::tuple<Tensor, Tensor, Tensor> depthwise_forward(const Tensor& x, const Tensor& weight, const optional<Tensor>& bias,
                                                     int64_t stride, bool transposed) {
  check(x, "x", x);
  const Kernels& k = kernels_for(x);
  const int64_t C = x.size(1), N = x.size(0), count = weight[0].numel(), T = workers();
  auto shape = x.sizes().vec();
  for (size_t i = 2; i < shape.size(); i++) {
    const int64_t kernel = weight.size(i), pad = kernel / 2;
    shape[i] = transposed ? stride * (shape[i] - 1) - 2 * pad + kernel : (shape[i] + 2 * pad - kernel) / stride + 1;
  }
  Tensor y = empty_channels_last(shape, x);
  const auto plain = at::TensorOptions().dtype(at::kFloat);
  Tensor mean = at::empty({N, C}, plain), variance = at::empty({N, C}, plain);
  const bool up = transposed && stride > 1;
  Convolution c = describe(up ? y : x, up ? x : y, weight, stride, up);
  Floats w(weight);
  const auto table = taps(k, w, C, count, transposed && stride == 1);
  std::vector<float> b(round_up(C, k.vector), 0.0f);
  if (bias) b = padded(Floats(*bias).data, C, round_up(C, k.vector));
  c.input = x.data_ptr(), c.output = y.data_ptr(), c.weight = table.data(), c.bias = b.data();
  std::vector<double> sums(T * N * C, 0.0), squares(T * N * C, 0.0);
  share(lines(up ? c.big : c.small, N), [&](int64_t worker, int64_t begin, int64_t end) {
    k.depthwise(c, begin, end, sums.data() + worker * N * C, squares.data() + worker * N * C);
  });
  const double voxels = y[0].numel() / C;
  for (int64_t i = 0; i < N * C; i++) {
    double s = 0, q = 0;
    for (int64_t worker = 0; worker < T; worker++) s += sums[worker * N * C + i], q += squares[worker * N * C + i];
    mean.data_ptr<float>()[i] = s / voxels;
    variance.data_ptr<float>()[i] = std::max(0.0, q / voxels - (s / voxels) * (s / voxels));
  }
  return {y, mean, variance};
}

std::tuple<Tensor, Tensor, Tensor> depthwise_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                      int64_t stride, bool transposed, bool need_x,
                                                      const optional<Tensor>& onto) {
  check(x, "x", x);
  check(grad, "grad", x);
  if (onto) check(*onto, "onto", x);
  const Kernels& k = kernels_for(x);
  const int64_t C = x.size(1), N = x.size(0), count = weight[0].numel(), T = workers(), wide = round_up(C, k.vector);
  Floats w(weight);
  const bool up = transposed && stride > 1;
  Tensor dx = need_x ? at::empty_like(x) : at::empty({0}, x.options().memory_format(at::MemoryFormat::Contiguous));
  if (need_x) {  // the adjoint, on the grid of x
    const bool back = !transposed && stride > 1;
    Convolution c = describe(back ? x : grad, back ? grad : x, weight, stride, back);
    const auto table = taps(k, w, C, count, !transposed && stride == 1);
    c.input = grad.data_ptr(), c.output = dx.data_ptr(), c.weight = table.data();
    c.onto = onto ? onto->data_ptr() : nullptr;
    share(lines(back ? c.big : c.small, N), [&](int64_t, int64_t begin, int64_t end) {
      k.depthwise(c, begin, end, nullptr, nullptr);
    });
  }
  const Tensor &big = transposed ? grad : x, &small = transposed ? x : grad;
  Convolution c = describe(big, small, weight, stride, up);
  c.input = big.data_ptr(), c.other = small.data_ptr();
  std::vector<double> gradient(T * count * wide, 0.0), sums(T * C, 0.0);
  std::vector<float> buffer(T * count * wide);
  share(lines(c.small, N), [&](int64_t worker, int64_t begin, int64_t end) {
    k.depthwise_weight(c, begin, end, buffer.data() + worker * count * wide, gradient.data() + worker * count * wide);
  });
  share(N * (grad[0].numel() / C), [&](int64_t worker, int64_t begin, int64_t end) {
    k.column_sums(grad.data_ptr(), begin, end, C, sums.data() + worker * C);
  });
  Tensor dw = at::empty(weight.sizes(), at::TensorOptions().dtype(at::kFloat));
  Tensor db = at::empty({C}, at::TensorOptions().dtype(at::kFloat));
  for (int64_t i = 0; i < C; i++) {
    double b = 0;
    for (int64_t worker = 0; worker < T; worker++) b += sums[worker * C + i];
    db.data_ptr<float>()[i] = b;
    for (int64_t t = 0; t < count; t++) {
      double total = 0;
      for (int64_t worker = 0; worker < T; worker++) total += gradient[(worker * count + t) * wide + i];
      dw.data_ptr<float>()[i * count + t] = total;
    }
  }
  return {dx, dw, db};
}

}  // namespace
