// The operators mednextv2_native::*: they check and pack what torch hands over and share out the work on its threads.
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

// Whether the processor has AMX tiles for bfloat16, and Linux lets this process use them: their state is big, and a
// process gets room for it when it asks.
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
  const char* limit = std::getenv("MEDNEXTV2_ISA");  // the name of a set: not beyond it, for tests and comparisons
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

// The expanded rows of one sample between GRN's norms and the compression are kept where that costs less than to make
// them again: in the cache of last level, and with so many channels that the product takes longer than the memory.
// With tiles it hardly ever does.
bool keeps(const Kernels& kernels, int64_t channels, int64_t bytes) {
  if (&kernels == amx_kernels(BFLOAT16)) return bytes <= 4 << 20;
  return bytes <= (channels < 64 ? 8 << 20 : 32 << 20);
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

// Share out [0, n) among torch's threads; f(worker, begin, end).
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

double dot(const float* a, const float* b, int64_t n) {  // float sums of 64 products, which the compiler can vectorise
  double total = 0;
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    float part[16] = {0};
    for (int64_t j = 0; j < 64; j += 16)
      for (int64_t l = 0; l < 16; l++) part[l] += a[i + j + l] * b[i + j + l];
    for (float p : part) total += p;
  }
  for (; i < n; i++) total += (double)a[i] * b[i];
  return total;
}

struct Mlp {
  const Kernels& kernels;
  Tensor y;
  Floats mean, variance, norm_weight, norm_bias, w1, b1, w2, b2;
  optional<Floats> gamma, beta;
  double norm_eps, grn_eps;
  bool grn_sum;
  int64_t N, P, C, E, O;
  MlpSample sample{};
  std::vector<float> m, r, a, shift, b1p, b2p;

  Mlp(const Tensor& y_, const Tensor& mean_, const Tensor& variance_, const Tensor& nw, const Tensor& nb, const Tensor& w1_,
      const Tensor& b1_, const optional<Tensor>& gamma_, const optional<Tensor>& beta_, const Tensor& w2_,
      const Tensor& b2_, double norm_eps_, double grn_eps_, bool grn_sum_)
      : kernels(kernels_for(y_)), y(y_), mean(mean_), variance(variance_), norm_weight(nw), norm_bias(nb), w1(w1_), b1(b1_),
        w2(w2_), b2(b2_), norm_eps(norm_eps_), grn_eps(grn_eps_), grn_sum(grn_sum_) {
    check(y, "y", y);
    N = y.size(0), C = y.size(1), P = y[0].numel() / C, E = w1_.size(0), O = w2_.size(0);
    TORCH_CHECK(w1_.size(1) == C && w2_.size(1) == E, "mednextv2: weights do not fit the ", C, " channels of y");
    if (gamma_) gamma.emplace(*gamma_);
    if (beta_) beta.emplace(*beta_);
    sample.voxels = P, sample.channels = C, sample.width = E, sample.out_channels = O;
  }

  // Rows a chunk: what keeps the expanded rows in the second-level cache, and all workers busy.
  void set_chunk(bool backward) {
    const int64_t bytes = (E * (backward ? 2 : 1) + C + O) * kernels.element;
    const int64_t cache = std::max<int64_t>(256 * 1024 / bytes, 24), share = ceil_div(P, workers());
    sample.chunk = round_up(std::min({cache, share, (int64_t)MOST_ROWS}), kernels.rows);
  }
  int64_t chunks() const { return ceil_div(P, sample.chunk); }

  void select(int64_t n) {  // the sample whose pointers `sample` has
    const int64_t wide = round_up(C, 2 * kernels.vector);
    const auto size = y.element_size();
    sample.y = (const char*)y.data_ptr() + n * P * C * size;
    m.assign(wide, 0), r.assign(wide, 0), a.assign(wide, 0);
    for (int64_t c = 0; c < C; c++) {
      m[c] = mean.data[n * C + c];
      r[c] = 1.0 / std::sqrt((double)variance.data[n * C + c] + norm_eps);
      a[c] = norm_weight.data[c] * r[c];
    }
    shift = padded(norm_bias.data, C, wide);
    b1p = padded(b1.data, E, round_up(E, 2 * kernels.vector));
    sample.mean = m.data(), sample.rstd = r.data(), sample.scale = a.data(), sample.shift = shift.data();
    sample.b1 = b1p.data();
  }

