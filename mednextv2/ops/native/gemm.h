// Products of row-major chunks of rows with packed weights, and of two chunks over their rows.
//
// Packed weights B (K x N): panels of 2 V columns (the last one V if that is enough, except for AMX), K rows each; for
// bfloat16 products, two rows of K are interleaved, as the instructions need them.
#pragma once

template <class T> struct Operand;  // the type of the factors of products

#if defined(MN_AMX)
static const int ROWS = 32, T_ROWS = 32;  // two by two AMX tiles
static const int NARROWEST = 2;           // vectors of a panel
#elif defined(MN_AVX512)
static const int ROWS = 12, T_ROWS = 8;  // rows of a tile: 24 of 32 registers are sums
static const int NARROWEST = 1;
#else
static const int ROWS = 6, T_ROWS = 4;
static const int NARROWEST = 1;
#endif

MN_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
MN_INLINE int64_t at_most(int64_t n, int64_t limit) { return n < limit ? n : limit; }

template <> struct Operand<float> {
  static const int GROUP = 1;  // number of rows of K that are interleaved
  static const int DEPTH = 1;  // rows of K of one product: K is padded to a multiple
  MN_INLINE vf gelu(vf u) { return gelu_exact(u); }
  MN_INLINE Activated gelu_slope(vf u) { return gelu_exact_slope(u); }
  // V groups of rows of K that belong together, as V words of 32 bits; and such words of V columns into a panel
  MN_INLINE vf load_group(const float* p) { return load(p); }
  MN_INLINE void store_group(float* panel_row, int64_t n, vf words) { store(panel_row + n, words); }
  MN_INLINE void store_packed(float* panel_row, int64_t n, vf row, vf) { store(panel_row + n, row); }
  template <int NV> MN_INLINE void tile(const float* a, int64_t lda, const float* b, int64_t k, vf sum[ROWS][NV]) {
    for (int64_t j = 0; j < k; j++, b += NV * V) {
      vf column[NV];
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) column[v] = load(b + v * V);
#pragma GCC unroll 12
      for (int i = 0; i < ROWS; i++) {
        vf factor = set1(a[i * lda + j]);
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) sum[i][v] = fma(factor, column[v], sum[i][v]);
      }
    }
  }
  // sum[i][v] += over p: x[p][i] * y[p][v]
  template <int NV>
  MN_INLINE void outer(const float* x, int64_t ldx, const float* y, int64_t ldy, int64_t rows, vf sum[T_ROWS][NV]) {
    for (int64_t p = 0; p < rows; p++, x += ldx, y += ldy) {
      vf column[NV];
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) column[v] = load(y + v * V);
#pragma GCC unroll 8
      for (int i = 0; i < T_ROWS; i++) {
        vf factor = set1(x[i]);
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) sum[i][v] = fma(factor, column[v], sum[i][v]);
      }
    }
  }
  // position of (row p, column n) in a chunk whose rows are summed
  MN_INLINE int64_t paired(int64_t p, int64_t n, int64_t ld) { return p * ld + n; }
  MN_INLINE void store_pair(float* chunk, int64_t p, int64_t n, int64_t ld, vf even, vf odd) {
    store(chunk + p * ld + n, even);
    store(chunk + (p + 1) * ld + n, odd);
  }
};

#if defined(MN_BF16)
template <> struct Operand<bf16> {
  static const int GROUP = 2;
#if defined(MN_AMX)
  static const int DEPTH = 32;
#else
  static const int DEPTH = 2;
#endif
  MN_INLINE __m512bh pairs(const bf16* p) { return (__m512bh)_mm512_loadu_si512(p); }
  MN_INLINE __m512bh broadcast(const bf16* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return (__m512bh)_mm512_set1_epi32(pair);
  }
  MN_INLINE vf gelu(vf u) { return gelu_rough(u); }
  MN_INLINE Activated gelu_slope(vf u) { return gelu_rough_slope(u); }
  MN_INLINE vf load_group(const float* p) { return (vf)_mm512_cvtne2ps_pbh(load(p + V), load(p)); }
  MN_INLINE void store_group(bf16* panel_row, int64_t n, vf words) { _mm512_storeu_ps(panel_row + 2 * n, words); }
  MN_INLINE void store_packed(bf16* panel_row, int64_t n, vf even, vf odd) { store_pair(panel_row, 0, n, 0, even, odd); }
  template <int NV> MN_INLINE void tile(const bf16* a, int64_t lda, const bf16* b, int64_t k, vf sum[ROWS][NV]) {
    for (int64_t j = 0; j < k; j += 2, b += 2 * NV * V) {
      __m512bh column[NV];
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) column[v] = pairs(b + v * 2 * V);
#pragma GCC unroll 12
      for (int i = 0; i < ROWS; i++) {
        __m512bh factor = broadcast(a + i * lda + j);
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], factor, column[v]);
      }
    }
  }
  template <int NV>
  MN_INLINE void outer(const bf16* x, int64_t ldx, const bf16* y, int64_t ldy, int64_t rows, vf sum[T_ROWS][NV]) {
    for (int64_t p = 0; p < rows; p += 2, x += 2 * ldx, y += 2 * ldy) {
      __m512bh column[NV];
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) column[v] = pairs(y + v * 2 * V);
#pragma GCC unroll 8
      for (int i = 0; i < T_ROWS; i++) {
        __m512bh factor = broadcast(x + 2 * i);
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], factor, column[v]);
      }
    }
  }
  MN_INLINE int64_t paired(int64_t p, int64_t n, int64_t ld) { return (p / 2 * ld + n) * 2; }
  MN_INLINE void store_pair(bf16* chunk, int64_t p, int64_t n, int64_t ld, vf even, vf odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
    _mm512_storeu_si512(chunk + paired(p, n, ld), _mm512_permutexvar_epi16(order, both));
  }
};
#endif

