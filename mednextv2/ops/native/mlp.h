// The multilayer perceptron of a block, forward, chunk by chunk.
#pragma once

template <class S, class T> struct MlpForward : Chunks<S, T> {
  typedef Chunks<S, T> Base;
  typedef typename Base::Op Op;
  using typename Base::Scratch;
  using Base::for_chunks;
  using Base::for_panels;
  using Base::load_y;
  using Base::prepare;

  static void squares(const MlpSample& m, int64_t begin, int64_t end, void* scratch, double* total) {
    Tiles tiles;
    Scratch s = prepare(m, false, scratch);
    const int64_t k = round_up(m.channels, Op::DEPTH);
    T* kept = (T*)m.kept;
    for_chunks(m, begin, end, [&](int64_t first_row, int64_t valid, int64_t rows) {
      load_y(m, first_row, valid, rows, s, false);
      for_panels(m.w1, m.channels, m.width, [&](int64_t n, const T* panel, auto width) {
        const int NV = decltype(width)::value;
        vf sum[NV];
        for (int v = 0; v < NV; v++) sum[v] = zero();
        const Factors<T> f[] = {{s.y_rows, s.c, panel, k, m.b1 + n}};
        panel_products<NV>(f, rows, [&]<int STEP>(int64_t r, vf (&u)[STEP][NV]) {
#pragma GCC unroll 12
          for (int i = 0; i < STEP; i++) {
            if (r + i < valid) {
#pragma GCC unroll 2
              for (int v = 0; v < NV; v++) {
                vf h = Op::gelu(u[i][v]);
                sum[v] = fma(h, h, sum[v]);
                if (kept) store(kept + (first_row + r + i) * s.e + n + v * V, h);
              }
            }
          }
        });
        for (int v = 0; v < NV; v++) store(s.sums + n + v * V, sum[v]);
      });
      for (int64_t n = 0; n < m.width; n++) total[n] += s.sums[n];
    });
  }

  // h * s into h_rows, from the expansion
  static void expand_rows(const MlpSample& m, const Scratch& s, int64_t rows) {
    const int64_t k = round_up(m.channels, Op::DEPTH);
    for_panels(m.w1, m.channels, m.width, [&](int64_t n, const T* panel, auto width) {
      const int NV = decltype(width)::value;
      vf scale[NV];
      for (int v = 0; v < NV; v++) scale[v] = m.response ? load(m.response + n + v * V) : set1(1.0f);
      const Factors<T> f[] = {{s.y_rows, s.c, panel, k, m.b1 + n}};
      panel_products<NV>(f, rows, [&]<int STEP>(int64_t r, vf (&u)[STEP][NV]) {
#pragma GCC unroll 12
        for (int i = 0; i < STEP; i++) {
#pragma GCC unroll 2
          for (int v = 0; v < NV; v++) store(s.h_rows + (r + i) * s.e + n + v * V, mul(Op::gelu(u[i][v]), scale[v]));
        }
      });
    });
  }

  // h * s into h_rows, from the kept h; missing rows may contain anything, since they are not written out
  static void scale_rows(const MlpSample& m, const Scratch& s, int64_t first_row, int64_t valid) {
    for (int64_t n = 0; n < round_up(m.width, Op::DEPTH); n += V) {  // with the padding that products need
      const vf scale = load(m.response + n);
      for (int64_t r = 0; r < valid; r++)
        store(s.h_rows + r * s.e + n, mul(load((const T*)m.kept + (first_row + r) * s.e + n), scale));
    }
  }

  static void output(const MlpSample& m, int64_t begin, int64_t end, void* scratch) {
    Tiles tiles;
    Scratch s = prepare(m, false, scratch);
    const int64_t e = round_up(m.width, Op::DEPTH);
    for_chunks(m, begin, end, [&](int64_t first_row, int64_t valid, int64_t rows) {
      if (m.kept) {
        scale_rows(m, s, first_row, valid);
      } else {
        load_y(m, first_row, valid, rows, s, false);
        expand_rows(m, s, rows);
      }
      S* out = (S*)m.out + first_row * m.out_channels;
      const S* residual = m.residual ? (const S*)m.residual + first_row * m.out_channels : nullptr;
      for_panels(m.w2, m.width, m.out_channels, [&](int64_t n, const T* panel, auto width) {
        const int NV = decltype(width)::value;
        const Factors<T> f[] = {{s.h_rows, s.e, panel, e, m.b2 + n}};
        panel_products<NV>(f, rows, [&]<int STEP>(int64_t r, vf (&sum)[STEP][NV]) {
#pragma GCC unroll 12
          for (int i = 0; i < STEP; i++) {
            if (r + i < valid) {
#pragma GCC unroll 2
              for (int v = 0; v < NV; v++) {
                const int64_t place = (r + i) * m.out_channels + n + v * V, left = m.out_channels - n - v * V;
                if (left > 0) {
                  vf o = residual ? add(sum[i][v], load_upto(residual + place, left)) : sum[i][v];
                  store_upto(out + place, o, left);
                }
              }
            }
          }
        });
      });
    });
  }
};