  // GRN's scale s = 1 + gamma g / d, padded.
  std::vector<float> response(const float* g, double* denominator) const {
    double d = 0;
    for (int64_t e = 0; e < E; e++) d += g[e];
    d = (grn_sum ? d : d / E) + grn_eps;
    std::vector<float> s(round_up(E, 2 * kernels.vector), 0.0f);
    for (int64_t e = 0; e < E; e++) s[e] = 1.0 + gamma->data[e] * (g[e] / d);
    *denominator = d;
    return s;
  }
};

std::tuple<Tensor, Tensor> mlp_forward(
    const Tensor& y, const Tensor& mean, const Tensor& variance, const Tensor& norm_weight, const Tensor& norm_bias,
    const Tensor& w1, const Tensor& b1, const optional<Tensor>& gamma, const optional<Tensor>& beta, const Tensor& w2,
    const Tensor& b2, const optional<Tensor>& residual, double norm_eps, double grn_eps, bool grn_sum) {
  Mlp mlp(y, mean, variance, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, norm_eps, grn_eps, grn_sum);
  const Kernels& k = mlp.kernels;
  const int64_t N = mlp.N, C = mlp.C, E = mlp.E, O = mlp.O, P = mlp.P, size = y.element_size();
  if (residual) check(*residual, "residual", y);
  auto shape = y.sizes().vec();
  shape[1] = O;
  Tensor out = empty_channels_last(shape, y);
  Tensor g = at::empty({N, gamma ? E : 0}, y.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous));
  if (y.numel() == 0) return {out, g};
  Tensor packed1 = packed(k, mlp.w1, 1, mlp.C, mlp.C, E), packed2 = packed(k, mlp.w2, 1, E, E, O);
  MlpSample& s = mlp.sample;
  s.w1 = packed1.data_ptr(), s.w2 = packed2.data_ptr();
  mlp.set_chunk(false);
  const int64_t bytes = round_up(k.scratch_bytes(s, false), 64);
  Tensor room = scratch(bytes * workers() + 64);
  auto own = [&](int64_t worker) { return (char*)room.data_ptr() + worker * bytes; };
  const int64_t kept = P * round_up(E, 2 * k.vector) * k.element;
  Tensor h = scratch(gamma && keeps(k, C, kept) ? kept : 0);
  s.kept = h.numel() ? h.data_ptr() : nullptr;
  for (int64_t n = 0; n < N; n++) {
    mlp.select(n);
    s.out = (char*)out.data_ptr() + n * P * O * size;
    s.residual = residual ? (const char*)residual->data_ptr() + n * P * O * size : nullptr;
    std::vector<float> response;
    mlp.b2p = padded(mlp.b2.data, O, round_up(O, 2 * k.vector));
    if (gamma) {
      std::vector<double> squares(workers() * E, 0.0);
      share(mlp.chunks(), [&](int64_t w, int64_t begin, int64_t end) {
        k.mlp_squares(s, begin, end, own(w), squares.data() + w * E);
      });
      float* gn = g.data_ptr<float>() + n * E;
      for (int64_t e = 0; e < E; e++) {
        double total = 0;
        for (int64_t w = 0; w < workers(); w++) total += squares[w * E + e];
        gn[e] = std::sqrt(total);
      }
      double d;
      response = mlp.response(gn, &d);
      if (beta)
        at::parallel_for(0, O, 8, [&](int64_t begin, int64_t end) {
          for (int64_t o = begin; o < end; o++) mlp.b2p[o] += dot(mlp.w2.data + o * E, mlp.beta->data, E);
        });
    }
    s.response = gamma ? response.data() : nullptr;
    s.b2 = mlp.b2p.data();
    share(mlp.chunks(), [&](int64_t w, int64_t begin, int64_t end) { k.mlp_output(s, begin, end, own(w)); });
  }
  return {out, g};
}

