// Depthwise convolutions of channels-last volumes, line by line along the last axis: forward, transposed (which is
// also the gradient of the input) and the gradient of the weight. Sums are in float; those over lines in double.
#pragma once

#if defined(MN_AVX512)
static const int BLOCK = 8;  // voxels of a line that are computed at once
#else
static const int BLOCK = 4;
#endif

template <class S> struct Depthwise {
  // Where the taps of one axis hit a line of the big tensor. index = (position + pad - tap) / stride or
  // stride * position + tap - pad.
  MN_INLINE bool hit(int64_t position, int64_t tap, int64_t pad, int64_t stride, bool up, int64_t size, int64_t* index) {
    int64_t i = up ? position + pad - tap : stride * position + tap - pad;
    if (up) {
      if (i < 0 || i % stride != 0) return false;
      i /= stride;
    }
    *index = i;
    return i >= 0 && i < size;
  }

  // Input offset of output t and tap k within a block, if the tap hits (known at compile time).
  template <int STRIDE, bool UP> static constexpr bool meets(int t, int k, int pad) {
    return !UP || ((t + pad - k) % STRIDE + STRIDE) % STRIDE == 0;
  }
  template <int STRIDE, bool UP> static constexpr int offset(int t, int k, int pad) {
    return UP ? (t + pad - k >= 0 ? (t + pad - k) / STRIDE : -((k - t - pad) / STRIDE)) : STRIDE * t + k - pad;
  }

  // BLOCK outputs from `start` on of V channels (`left` of them valid), over all lines that hit.
  template <int K, int STRIDE, bool UP, bool GUARD>
  MN_INLINE void block(const Convolution& c, const S* const* lines, const float* const* taps, int count, int64_t channel,
                       int64_t left, int64_t start, int64_t in_size, int64_t outputs, vf bias, const S* onto, S* out) {
    const int PAD = K / 2;
    const int LOW = offset<STRIDE, UP>(0, UP ? (K - 1) - ((K - 1 - PAD) % STRIDE) : 0, PAD);
    const int HIGH = offset<STRIDE, UP>(BLOCK - 1, UP ? (BLOCK - 1 + PAD) % STRIDE : K - 1, PAD);
    const int SPAN = HIGH - LOW + 1;
    const int64_t padded = round_up(c.channels, V);
    const int64_t origin = UP ? start / STRIDE : start * STRIDE;  // input position of offset 0
    vf sum[BLOCK];
#pragma GCC unroll 8
    for (int t = 0; t < BLOCK; t++) sum[t] = bias;
    for (int l = 0; l < count; l++) {
      const S* line = lines[l] + channel;
      vf in[SPAN];
#pragma GCC unroll 24
      for (int i = 0; i < SPAN; i++) {
        const int64_t position = origin + LOW + i;
        if (GUARD)
          in[i] = position >= 0 && position < in_size ? load_upto(line + position * c.channels, left) : zero();
        else
          in[i] = load(line + position * c.channels);
      }
#pragma GCC unroll 8
      for (int k = 0; k < K; k++) {
        vf weight = load(taps[l] + k * padded + channel);
#pragma GCC unroll 8
        for (int t = 0; t < BLOCK; t++)
          if (meets<STRIDE, UP>(t, k, PAD)) sum[t] = fma(in[offset<STRIDE, UP>(t, k, PAD) - LOW], weight, sum[t]);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < BLOCK; t++)
      if (!GUARD || t < outputs) {
        const int64_t place = t * c.channels + channel;
        if (onto) sum[t] = add(sum[t], load_upto(onto + place, GUARD ? left : V));
        store_upto(out + place, sum[t], GUARD ? left : V);
      }
  }

  template <int K, int STRIDE, bool UP>
  static void line(const Convolution& c, const S* const* lines, const float* const* taps, int count, const S* onto, S* out) {
    const int64_t in_size = (UP ? c.small : c.big)[2], out_size = (UP ? c.big : c.small)[2];
    for (int64_t start = 0; start < out_size; start += BLOCK) {
      // whether all inputs of the block exist
      const int64_t low = UP ? (start - K) / STRIDE - 1 : start * STRIDE - K / 2;
      const int64_t high = UP ? (start + BLOCK + K) / STRIDE + 1 : (start + BLOCK - 1) * STRIDE + K / 2;
      const bool inside = low >= 0 && high < in_size && start + BLOCK <= out_size;
      for (int64_t channel = 0; channel < c.channels; channel += V) {
        const int64_t left = c.channels - channel;
        vf bias = c.bias ? load(c.bias + channel) : zero();
        S* to = out + start * c.channels;
        const S* with = onto ? onto + start * c.channels : nullptr;
        if (inside && left >= V)
          block<K, STRIDE, UP, false>(c, lines, taps, count, channel, left, start, in_size, BLOCK, bias, with, to);
        else
          block<K, STRIDE, UP, true>(c, lines, taps, count, channel, left, start, in_size, out_size - start, bias, with,
                                          to);
      }
    }
  }

  // Sums and squares of a line: squares of the distance from the line's own mean, so that a large mean does not cancel.
  static void moments(const S* line, int64_t size, int64_t channels, double* sums, double* squares) {
    const float inverse = 1.0f / size;
    for (int64_t channel = 0; channel < channels; channel += V) {
      const int64_t left = channels - channel;
      vf total = zero();
      for (int64_t i = 0; i < size; i++) total = add(total, load_upto(line + i * channels + channel, left));
      vf mean = mul(total, set1(inverse)), square = zero(), rest = zero();
      for (int64_t i = 0; i < size; i++) {
        vf d = sub(load_upto(line + i * channels + channel, left), mean);
        square = fma(d, d, square);
        rest = add(rest, d);  // the part of the mean that was lost by rounding
      }
      float m[V], s[V], r[V];
      store(m, mean);
      store(s, square);
      store(r, rest);
      for (int64_t i = 0; i < at_most(V, left); i++) {
        const double exact = (double)m[i] * size + r[i];
        sums[channel + i] += exact;
        // sum of x^2 = sum of (x - m)^2 + 2 m sum of (x - m) + n m^2
        squares[channel + i] += s[i] + (double)m[i] * (2.0 * r[i] + (double)m[i] * size);
      }
    }
  }

  template <int K, int STRIDE, bool UP>
  static void lines(const Convolution& c, int64_t begin, int64_t end, double* sums, double* squares) {
    const int64_t* from = UP ? c.small : c.big;
    const int64_t* to = UP ? c.big : c.small;
    const int64_t padded = round_up(c.channels, V);
    const S* inputs[49];
    const float* taps[49];
    for (int64_t i = begin; i < end; i++) {  // lines of the output
      const int64_t h = i % to[1], d = i / to[1] % to[0], n = i / (to[1] * to[0]);
      int count = 0;
      for (int64_t kd = 0; kd < c.kernel[0]; kd++) {
        int64_t id, ih;
        if (!hit(d, kd, c.kernel[0] / 2, STRIDE, UP, from[0], &id)) continue;
        for (int64_t kh = 0; kh < c.kernel[1]; kh++) {
          if (!hit(h, kh, c.kernel[1] / 2, STRIDE, UP, from[1], &ih)) continue;
          inputs[count] = (const S*)c.input + ((n * from[0] + id) * from[1] + ih) * from[2] * c.channels;
          taps[count++] = c.weight + (kd * c.kernel[1] + kh) * K * padded;
        }
      }
      const int64_t place = i * to[2] * c.channels;
      S* out = (S*)c.output + place;
      line<K, STRIDE, UP>(c, inputs, taps, count, c.onto ? (const S*)c.onto + place : nullptr, out);
      if (sums) moments(out, to[2], c.channels, sums + n * c.channels, squares + n * c.channels);
    }
  }

  static void run(const Convolution& c, int64_t begin, int64_t end, double* sums, double* squares) {
    const int64_t k = c.kernel[2];
    if (c.stride == 1) {
      if (k == 3) lines<3, 1, false>(c, begin, end, sums, squares);
      else if (k == 5) lines<5, 1, false>(c, begin, end, sums, squares);
      else lines<7, 1, false>(c, begin, end, sums, squares);
    } else if (!c.up) {
      if (k == 3) lines<3, 2, false>(c, begin, end, sums, squares);
      else if (k == 5) lines<5, 2, false>(c, begin, end, sums, squares);
      else lines<7, 2, false>(c, begin, end, sums, squares);
    } else {
      if (k == 3) lines<3, 2, true>(c, begin, end, sums, squares);
      else if (k == 5) lines<5, 2, true>(c, begin, end, sums, squares);
      else lines<7, 2, true>(c, begin, end, sums, squares);
    }
  }

  // sum[k] += over positions of a small line: small[p] * big[stride * p + k - pad], for LINES big lines at once.
  template <int K, int STRIDE, int LINES>
  MN_INLINE void correlate(const Convolution& c, const S* const* big, const S* small, int64_t channel, vf (&sum)[LINES][K]) {
    const int64_t left = c.channels - channel;
    const int W = 4, SPAN = STRIDE * (W - 1) + K;
    int64_t p = 0;
    auto step = [&](auto guard, int64_t p) {
      const bool GUARD = decltype(guard)::value;
      vf factor[W];
#pragma GCC unroll 4
      for (int t = 0; t < W; t++)
        factor[t] = !GUARD || p + t < c.small[2] ? load_upto(small + (p + t) * c.channels + channel, GUARD ? left : V) : zero();
#pragma GCC unroll 3
      for (int l = 0; l < LINES; l++) {
        vf in[SPAN];
#pragma GCC unroll 16
        for (int i = 0; i < SPAN; i++) {
          const int64_t position = STRIDE * p + i - K / 2;
          in[i] = !GUARD || (position >= 0 && position < c.big[2])
                      ? load_upto(big[l] + position * c.channels + channel, GUARD ? left : V)
                      : zero();
        }
#pragma GCC unroll 4
        for (int t = 0; t < W; t++) {
#pragma GCC unroll 8
          for (int k = 0; k < K; k++) sum[l][k] = fma(factor[t], in[STRIDE * t + k], sum[l][k]);
        }
      }
    };
    for (; p < c.small[2]; p += W) {
      const bool inside = STRIDE * p >= K / 2 && STRIDE * (p + W - 1) + K - 1 - K / 2 < c.big[2] && p + W <= c.small[2];
      if (inside && left >= V) step(Flag<false>(), p);
      else step(Flag<true>(), p);
    }
  }
  template <bool B> struct Flag { static const bool value = B; };

  template <int K, int STRIDE>
  static void weight_gradient(const Convolution& c, int64_t begin, int64_t end, float* buffer, double* gradient) {
    const int LINES = K == 3 ? 3 : 1;
    const int64_t padded = round_up(c.channels, V), size = c.kernel[0] * c.kernel[1] * K * padded;
    for (int64_t i = 0; i < size; i++) buffer[i] = 0.0f;
    int64_t since = 0;
    for (int64_t i = begin; i < end; i++) {  // lines of the small tensor
      const int64_t h = i % c.small[1], d = i / c.small[1] % c.small[0], n = i / (c.small[1] * c.small[0]);
      const S* small = (const S*)c.other + i * c.small[2] * c.channels;
      const S* lines[49];
      int64_t taps[49];
      int count = 0;
      for (int64_t kd = 0; kd < c.kernel[0]; kd++) {
        int64_t bd, bh;
        if (!hit(d, kd, c.kernel[0] / 2, STRIDE, false, c.big[0], &bd)) continue;
        for (int64_t kh = 0; kh < c.kernel[1]; kh++) {
          if (!hit(h, kh, c.kernel[1] / 2, STRIDE, false, c.big[1], &bh)) continue;
          lines[count] = (const S*)c.input + ((n * c.big[0] + bd) * c.big[1] + bh) * c.big[2] * c.channels;
          taps[count++] = (kd * c.kernel[1] + kh) * K * padded;
        }
      }
      for (int64_t channel = 0; channel < c.channels; channel += V) {
        int l = 0;
        for (; l + LINES <= count; l += LINES) accumulate<K, STRIDE, LINES>(c, lines + l, taps + l, small, channel, buffer);
        for (; l < count; l++) accumulate<K, STRIDE, 1>(c, lines + l, taps + l, small, channel, buffer);
      }
      if (++since == 64 || i + 1 == end) {  // keeps float sums short
        for (int64_t j = 0; j < size; j++) {
          gradient[j] += buffer[j];
          buffer[j] = 0.0f;
        }
        since = 0;
      }
    }
  }

  template <int K, int STRIDE, int LINES>
  MN_INLINE void accumulate(const Convolution& c, const S* const* lines, const int64_t* taps, const S* small,
                            int64_t channel, float* buffer) {
    const int64_t padded = round_up(c.channels, V);
    vf sum[LINES][K];
#pragma GCC unroll 3
    for (int l = 0; l < LINES; l++) {
#pragma GCC unroll 8
      for (int k = 0; k < K; k++) sum[l][k] = zero();
    }
    correlate<K, STRIDE, LINES>(c, lines, small, channel, sum);
#pragma GCC unroll 3
    for (int l = 0; l < LINES; l++) {
#pragma GCC unroll 8
      for (int k = 0; k < K; k++) {
        float* to = buffer + taps[l] + k * padded + channel;
        store(to, add(load(to), sum[l][k]));
      }
    }
  }

  static void run_weight(const Convolution& c, int64_t begin, int64_t end, float* buffer, double* gradient) {
    const int64_t k = c.kernel[2];
    if (c.stride == 1) {
      if (k == 3) weight_gradient<3, 1>(c, begin, end, buffer, gradient);
      else if (k == 5) weight_gradient<5, 1>(c, begin, end, buffer, gradient);
      else weight_gradient<7, 1>(c, begin, end, buffer, gradient);
    } else {
      if (k == 3) weight_gradient<3, 2>(c, begin, end, buffer, gradient);
      else if (k == 5) weight_gradient<5, 2>(c, begin, end, buffer, gradient);
      else weight_gradient<7, 2>(c, begin, end, buffer, gradient);
    }
  }
};
