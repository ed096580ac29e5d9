// Chunks of rows that stay in the cache, for the multilayer perceptron of a block: the expanded rows exist for one chunk at
// a time. S is the type in memory, T that of the products' factors.
#pragma once

template <class S, class T> struct Chunks {
  typedef Operand<T> Op;

  // Buffers of one worker. `*_rows`: row-major, `*_pairs`: in the order in which rows are summed; for float, the
  // two are the same.
  struct Scratch {
    int64_t c, e, o;  // padded widths
    T *y_rows, *y_pairs, *h_rows, *h_pairs, *g_rows, *g_pairs;
    float *sums, *more_sums;
  };

  static int64_t lay_out(const MlpSample& m, bool backward, void* base, Scratch* s) {
    char* next = (char*)base;
    auto take = [&](int64_t bytes) {
      char* here = next;
      next += round_up(bytes, 64);
      return here;
    };
    s->c = round_up(m.channels, 2 * V);
    s->e = round_up(m.width, 2 * V);
    s->o = round_up(m.out_channels, 2 * V);
    const bool twice = backward && Op::GROUP > 1;
    const int64_t n = m.chunk * sizeof(T);
    s->y_rows = (T*)take(n * s->c);
    s->h_rows = (T*)take(n * s->e);
    s->g_rows = (T*)take(backward ? n * s->o : 0);
    s->y_pairs = twice ? (T*)take(n * s->c) : s->y_rows;
    s->h_pairs = twice ? (T*)take(n * s->e) : backward ? (T*)take(n * s->e) : s->h_rows;
    s->g_pairs = twice ? (T*)take(n * s->o) : s->g_rows;
    s->sums = (float*)take((s->e + s->c) * sizeof(float));
    s->more_sums = (float*)take(s->c * sizeof(float));
    return next - (char*)base;
  }

  static int64_t scratch_bytes(const MlpSample& m, bool backward) {
    Scratch s;
    return lay_out(m, backward, nullptr, &s) + 64;
  }

  static Scratch prepare(const MlpSample& m, bool backward, void* base) {
    Scratch s;
    lay_out(m, backward, (void*)round_up((int64_t)base, 64), &s);
    return s;
  }

  // Normalised rows of y in row-major and (if requested) paired order; missing rows and columns are zero.
  static void load_y(const MlpSample& m, int64_t first_row, int64_t valid, int64_t rows, const Scratch& s, bool pairs) {
    const S* y = (const S*)m.y + first_row * m.channels;
    pairs = pairs && Op::GROUP > 1;
    for (int64_t c = 0; c < s.c; c += V) {
      const int64_t left = m.channels - c;
      vf mean = zero(), scale = zero(), shift = zero();
      if (left > 0) {
        mean = load_upto(m.mean + c, left);
        scale = load_upto(m.scale + c, left);
        shift = load_upto(m.shift + c, left);
      }
      for (int64_t r = 0; r < rows; r += 2) {
        vf row[2];
        for (int i = 0; i < 2; i++) {
          row[i] = zero();
          if (r + i < valid && left > 0)
            row[i] = fma(sub(load_upto(y + (r + i) * m.channels + c, left), mean), scale, shift);
          store(s.y_rows + (r + i) * s.c + c, row[i]);
        }
        if (pairs) Op::store_pair(s.y_pairs, r, c, s.c, row[0], row[1]);
      }
    }
  }

  // Call use(n, valid rows, rows) on every chunk in [begin, end).
  template <class Use> MN_INLINE void for_chunks(const MlpSample& m, int64_t begin, int64_t end, Use use) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t valid = at_most(m.chunk, m.voxels - i * m.chunk);
      use(i * m.chunk, valid, round_up(valid, ROWS));
    }
  }

  // Run use.template operator()<NV>(column, panel) on all panels of packed weights.
  template <class Use> MN_INLINE void for_panels(const void* packed, int64_t k, int64_t columns, Use use) {
    const int64_t padded = round_up(k, Op::DEPTH);
    for (int64_t n = 0; n < columns; n += 2 * V) {
      const T* panel = (const T*)packed + n * padded;
      if (panel_vectors(n, columns) == 2) use(n, panel, Width<2>());
      else if constexpr (NARROWEST == 1) use(n, panel, Width<1>());
    }
  }
  template <int NV> struct Width { static const int value = NV; };
};