template <class T> void add_up(T* total, const T* parts, int64_t count, int64_t size) {  // over workers, in parallel
  at::parallel_for(0, size, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t w = 0; w < count; w++)
      for (int64_t i = begin; i < end; i++) total[i] += parts[w * size + i];
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mlp_backward(
    const Tensor& grad, const Tensor& y, const Tensor& mean, const Tensor& variance, const Tensor& norm_weight,
    const Tensor& norm_bias, const Tensor& w1, const Tensor& b1, const optional<Tensor>& gamma,
    const optional<Tensor>& beta, const Tensor& w2, const Tensor& b2, const Tensor& g, double norm_eps, double grn_eps,
    bool grn_sum) {
  Mlp mlp(y, mean, variance, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, norm_eps, grn_eps, grn_sum);
  const Kernels& k = mlp.kernels;
  check(grad, "grad", y);
  const int64_t N = mlp.N, C = mlp.C, E = mlp.E, O = mlp.O, P = mlp.P, size = y.element_size(), T = workers();
  const auto plain = at::TensorOptions().dtype(at::kFloat);
  Tensor dy = at::empty_like(y), dnw = at::zeros({C}, plain), dnb = at::zeros({C}, plain), dw1 = at::zeros({E, C}, plain),
         db1 = at::zeros({E}, plain), dgamma = at::zeros({gamma ? E : 0}, plain), dbeta = at::zeros({beta ? E : 0}, plain),
         dw2 = at::zeros({O, E}, plain), db2 = at::zeros({O}, plain);
  if (y.numel() == 0) return {dy, dnw, dnb, dw1, db1, dgamma, dbeta, dw2, db2};
  Tensor packed1 = packed(k, mlp.w1, 1, C, C, E), packed2t = packed(k, mlp.w2, E, 1, O, E),
         packed1t = packed(k, mlp.w1, C, 1, E, C);
  MlpSample& s = mlp.sample;
  s.w1 = packed1.data_ptr(), s.w2t = packed2t.data_ptr(), s.w1t = packed1t.data_ptr();
  mlp.set_chunk(true);
  const int64_t bytes = round_up(k.scratch_bytes(s, true), 64);
  Tensor room = scratch(bytes * T + 64);
  auto own = [&](int64_t worker) { return (char*)room.data_ptr() + worker * bytes; };
  const int64_t ec = round_up(C, 2 * k.vector), ee = round_up(E, 2 * k.vector);
  const int64_t g1_size = round_up(C, MOST_TILE_ROWS) * ee, g2_size = round_up(O, MOST_TILE_ROWS) * ee;
  Tensor g1 = at::zeros({T, g1_size}, plain), g2 = at::empty({T, g2_size}, plain);
  std::vector<double> du(T * E, 0.0);
  for (int64_t n = 0; n < N; n++) {
    mlp.select(n);
    s.grad = (const char*)grad.data_ptr() + n * P * O * size;
    s.dy = (char*)dy.data_ptr() + n * P * C * size;
    std::vector<double> d_sum(T * O, 0.0), dy_sum(T * C, 0.0), dy_y(T * C, 0.0);
    std::vector<float> response, feedback(ee, 0.0f);
    g2.zero_();
    float* g2_data = g2.data_ptr<float>();
    s.response = s.feedback = nullptr;
    if (gamma) {
      share(mlp.chunks(), [&](int64_t w, int64_t begin, int64_t end) {
        k.mlp_products(s, begin, end, own(w), g2_data + w * g2_size, d_sum.data() + w * O);
      });
      add_up(g2_data, g2_data + g2_size, T - 1, g2_size);
      const float* gn = g.data_ptr<float>() + n * E;
      double d, shared = 0;
      response = mlp.response(gn, &d);
      std::vector<double> ds(E, 0.0);
      at::parallel_for(0, E, 256, [&](int64_t begin, int64_t end) {
        for (int64_t o = 0; o < O; o++)
          for (int64_t e = begin; e < end; e++) ds[e] += (double)mlp.w2.data[o * E + e] * g2_data[o * ee + e];
      });
      for (int64_t e = 0; e < E; e++) {
        dgamma.data_ptr<float>()[e] += ds[e] * gn[e] / d;
        ds[e] *= mlp.gamma->data[e];  // now the gradient of n = g / d
        shared += ds[e] * gn[e];
      }
      shared /= grn_sum ? d * d : d * d * E;
      for (int64_t e = 0; e < E; e++) feedback[e] = gn[e] > 0 ? (ds[e] / d - shared) / gn[e] : 0.0;
      s.response = response.data(), s.feedback = feedback.data();
    }
    share(mlp.chunks(), [&](int64_t w, int64_t begin, int64_t end) {
      k.mlp_gradients(s, begin, end, own(w), g1.data_ptr<float>() + w * g1_size, gamma ? nullptr : g2_data + w * g2_size,
                      d_sum.data() + w * O, du.data() + w * E, dy_sum.data() + w * C, dy_y.data() + w * C);
    });
    if (!gamma) add_up(g2_data, g2_data + g2_size, T - 1, g2_size);
    for (int64_t o = 0; o < O; o++) {
      for (int64_t w = 1; w < T; w++) d_sum[o] += d_sum[w * O + o];
      db2.data_ptr<float>()[o] += d_sum[o];
    }
    float* dw2_data = dw2.data_ptr<float>();
    at::parallel_for(0, O, 8, [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; o++)
        for (int64_t e = 0; e < E; e++)
          dw2_data[o * E + e] += g2_data[o * ee + e] * (gamma ? response[e] : 1.0f) +
                                 (beta ? (float)d_sum[o] * mlp.beta->data[e] : 0.0f);
    });
    if (beta)
      at::parallel_for(0, E, 256, [&](int64_t begin, int64_t end) {
        for (int64_t o = 0; o < O; o++)
          for (int64_t e = begin; e < end; e++) dbeta.data_ptr<float>()[e] += mlp.w2.data[o * E + e] * (float)d_sum[o];
      });
    std::vector<float> offset(ec, 0.0f), slope(ec, 0.0f);
    for (int64_t c = 0; c < C; c++) {
      for (int64_t w = 1; w < T; w++) dy_sum[c] += dy_sum[w * C + c], dy_y[c] += dy_y[w * C + c];
      dnb.data_ptr<float>()[c] += dy_sum[c];
      dnw.data_ptr<float>()[c] += dy_y[c];
      offset[c] = -mlp.a[c] * dy_sum[c] / P;
      slope[c] = -mlp.a[c] * mlp.r[c] * dy_y[c] / P;
    }
    if (P == 1) {  // the norm of one voxel is constant; a difference of rounded numbers is not quite
      std::memset(s.dy, 0, C * size);
      continue;
    }
    share(P, [&](int64_t, int64_t begin, int64_t end) { k.mlp_finish(s, begin, end, offset.data(), slope.data()); });
  }
  float* g1_data = g1.data_ptr<float>();
  add_up(g1_data, g1_data + g1_size, T - 1, g1_size);
  at::parallel_for(0, E, 64, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; e++) {
      for (int64_t c = 0; c < C; c++) dw1.data_ptr<float>()[e * C + c] = g1_data[c * ee + e];
      for (int64_t w = 0; w < T; w++) db1.data_ptr<float>()[e] += du[w * E + e];
    }
  });
  return {dy, dnw, dnb, dw1, db1, dgamma, dbeta, dw2, db2};
}