// n floats, `stride` apart, followed by zeros.
MN_INLINE vf load_strided(const float* p, int64_t stride, int64_t n) {
  if (stride == 1) return load_upto(p, n);
  float part[V] = {0};
  for (int64_t i = 0; i < at_most(n, V); i++) part[i] = p[i * stride];
  return load(part);
}

// Columns of the panel at column n of N, in vectors.
MN_INLINE int panel_vectors(int64_t n, int64_t columns) { return columns - n > V ? 2 : NARROWEST; }

// Rows (row-major) and a panel that are multiplied and summed over `depth`, and the start of the sums (null: zero).
template <class T> struct Factors {
  const T* rows;
  int64_t stride;
  const T* panel;
  int64_t depth;
  const float* bias;
};

#if defined(MN_AMX)
#include "amx.h"
#else
struct Tiles {  // nothing has to be set up before products
  Tiles() {}
};

template <int NV, class T, class Use> MN_INLINE void panel_product(const Factors<T>& f, int64_t rows, Use use) {
  vf start[NV];
  for (int v = 0; v < NV; v++) start[v] = f.bias ? load(f.bias + v * V) : zero();
  for (int64_t r = 0; r < rows; r += ROWS) {
    vf sum[ROWS][NV];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) sum[i][v] = start[v];
    }
    Operand<T>::template tile<NV>(f.rows + r * f.stride, f.stride, f.panel, f.depth, sum);
    use(r, sum);
  }
}

// For every tile: use(first row, sums). NV vectors wide.
template <int NV, class T, class Use>
MN_INLINE void panel_products(const Factors<T> (&factors)[1], int64_t rows, Use use) {
  panel_product<NV>(factors[0], rows, use);
}

// For every tile: use(first row, sums of the first product, of the second). The first are in memory, since registers
// have no room for both.
template <int NV, class T, class Use>
MN_INLINE void panel_products(const Factors<T> (&factors)[2], int64_t rows, Use use) {
  panel_product<NV>(factors[0], rows, [&](int64_t r, vf (&sum)[ROWS][NV]) {
    vf first[ROWS][NV];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) first[i][v] = sum[i][v];
    }
    Factors<T> second = factors[1];
    second.rows += r * second.stride;
    panel_product<NV>(second, ROWS, [&](int64_t, vf (&t)[ROWS][NV]) { use(r, first, t); });
  });
}

// c (M rounded up to T_ROWS rows x ldc) += x^T y over `rows` rows of two chunks in paired order.
template <int NV, class T>
static void outer_panel(const T* x, int64_t ldx, int64_t m, const T* y, int64_t ldy, int64_t rows, float* c, int64_t ldc) {
  for (int64_t i0 = 0; i0 < m; i0 += T_ROWS) {
    vf sum[T_ROWS][NV];
#pragma GCC unroll 8
    for (int i = 0; i < T_ROWS; i++) {
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) sum[i][v] = load(c + (i0 + i) * ldc + v * V);
    }
    Operand<T>::template outer<NV>(x + Operand<T>::paired(0, i0, ldx), ldx, y, ldy, rows, sum);
#pragma GCC unroll 8
    for (int i = 0; i < T_ROWS; i++) {
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) store(c + (i0 + i) * ldc + v * V, sum[i][v]);
    }
  }
}

template <class T>
static void outer_product(const T* x, int64_t ldx, int64_t m, const T* y, int64_t ldy, int64_t n, int64_t rows, float* c,
                          int64_t ldc) {
  for (int64_t j = 0; j < n; j += 2 * V) {
    const T* column = y + Operand<T>::paired(0, j, ldy);
    if (panel_vectors(j, n) == 2) outer_panel<2>(x, ldx, m, column, ldy, rows, c + j, ldc);
    else outer_panel<1>(x, ldx, m, column, ldy, rows, c + j, ldc);
  }
}

#endif

template <class T> static int64_t packed_elements(int64_t k, int64_t n) {
  return round_up(k, Operand<T>::DEPTH) * round_up(n, 2 * V);
}

template <class T>
static void pack(const float* source, int64_t sk, int64_t sn, int64_t k, int64_t n, int64_t begin, int64_t end, void* to) {
  const int64_t padded = round_up(k, Operand<T>::DEPTH);
  for (int64_t n0 = begin; n0 < end; n0 += 2 * V) {
    const int64_t columns = panel_vectors(n0, n) * V;
    for (int64_t v = 0; v < columns; v += V) {
      const int64_t left = n - n0 - v;  // zeros if negative
      const float* from = source + (n0 + v) * sn;
      int64_t done = 0;
      if (sk == 1 && left >= V)  // columns of B are rows of the source, so squares of it are transposed
        for (; done + Operand<T>::GROUP * V <= k; done += Operand<T>::GROUP * V) {
          vf square[V];
#pragma GCC unroll 16
          for (int j = 0; j < V; j++) square[j] = Operand<T>::load_group(from + j * sn + done);
          transpose(square);
#pragma GCC unroll 16
          for (int j = 0; j < V; j++)
            Operand<T>::store_group((T*)to + n0 * padded + (done + j * Operand<T>::GROUP) * columns, v, square[j]);
        }
      auto row = [&](int64_t i) { return i < k && left > 0 ? load_strided(from + i * sk, sn, left) : zero(); };
      for (int64_t i = done; i < padded; i += Operand<T>::GROUP)
        Operand<T>::store_packed((T*)to + n0 * padded + i * columns, v, row(i), Operand<T>::GROUP > 1 ? row(i + 1) : zero());
    }
  }
}
