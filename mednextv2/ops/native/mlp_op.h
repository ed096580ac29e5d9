// The folded MLP of a batch, forward and backward: the steps between its passes over the chunks of rows.
#pragma once
#include "dispatch.h"

namespace {

// The expanded rows of one sample between GRN's norms and the compression are kept if that costs less than computing
// them again: if they fit in the last-level cache, with so many channels that the product takes longer than the memory.
// With AMX tiles, this is hardly ever so.
bool keeps(const Kernels& kernels, int64_t channels, int64_t bytes) {
  if (&kernels == amx_kernels(BFLOAT16)) return bytes <= 4 << 20;
  return bytes <= (channels < 64 ? 8 << 20 : 32 << 20);
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

// The arguments of both passes over a batch, and the pointers for the current sample.
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

  // Rows per chunk: few enough to keep the expanded rows in the second-level cache, and all workers busy.
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
    if (P == 1) {  // the norm of a single voxel is constant; a difference of rounded numbers is not quite zero
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

}  // namespace
