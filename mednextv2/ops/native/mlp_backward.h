// The backward pass of the multilayer perceptron, chunk by chunk.
#pragma once

template <class S, class T> struct MlpBackward : Chunks<S, T> {
  typedef Chunks<S, T> Base;
  typedef typename Base::Op Op;
  using typename Base::Scratch;
  using Base::for_chunks;
  using Base::for_panels;
  using Base::load_y;
  using Base::prepare;

  // Rows of the gradient in paired order, and in row-major order if requested; missing rows and columns are zero.
  // Their sums are added to `sums`.
  static void load_grad(const MlpSample& m, int64_t first_row, int64_t valid, int64_t rows, const Scratch& s, bool pairs,
                        bool row_major, double* sums) {
    const S* g = (const S*)m.grad + first_row * m.out_channels;
    for (int64_t c = 0; c < s.o; c += V) {
      const int64_t left = m.out_channels - c;
      vf total = zero();
      for (int64_t r = 0; r < rows; r += 2) {
        vf row[2];
        for (int i = 0; i < 2; i++) {
          row[i] = r + i < valid && left > 0 ? load_upto(g + (r + i) * m.out_channels + c, left) : zero();
          total = add(total, row[i]);
          if (row_major) store(s.g_rows + (r + i) * s.o + c, row[i]);
        }
        if (pairs) Op::store_pair(s.g_pairs, r, c, s.o, row[0], row[1]);
      }
      float part[V];
      store(part, total);
      if (sums)
        for (int64_t i = 0; i < at_most(V, left); i++) sums[c + i] += part[i];
    }
  }

  // The gradient's rows as products need them: in place, if nothing has to be padded.
  static const T* grad_rows(const MlpSample& m, int64_t first_row, int64_t valid, int64_t rows, const Scratch& s) {
    if constexpr (sizeof(S) == sizeof(T)) {
      if (valid == rows && m.out_channels == s.o) return (const T*)m.grad + first_row * m.out_channels;
    }
    load_grad(m, first_row, valid, rows, s, false, true, nullptr);
    return s.g_rows;
  }

  static void products(const MlpSample& m, int64_t begin, int64_t end, void* scratch, float* g2, double* grad_sum) {
    Tiles tiles;
    Scratch s = prepare(m, true, scratch);
    for_chunks(m, begin, end, [&](int64_t first_row, int64_t valid, int64_t rows) {
      load_y(m, first_row, valid, rows, s, false);
      grad_product(m, s, first_row, valid, rows, g2, grad_sum);
    });
  }

  // grad^T h, from normalised rows
  static void grad_product(const MlpSample& m, const Scratch& s, int64_t first_row, int64_t valid, int64_t rows, float* g2,
                           double* grad_sum) {
    load_grad(m, first_row, valid, rows, s, true, false, grad_sum);
    expand_pairs(m, s, rows, round_up(m.channels, Op::DEPTH));
    outer_product(s.g_pairs, s.o, m.out_channels, s.h_pairs, s.e, m.width, rows, g2, round_up(m.width, 2 * V));
  }

  static void gradients(const MlpSample& m, int64_t begin, int64_t end, void* scratch, float* g1, float* g2,
                        double* grad_sum, double* du, double* dy_sum, double* dy_y_sum) {
    Tiles tiles;
    Scratch s = prepare(m, true, scratch);
    const int64_t ke = round_up(m.width, Op::DEPTH);
    for_chunks(m, begin, end, [&](int64_t first_row, int64_t valid, int64_t rows) {
      load_y(m, first_row, valid, rows, s, true);
      if (g2) grad_product(m, s, first_row, valid, rows, g2, grad_sum);
      expanded_gradient(m, s, grad_rows(m, first_row, valid, rows, s), valid, rows);
      for (int64_t n = 0; n < m.width; n++) du[n] += s.sums[n];
      outer_product(s.y_pairs, s.c, m.channels, Op::GROUP > 1 ? s.h_pairs : s.h_rows, s.e, m.width, rows, g1,
                    round_up(m.width, 2 * V));
      input_gradient(m, s, first_row, valid, rows, ke);
      for (int64_t c = 0; c < m.channels; c++) {
        dy_sum[c] += s.sums[c];
        dy_y_sum[c] += s.more_sums[c];
      }
    });
  }

  static void expand_pairs(const MlpSample& m, const Scratch& s, int64_t rows, int64_t k) {
    for_panels(m.w1, m.channels, m.width, [&](int64_t n, const T* panel, auto width) {
      const int NV = decltype(width)::value;
      const Factors<T> f[] = {{s.y_rows, s.c, panel, k, m.b1 + n}};
      panel_products<NV>(f, rows, [&]<int STEP>(int64_t r, vf (&u)[STEP][NV]) {
#pragma GCC unroll 6
        for (int i = 0; i < STEP; i += 2) {
#pragma GCC unroll 2
          for (int v = 0; v < NV; v++)
            Op::store_pair(s.h_pairs, r + i, n + v * V, s.e, Op::gelu(u[i][v]), Op::gelu(u[i + 1][v]));
        }
      });
    });
  }

  // du = (grad * W2 * s + h * k) * GELU'(u) into h_rows (and h_pairs), its sums over rows into sums
  static void expanded_gradient(const MlpSample& m, const Scratch& s, const T* grad, int64_t valid, int64_t rows) {
    const int64_t kc = round_up(m.channels, Op::DEPTH), ko = round_up(m.out_channels, Op::DEPTH);
    for_panels(m.w1, m.channels, m.width, [&](int64_t n, const T* panel, auto width) {
      const int NV = decltype(width)::value;
      vf total[NV], scale[NV], feedback[NV];
      for (int v = 0; v < NV; v++) {
        total[v] = zero();
        scale[v] = m.response ? load(m.response + n + v * V) : set1(1.0f);
        feedback[v] = m.feedback ? load(m.feedback + n + v * V) : zero();
      }
      const Factors<T> f[] = {{s.y_rows, s.c, panel, kc, m.b1 + n}, {grad, s.o, (const T*)m.w2t + n * ko, ko, nullptr}};
      panel_products<NV>(f, rows, [&]<int STEP>(int64_t r, vf (&u)[STEP][NV], vf (&t)[STEP][NV]) {
#pragma GCC unroll 6
        for (int i = 0; i < STEP; i += 2) {
#pragma GCC unroll 2
          for (int v = 0; v < NV; v++) {
            vf pair[2];
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) {
              const Activated h = Op::gelu_slope(u[i + j][v]);
              pair[j] = mul(fma(t[i + j][v], scale[v], mul(h.value, feedback[v])), h.slope);
              if (r + i + j >= valid) pair[j] = zero();
              total[v] = add(total[v], pair[j]);
              store(s.h_rows + (r + i + j) * s.e + n + v * V, pair[j]);
            }
            if (Op::GROUP > 1) Op::store_pair(s.h_pairs, r + i, n + v * V, s.e, pair[0], pair[1]);
          }
        }
      });
      for (int v = 0; v < NV; v++) store(s.sums + n + v * V, total[v]);
    });
  }

  // dy' = du * W1 into dy, its sums into sums[c] and those of dy' times the normalised y into more_sums
  static void input_gradient(const MlpSample& m, const Scratch& s, int64_t first_row, int64_t valid, int64_t rows,
                             int64_t ke) {
    const S* y = (const S*)m.y + first_row * m.channels;
    S* dy = (S*)m.dy + first_row * m.channels;
    for_panels(m.w1t, m.width, m.channels, [&](int64_t n, const T* panel, auto width) {
      const int NV = decltype(width)::value;
      vf total[NV], product[NV], mean[NV], rstd[NV];
      for (int v = 0; v < NV; v++) {
        total[v] = product[v] = mean[v] = rstd[v] = zero();
        if (m.channels > n + v * V) {
          mean[v] = load_upto(m.mean + n + v * V, m.channels - n - v * V);
          rstd[v] = load_upto(m.rstd + n + v * V, m.channels - n - v * V);
        }
      }
      const Factors<T> f[] = {{s.h_rows, s.e, panel, ke, nullptr}};
      panel_products<NV>(f, rows, [&]<int STEP>(int64_t r, vf (&d)[STEP][NV]) {
#pragma GCC unroll 12
        for (int i = 0; i < STEP; i++) {
          if (r + i < valid) {
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++) {
              const int64_t place = (r + i) * m.channels + n + v * V, left = m.channels - n - v * V;
              if (left > 0) {
                vf normal = mul(sub(load_upto(y + place, left), mean[v]), rstd[v]);
                total[v] = add(total[v], d[i][v]);
                product[v] = fma(d[i][v], normal, product[v]);
                store_upto(dy + place, d[i][v], left);
              }
            }
          }
        }
      });
      for (int v = 0; v < NV; v++) {
        store(s.sums + n + v * V, total[v]);
        store(s.more_sums + n + v * V, product[v]);
      }
    });
  }

  static void finish(const MlpSample& m, int64_t begin, int64_t end, const float* offset, const float* slope) {
    for (int64_t c = 0; c < m.channels; c += V) {
      const int64_t left = m.channels - c;
      vf mean = load_upto(m.mean + c, left), scale = load_upto(m.scale + c, left);
      vf constant = load_upto(offset + c, left), factor = load_upto(slope + c, left);
      for (int64_t r = begin; r < end; r++) {
        const int64_t place = r * m.channels + c;
        vf normal = sub(load_upto((const S*)m.y + place, left), mean);
        vf d = fma(load_upto((const S*)m.dy + place, left), scale, fma(normal, factor, constant));
        store_upto((S*)m.dy + place, d, left);
      }
    }
  }

  static void column_sums(const void* rows, int64_t begin, int64_t end, int64_t channels, double* sums) {
    const int64_t block = 256;  // rows added up in float
    for (int64_t r0 = begin; r0 < end; r0 += block) {
      const int64_t stop = at_most(r0 + block, end);
      for (int64_t c = 0; c < channels; c += V) {
        vf total = zero();
        for (int64_t r = r0; r < stop; r++) total = add(total, load_upto((const S*)rows + r * channels + c, channels - c));
        float part[V];
        store(part, total);
        for (int64_t i = 0; i < at_most(V, channels - c); i++) sums[c + i] += part[i];
      }
    }
  }
};
