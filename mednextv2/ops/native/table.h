// The functions that the torch binding calls: one table for each instruction set and storage type.
#pragma once
#include <stdint.h>

static const int MOST_ROWS = 192, MOST_TILE_ROWS = 32;  // rows of a chunk, and of a tile

// The multilayer perceptron of one sample. Rows are voxels. Widths with a p are padded to a multiple of `vector`, and
// their padding is zero, in parameters and in packed weights.
struct MlpSample {
  int64_t voxels, channels, width, out_channels;     // P, C, E, O
  int64_t chunk;                                     // rows processed at once, a multiple of `rows`
  const void *y, *residual, *grad;                   // P x C, P x O (or null), P x O
  void *out, *dy;                                    // P x O, P x C
  void* kept;                                        // memory for h of all rows (in chunks of packed type) or null
  const float *mean, *rstd, *scale, *shift;          // Cp: normalised = (y - mean) * scale + shift
  const void *w1, *w2;                               // packed: C to E, E to O
  const void *w2t, *w1t;                             // packed for the backward pass: O to E, E to C
  const float *b1, *b2;                              // Ep, Op
  const float *response, *feedback;                  // Ep: GRN's scale s of h, and k of its gradient; or null
};

struct Kernels {
  int64_t vector, rows;      // floats in a vector, rows of a tile
  int64_t element;           // bytes of an element of packed weights
  // row buffers of one worker, in bytes, and elements of packed weights
  int64_t (*scratch_bytes)(const MlpSample&, bool backward);
  int64_t (*packed_elements)(int64_t k, int64_t n);
  // pack columns [begin, end) (multiples of 2 * vector, except for the end) of B[k][n] = source[k * sk + n * sn]
  void (*pack)(const float* source, int64_t sk, int64_t sn, int64_t k, int64_t n, int64_t begin, int64_t end, void* to);
  // chunks [begin, end): add up the squares of h, and keep h if there is memory for it
  void (*mlp_squares)(const MlpSample&, int64_t begin, int64_t end, void* scratch, double* squares);
  // chunks [begin, end): write the output, from h if it was kept
  void (*mlp_output)(const MlpSample&, int64_t begin, int64_t end, void* scratch);
  // chunks [begin, end): add grad^T h to g2 (O rounded up to MOST_TILE_ROWS x Ep), and the sums of grad (O)
  void (*mlp_products)(const MlpSample&, int64_t begin, int64_t end, void* scratch, float* g2, double* grad);
  // chunks [begin, end): the gradient before the norm into dy; add y'^T du to g1 (C rounded up likewise x Ep), the sums of
  // du (Ep), of dy (C) and of dy times the normalised y (C); and, if g2 is given, grad^T h and the sums of grad
  void (*mlp_gradients)(const MlpSample&, int64_t begin, int64_t end, void* scratch, float* g1, float* g2, double* grad,
                        double* du, double* dy, double* dy_y);
  // rows [begin, end): dy = scale * dy + slope * (y - mean) + offset, in place
  void (*mlp_finish)(const MlpSample&, int64_t begin, int64_t end, const float* offset, const float* slope);
  // rows [begin, end) of `channels` values: add them up
  void (*column_sums)(const void* rows, int64_t begin, int64_t end, int64_t channels, double* sums);
  // depthwise convolutions, see depthwise.h
  void (*depthwise)(const struct Convolution&, int64_t begin, int64_t end, double* sums, double* squares);
  void (*depthwise_weight)(const struct Convolution&, int64_t begin, int64_t end, float* buffer, double* gradient);
};

// One depthwise convolution between a `big` grid and a `small` one, big = stride * small + k - pad along every axis.
struct Convolution {
  int64_t samples, channels;
  int64_t big[3], small[3], kernel[3];
  int64_t stride;
  bool up;                     // from small to big (transposed); otherwise from big to small
  const void *input, *other;   // other: the small tensor, for the weight gradient (input is the big one)
  const void* onto;            // added to the output, or null
  void* output;
  const float *weight, *bias;  // taps x Cp, Cp (or null)
};

enum InstructionSet { AVX2 = 0, AVX512 = 1, AVX512_BF16 = 2, AMX = 3 };
enum Storage { FLOAT = 0, BFLOAT16 = 1 };
const Kernels* avx2_kernels(Storage);
const Kernels* avx512_kernels(Storage);
const Kernels* avx512_bf16_kernels(Storage);  // for FLOAT the same as avx512_kernels
const Kernels* amx_kernels(Storage);          // for FLOAT the same as avx512_kernels
