// Vectors of float in the instruction set that the including file has chosen (MN_AVX512 or MN_AVX2), loads and stores
// of float and bfloat16 with them, and GELU. Everything has internal linkage: the same names exist once per
// instruction set, and the linker must not merge them.
#pragma once

#define MN_INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;  // storage only

#if defined(MN_AVX512)
typedef __m512 vf;
static const int V = 16;  // floats in a vector
MN_INLINE vf set1(float a) { return _mm512_set1_ps(a); }
MN_INLINE vf zero() { return _mm512_setzero_ps(); }
MN_INLINE vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
MN_INLINE vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
MN_INLINE vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
MN_INLINE vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
MN_INLINE vf fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
MN_INLINE vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
MN_INLINE vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
MN_INLINE vf vabs(vf a) { return _mm512_abs_ps(a); }
MN_INLINE vf copy_sign(vf magnitude, vf sign) {  // magnitude >= 0
  return _mm512_or_ps(magnitude, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
}
MN_INLINE vf reciprocal(vf a) {  // one Newton step: relative error below 2^-23
  vf r = _mm512_rcp14_ps(a);
  return mul(r, fnma(a, r, set1(2.0f)));
}
MN_INLINE vf exp2_scaled(vf p, vf n) { return _mm512_scalef_ps(p, n); }  // p * 2^n
MN_INLINE vf round_even(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
MN_INLINE __mmask16 first(int64_t n) { return (__mmask16)((1u << n) - 1); }
MN_INLINE vf load(const float* p) { return _mm512_loadu_ps(p); }
MN_INLINE vf load_n(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
MN_INLINE void store(float* p, vf a) { _mm512_storeu_ps(p, a); }
MN_INLINE void store_n(float* p, vf a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a); }
MN_INLINE vf widen(__m256i a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16)); }
MN_INLINE vf load(const bf16* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }
MN_INLINE vf load_n(const bf16* p, int64_t n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
#if defined(MN_BF16)
MN_INLINE __m256i narrow(vf a) { return (__m256i)_mm512_cvtneps_pbh(a); }
#else
MN_INLINE __m256i narrow(vf a) {  // round to nearest even; a NaN stays one
  __m512i bits = _mm512_castps_si512(a);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
#endif
MN_INLINE void store(bf16* p, vf a) { _mm256_storeu_si256((__m256i*)p, narrow(a)); }
MN_INLINE void store_n(bf16* p, vf a, int64_t n) { _mm256_mask_storeu_epi16(p, first(n), narrow(a)); }
#else
typedef __m256 vf;
static const int V = 8;
MN_INLINE vf set1(float a) { return _mm256_set1_ps(a); }
MN_INLINE vf zero() { return _mm256_setzero_ps(); }
MN_INLINE vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
MN_INLINE vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
MN_INLINE vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
MN_INLINE vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
MN_INLINE vf fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
MN_INLINE vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
MN_INLINE vf vabs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
MN_INLINE vf copy_sign(vf magnitude, vf sign) {
  return _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
}
MN_INLINE vf reciprocal(vf a) {  // two Newton steps from 12 bits
  vf r = _mm256_rcp_ps(a);
  r = mul(r, fnma(a, r, set1(2.0f)));
  return mul(r, fnma(a, r, set1(2.0f)));
}
MN_INLINE vf exp2_scaled(vf p, vf n) {  // n is above -127
  return mul(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
}
MN_INLINE vf round_even(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
MN_INLINE __m256i first(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
MN_INLINE vf load(const float* p) { return _mm256_loadu_ps(p); }
MN_INLINE vf load_n(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
MN_INLINE void store(float* p, vf a) { _mm256_storeu_ps(p, a); }
MN_INLINE void store_n(float* p, vf a, int64_t n) { _mm256_maskstore_ps(p, first(n), a); }
MN_INLINE vf load(const bf16* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
MN_INLINE vf load_n(const bf16* p, int64_t n) {
  bf16 part[V] = {0};
  for (int64_t i = 0; i < n; i++) part[i] = p[i];
  return load(part);
}
MN_INLINE void store(bf16* p, vf a) {
  __m256i bits = _mm256_castps_si256(a);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  __m256 nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
  rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), _mm256_castps_si256(nan));
  rounded = _mm256_srli_epi32(rounded, 16);
  __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0xd8);
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(packed));
}
MN_INLINE void store_n(bf16* p, vf a, int64_t n) {
  bf16 part[V];
  store(part, a);
  for (int64_t i = 0; i < n; i++) p[i] = part[i];
}
#endif

// Exchange rows and columns of V vectors of V floats.
#if defined(MN_AVX512)
MN_INLINE void transpose(vf (&r)[V]) {
  vf t[V];
#pragma GCC unroll 8
  for (int i = 0; i < V; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < V; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
      r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    vf low = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), high = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    vf low2 = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88), high2 = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    t[i] = _mm512_shuffle_f32x4(low, low2, 0x88);
    t[i + 8] = _mm512_shuffle_f32x4(low, low2, 0xdd);
    t[i + 4] = _mm512_shuffle_f32x4(high, high2, 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(high, high2, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < V; i++) r[i] = t[i];
}
#else
MN_INLINE void transpose(vf (&r)[V]) {
  vf t[V];
#pragma GCC unroll 4
  for (int i = 0; i < V; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < V; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      r[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      r[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < V; i++) r[i] = t[i];
}
#endif

template <class T> MN_INLINE vf load_upto(const T* p, int64_t n) { return n >= V ? load(p) : load_n(p, n); }
template <class T> MN_INLINE void store_upto(T* p, vf a, int64_t n) { if (n >= V) store(p, a); else store_n(p, a, n); }

// exp(-u^2 / 2), relative error about 1e-7 for |u| < 13, then 0 to float's precision
MN_INLINE vf gaussian(vf u) {
  vf x = vmax(mul(mul(u, u), set1(-0.72134752044f)), set1(-125.0f));  // -u^2 / 2 * log2(e)
  vf n = round_even(x);
  vf f = sub(x, n);
  vf p = fma(set1(1.54035304e-4f), f, set1(1.33335581e-3f));  // 2^f on [-1/2, 1/2], Taylor to degree 6
  p = fma(p, f, set1(9.61812911e-3f));
  p = fma(p, f, set1(5.55041087e-2f));
  p = fma(p, f, set1(2.40226507e-1f));
  p = fma(p, f, set1(6.93147181e-1f));
  p = fma(p, f, set1(1.0f));
  return exp2_scaled(p, n);
}

// Half of erfc(|u| / sqrt 2), given exp(-u^2 / 2): Abramowitz and Stegun 1964, 7.1.26, absolute error below 7.5e-8
MN_INLINE vf upper_tail(vf u, vf gauss) {
  vf t = reciprocal(fma(vabs(u), set1(0.2316418882f), set1(1.0f)));
  vf p = fma(t, set1(0.5307027145f), set1(-0.7265760135f));
  p = fma(p, t, set1(0.7107068705f));
  p = fma(p, t, set1(-0.142248368f));
  p = fma(p, t, set1(0.127414796f));
  return mul(mul(p, t), gauss);
}

struct Activated {
  vf value, slope;
};

// GELU with the error function (Hendrycks and Gimpel 2016)
MN_INLINE vf gelu_exact(vf u) { return fnma(vabs(u), upper_tail(u, gaussian(u)), vmax(u, zero())); }
MN_INLINE Activated gelu_exact_slope(vf u) {
  vf gauss = gaussian(u);
  vf tail = upper_tail(u, gauss);
  vf phi = add(set1(0.5f), copy_sign(sub(set1(0.5f), tail), u));
  Activated a;
  a.value = fnma(vabs(u), tail, vmax(u, zero()));
  a.slope = fma(mul(u, gauss), set1(0.3989422804f), phi);
  return a;
}

#if defined(MN_BF16)
// GELU and its slope for products in bfloat16: quadratic polynomials of least greatest error on 29 segments of
// [-4.07, 4.07], whose middles are multiples of 1 / 3.5625; beyond them 0 and u, or 0 and 1. Coefficients are looked up
// within two registers, beside the units that multiply. Absolute errors below 1e-4 (value) and 2e-4 (slope; 4e-4 beyond
// -4.07): rounding a value near 1 to bfloat16 makes one of 4e-3. Both are exact at 0.
static const float GELU[3][32] = {
    {0.0f, 0.0f, -0.02155602f, -0.04617118f, -0.08938494f, -0.1555802f, -0.2421717f, -0.3347469f, -0.4069901f,
     -0.4295027f, -0.3856287f, -0.2858297f, -0.1661082f, -0.06866987f, -0.01616019f, -0.001001611f, 0.0f,
     -0.001001611f, -0.0161602f, -0.06866987f, -0.1661049f, -0.2858298f, -0.3856256f, -0.4295027f, -0.4069901f,
     -0.3347469f, -0.2421717f, -0.1556216f, -0.08941735f, -0.04614619f, -0.02152071f, 0.0f},
    {0.0f, 0.0f, -0.01021357f, -0.02326209f, -0.04799189f, -0.08914471f, -0.1480536f, -0.2175543f, -0.2779464f,
     -0.2987675f, -0.2496398f, -0.1190017f, 0.07176232f, 0.2705322f, 0.4192655f, 0.4889187f, 0.5000001f, 0.5110813f,
     0.5807345f, 0.7294679f, 0.9282314f, 1.119002f, 1.249636f, 1.298768f, 1.277946f, 1.217554f, 1.148054f, 1.089171f,
     1.048011f, 1.023248f, 1.010196f, 1.0f},
    {0.0f, 0.0f, -0.001214f, -0.002943429f, -0.006481868f, -0.01287886f, -0.02289972f, -0.03594706f, -0.04857174f,
     -0.05338373f, -0.03962987f, 0.003146996f, 0.07921249f, 0.1807524f, 0.2864147f, 0.3670668f, 0.3978598f,
     0.3670668f, 0.2864147f, 0.1807524f, 0.07921536f, 0.003146987f, -0.03962881f, -0.05338373f, -0.04857174f,
     -0.03594706f, -0.02289972f, -0.01288318f, -0.006484709f, -0.00294148f, -0.00121171f, 0.0f}};
static const float SLOPE[3][32] = {
    {0.0f, 0.0f, -0.07254874f, -0.140431f, -0.2416612f, -0.3659176f, -0.4797356f, -0.5298356f, -0.4623715f,
     -0.2635488f, 0.02127226f, 0.2984893f, 0.4805101f, 0.5418566f, 0.5275922f, 0.5042227f, 0.5f, 0.4957774f,
     0.4724078f, 0.4581434f, 0.5194877f, 0.7015107f, 0.9787278f, 1.263549f, 1.462371f, 1.529836f, 1.479736f,
     1.365918f, 1.241661f, 1.140431f, 1.072549f, 1.0f},
    {0.0f, 0.0f, -0.03415528f, -0.07010874f, -0.127973f, -0.2050815f, -0.2822321f, -0.3193033f, -0.2616318f,
     -0.07109218f, 0.2427032f, 0.6023487f, 0.8890734f, 1.010361f, 0.9651262f, 0.8510334f, 0.7939712f, 0.8510323f,
     0.9651262f, 1.010361f, 0.8890774f, 0.6023487f, 0.2427032f, -0.07109218f, -0.2616318f, -0.3193033f, -0.2822321f,
     -0.2050815f, -0.127973f, -0.07010874f, -0.03415528f, 0.0f},
    {0.0f, 0.0f, -0.00403583f, -0.008796965f, -0.01706697f, -0.02903139f, -0.04210773f, -0.04896551f, -0.03664105f,
     0.009023095f, 0.09549249f, 0.2122168f, 0.3252405f, 0.3852351f, 0.3496221f, 0.2091928f, 0.0f, -0.2091904f,
     -0.3496221f, -0.3852351f, -0.3252424f, -0.2122168f, -0.09549249f, -0.009023095f, 0.03664105f, 0.04896551f,
     0.04210773f, 0.02903139f, 0.01706697f, 0.008796965f, 0.00403583f, 0.0f}};

MN_INLINE __m512i segment(vf u) {  // in the low five bits
  vf within = _mm512_range_ps(u, set1(15 / 3.5625f), 2);  // u, but nearer to 0 than this; its sign stays
  return _mm512_castps_si512(fma(within, set1(3.5625f), set1(8388608.0f + 16)));  // from 2^23 on, floats count by one
}
MN_INLINE vf quadratic(const float (&table)[3][32], vf u, __m512i segment) {
  vf c[3];
#pragma GCC unroll 3
  for (int i = 0; i < 3; i++) c[i] = _mm512_permutex2var_ps(load(table[i]), segment, load(table[i] + V));
  return fma(fma(c[2], u, c[1]), u, c[0]);
}
MN_INLINE vf gelu_rough(vf u) { return quadratic(GELU, u, segment(u)); }
MN_INLINE Activated gelu_rough_slope(vf u) {
  const __m512i s = segment(u);
  return {quadratic(GELU, u, s), quadratic(SLOPE, u, s)};
}
#endif
