// Linear interpolation of logits and the decision on labels, in one pass that never stores an interpolated logit.
// It is limited by memory, so there is one version for all processors, with AVX2. Only C headers are included, as
// in kernels_avx2.cpp.
#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#include "labels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define MN_AVX2
namespace labels_avx2 {
#include "simd.h"

struct half {  // float16, storage only
  uint16_t bits;
};
MN_INLINE vf load(const half* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
MN_INLINE float value(const float* p) { return *p; }
MN_INLINE float value(const half* p) { return _cvtsh_ss(p->bits); }

static const int32_t MIXED = -1;  // voxels around a place have different decisions

// Call f(c) for vectors of channels, until all n are covered. If V does not divide n, the last two vectors overlap;
// with fewer than V channels there is one vector, which reads beyond them.
template <class F> MN_INLINE void each_vector(int64_t n, const F& f) {
  int64_t c = 0;
  for (; c + V <= n; c += V) f(c);
  if (c < n) f(n > V ? n - V : 0);
}

// The channel of the largest value, the first among equals; 0 if none is above minus infinity. `values(c)` are those
// of the channels from c on.
template <class F> MN_INLINE int32_t largest(int64_t n, const F& values) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  vf best = set1(-INFINITY);
  __m256i where = _mm256_setzero_si256();
  each_vector(n, [&](int64_t c) __attribute__((always_inline)) {
    const vf v = values(c), larger = _mm256_cmp_ps(v, best, _CMP_GT_OQ);  // false if v is NaN
    best = _mm256_blendv_ps(best, v, larger);
    where = _mm256_blendv_epi8(where, _mm256_add_epi32(lanes, _mm256_set1_epi32((int)c)), _mm256_castps_si256(larger));
  });
  vf most = vmax(best, _mm256_permute2f128_ps(best, best, 1));
  most = vmax(most, _mm256_shuffle_ps(most, most, 0x4e));
  most = vmax(most, _mm256_shuffle_ps(most, most, 0xb1));
  int equal = _mm256_movemask_ps(_mm256_cmp_ps(best, most, _CMP_EQ_OQ));
  int32_t channels[V];
  _mm256_storeu_si256((__m256i*)channels, where);
  int32_t first = channels[__builtin_ctz(equal)];
  for (equal &= equal - 1; equal; equal &= equal - 1) {
    const int32_t other = channels[__builtin_ctz(equal)];
    first = other < first ? other : first;
  }
  return first;
}

// A bit for each of n outputs whose value is above 0.
template <class F> MN_INLINE int32_t above_zero(int64_t n, const F& values) {
  uint32_t bits = 0;
  each_vector(n, [&](int64_t c) __attribute__((always_inline)) {
    bits |= (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(values(c), zero(), _CMP_GT_OQ)) << c;
  });
  return (int32_t)(bits & ((1u << n) - 1));
}

template <class F> MN_INLINE int32_t code_of(const Labels& l, const F& values) {
  return l.paint ? above_zero(l.channels, values) : largest(l.channels, values);
}
MN_INLINE int64_t label_of(const Labels& l, int32_t code) {
  if (!l.paint) return code;
  return code ? l.paint[31 - __builtin_clz((uint32_t)code)] : 0;
}

template <class T> static void codes(const Labels& l, int64_t begin, int64_t end) {
  const int64_t n = l.channels;
  for (int64_t voxel = begin; voxel < end; voxel++) {
    const T* row = (const T*)l.sums + voxel * n;
    if (n >= V) {
      l.codes[voxel] = code_of(l, [&](int64_t c) __attribute__((always_inline)) { return load(row + c); });
    } else {
      float part[V];
      for (int c = 0; c < V; c++) part[c] = c < n ? value(row + c) : -INFINITY;
      l.codes[voxel] = code_of(l, [&](int64_t) __attribute__((always_inline)) { return load(part); });
    }
  }
}

MN_INLINE int64_t row_stride(const Labels& l) { return l.channels < V ? V : l.channels; }

// The lines of the grid around a line of labels, up to four, with their weights.
struct Around {
  int count;
  int64_t start[4];  // the first voxel of each
  float share[4];