// The geometry of a convolution; `big` and `small` are `(N, C, *spatial)` tensors.
Convolution describe(const Tensor& big, const Tensor& small, const Tensor& weight, int64_t stride, bool up) {
  Convolution c{};
  c.samples = big.size(0), c.channels = big.size(1), c.stride = stride, c.up = up;
  const int64_t flat = big.dim() == 4 ? 1 : 0;  // an image is a volume of one plane
  for (int64_t i = 0; i < 3; i++) {
    c.big[i] = i < flat ? 1 : big.size(2 + i - flat);
    c.small[i] = i < flat ? 1 : small.size(2 + i - flat);
    c.kernel[i] = i < flat ? 1 : weight.size(2 + i - flat);
  }
  return c;
}

// Weights as (taps, channels padded), turned around where asked for.
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
  if (need_x) {  // the adjoint: to the grid of x
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

std::string instructions() {
  const char* names[] = {"AVX2", "AVX-512", "AVX-512 with bfloat16", "AMX with bfloat16"};
  return names[instruction_set];
}

}  // namespace

TORCH_LIBRARY(mednextv2_native, m) {
  m.def("instructions() -> str", &instructions);
  m.def(
      "mlp(Tensor y, Tensor mean, Tensor variance, Tensor norm_weight, Tensor norm_bias, Tensor w1, Tensor b1, "
      "Tensor? gamma, Tensor? beta, Tensor w2, Tensor b2, Tensor? residual, float norm_eps, float grn_eps, bool grn_sum) "
      "-> (Tensor, Tensor)");
  m.def(
      "mlp_backward(Tensor grad, Tensor y, Tensor mean, Tensor variance, Tensor norm_weight, Tensor norm_bias, Tensor w1, "
      "Tensor b1, Tensor? gamma, Tensor? beta, Tensor w2, Tensor b2, Tensor g, float norm_eps, float grn_eps, "
      "bool grn_sum) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("depthwise(Tensor x, Tensor weight, Tensor? bias, int stride, bool transposed) -> (Tensor, Tensor, Tensor)");
  m.def(
      "depthwise_backward(Tensor grad, Tensor x, Tensor weight, int stride, bool transposed, bool need_x, "
      "Tensor? onto) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(mednextv2_native, CPU, m) {
  m.impl("mlp", &mlp_forward);
  m.impl("mlp_backward", &mlp_backward);
  m.impl("depthwise", &depthwise_forward);
  m.impl("depthwise_backward", &depthwise_backward);
}