  MN_INLINE int ends(const Labels& l, int axis, int64_t place, int64_t* at, float* share) {
    const int64_t low = l.low[axis][place], high = l.high[axis][place];
    const float second = l.share[axis][place];
    at[0] = low, at[1] = high, share[0] = 1 - second, share[1] = second;
    if (low != high && second != 0) return 2;
    share[0] = 1;
    return 1;
  }
  static Around line(const Labels& l, int64_t number) {
    int64_t x[2], y[2];
    float wx[2], wy[2];
    const int nx = ends(l, 0, number / l.target[1], x, wx), ny = ends(l, 1, number % l.target[1], y, wy);
    Around around;
    around.count = 0;
    for (int i = 0; i < nx; i++)
      for (int j = 0; j < ny; j++) {
        around.start[around.count] = (x[i] * l.grid[1] + y[j]) * l.grid[2];
        around.share[around.count++] = wx[i] * wy[j];
      }
    return around;
  }
};

// The logits of one place along a line, interpolated across it, into `row`.
template <class T> MN_INLINE void across(const Labels& l, const Around& around, int64_t z, float* row) {
  const T* rows[4];
  float share[4];
  for (int i = 0; i < around.count; i++) {
    const int64_t voxel = around.start[i] + z;
    rows[i] = (const T*)l.sums + voxel * l.channels;
    share[i] = around.share[i] / l.weights[voxel];
  }
  if (l.channels < V) {
    for (int64_t c = 0; c < l.channels; c++) {
      float sum = 0;
      for (int i = 0; i < around.count; i++) sum += share[i] * value(rows[i] + c);
      row[c] = sum;
    }
    return;
  }
  each_vector(l.channels, [&](int64_t c) __attribute__((always_inline)) {
    vf sum = mul(set1(share[0]), load(rows[0] + c));
    for (int i = 1; i < around.count; i++) sum = fma(set1(share[i]), load(rows[i] + c), sum);
    store(row + c, sum);
  });
}

template <class T, class L> static void lines(const Labels& l, int64_t begin, int64_t end, void* scratch) {
  const int64_t depth = l.grid[2], stride = row_stride(l);
  float* rows = (float*)scratch;                       // depth x stride: interpolated across the line, if needed
  int32_t* common = (int32_t*)(rows + depth * stride);  // depth: the decision of all lines around, or MIXED
  uint8_t* ready = (uint8_t*)(common + depth);          // depth: whether the row is ready
  for (int64_t i = 0; i < depth * stride; i++) rows[i] = -INFINITY;
  for (int64_t number = begin; number < end; number++) {
    const Around around = Around::line(l, number);
    for (int64_t z = 0; z < depth; z++) {
      int32_t code = l.codes[around.start[0] + z];
      for (int i = 1; i < around.count; i++) code = l.codes[around.start[i] + z] == code ? code : MIXED;
      common[z] = code, ready[z] = 0;
    }
    L* out = (L*)l.labels + number * l.target[2];
    for (int64_t z = 0; z < l.target[2]; z++) {
      const int64_t low = l.low[2][z], high = l.share[2][z] != 0 ? l.high[2][z] : low;
      int32_t code = common[low];
      if (code == MIXED || common[high] != code) {
        for (int64_t place = low; place <= high; place += high > low ? high - low : 1)
          if (!ready[place]) across<T>(l, around, place, rows + place * stride), ready[place] = 1;
        const float *first = rows + low * stride, *second = rows + high * stride;
        const vf w = set1(l.share[2][z]), v = set1(1 - l.share[2][z]);
        code = high == low
                   ? code_of(l, [&](int64_t c) __attribute__((always_inline)) { return load(first + c); })
                   : code_of(l, [&](int64_t c) __attribute__((always_inline)) {
                       return fma(load(second + c), w, mul(load(first + c), v));
                     });
      }
      out[z] = (L)label_of(l, code);
    }
  }
}

}  // namespace labels_avx2

int64_t labels_scratch_bytes(const Labels& l) {
  return l.grid[2] * (labels_avx2::row_stride(l) * sizeof(float) + sizeof(int32_t) + 1);
}
void labels_codes(const Labels& l, int64_t begin, int64_t end) {
  if (l.half)
    labels_avx2::codes<labels_avx2::half>(l, begin, end);
  else
    labels_avx2::codes<float>(l, begin, end);
}
void labels_lines(const Labels& l, int64_t begin, int64_t end, void* scratch) {
  using namespace labels_avx2;
  if (l.half)
    l.wide ? lines<half, int16_t>(l, begin, end, scratch) : lines<half, uint8_t>(l, begin, end, scratch);
  else
    l.wide ? lines<float, int16_t>(l, begin, end, scratch) : lines<float, uint8_t>(l, begin, end, scratch);
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
