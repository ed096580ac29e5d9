// Products in AMX tiles of 16 rows x 64 bytes: 32 rows x 32 columns at once in four tiles, whose sums go through
// memory, since vector instructions cannot read tiles. The next rows' products are computed between the last's uses, so
// that tiles and vectors work at the same time.
//
// The assembler statements declare memory as changed; GCC's intrinsics do not, so stores may pass a tile's load.
#pragma once

#define MN_TILE_LOAD(tile, place, stride) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"((const void*)(place)), "r"((int64_t)(stride)) : "memory")
#define MN_TILE_STORE(tile, place, stride) \
  asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"((void*)(place)), "r"((int64_t)(stride)) : "memory")
#define MN_TILE_ZERO(tile) asm volatile("tilezero %%tmm" #tile ::)
#define MN_TILE_PRODUCT(sum, a, b) asm volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum ::)

// The tiles of this thread, all of full size, for this object's lifetime; others (oneDNN) find them released.
struct Tiles {
  struct alignas(64) Shape {
    uint8_t palette = 1, start_row = 0, reserved[14] = {0};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  Tiles() {
    static const Shape shape;
    asm volatile("ldtilecfg %0" ::"m"(shape));
  }
  ~Tiles() { asm volatile("tilerelease" ::); }
};

// Sums of 32 rows x 32 columns of N products, one after the other, a few steps at a time.
template <int N, class T> struct Block {
  const Factors<T> (&factors)[N];
  vf (&sums)[N][ROWS][2];
  int64_t row, product = 0, column = 0;

  MN_INLINE void start(const float* bias) {
    if (bias) {  // the same row 16 times
      MN_TILE_LOAD(0, bias, 0);
      MN_TILE_LOAD(1, bias + V, 0);
      MN_TILE_LOAD(2, bias, 0);
      MN_TILE_LOAD(3, bias + V, 0);
    } else {
      MN_TILE_ZERO(0);
      MN_TILE_ZERO(1);
      MN_TILE_ZERO(2);
      MN_TILE_ZERO(3);
    }
  }

  // 32 columns of the left factor
  __attribute__((always_inline)) void step() {
    const Factors<T>& f = factors[product];
    const T *a = f.rows + row * f.stride + column, *b = f.panel + column * 2 * V;
    if (column == 0) start(f.bias);
    MN_TILE_LOAD(4, a, f.stride * sizeof(T));
    MN_TILE_LOAD(6, b, 128);
    MN_TILE_LOAD(7, b + 2 * V, 128);
    MN_TILE_LOAD(5, a + 16 * f.stride, f.stride * sizeof(T));
    MN_TILE_PRODUCT(0, 4, 6);
    MN_TILE_PRODUCT(1, 4, 7);
    MN_TILE_PRODUCT(2, 5, 6);
    MN_TILE_PRODUCT(3, 5, 7);
    column += 32;
    if (column < f.depth) return;
    vf(&sum)[ROWS][2] = sums[product];
    MN_TILE_STORE(0, &sum[0][0], 128);
    MN_TILE_STORE(1, &sum[0][1], 128);
    MN_TILE_STORE(2, &sum[16][0], 128);
    MN_TILE_STORE(3, &sum[16][1], 128);
    product++, column = 0;
  }
  __attribute__((always_inline)) void steps(int64_t n) {
    for (; n > 0; n--) step();
  }
};

// For all rows: use(row, sums of STEP rows of each product). The steps of the next rows' products are spread between the
// uses of these rows', and done before the last of them, so that no use waits for a store.
template <int STEP, int N, class T, class Use>
MN_INLINE void spread_products(const Factors<T> (&factors)[N], int64_t steps, int64_t rows, Use use) {
  typedef vf Part[STEP][2];
  const int64_t uses = ROWS / STEP;
  vf sums[2][N][ROWS][2];
  Block<N, T>{factors, sums[0], 0}.steps(steps);
  for (int64_t r = 0, now = 0; r < rows; r += ROWS, now ^= 1) {
    Block<N, T> next{factors, sums[now ^ 1], r + ROWS};
    const int64_t wanted = r + ROWS < rows ? steps : 0;
    for (int64_t i = 0, done = 0; i < uses; i++) {
      const int64_t until = at_most(((i + 1) * wanted + uses - 2) / (uses - 1), wanted);
      next.steps(until - done);
      done = until;
      if constexpr (N == 1) use(r + i * STEP, (Part&)sums[now][0][i * STEP]);
      else use(r + i * STEP, (Part&)sums[now][0][i * STEP], (Part&)sums[now][1][i * STEP]);
    }
  }
}

template <int NV, int N, class T, class Use>
MN_INLINE void panel_products(const Factors<T> (&factors)[N], int64_t rows, Use use) {
  static_assert(NV == 2, "all panels are 32 columns wide");
  int64_t steps = 0;
  for (const Factors<T>& f : factors) steps += f.depth / 32;
  if (steps <= 3) spread_products<16>(factors, steps, rows, use);  // so few that the processor itself overlaps them
  else spread_products<4>(factors, steps, rows, use);
}

// c (M rounded up to 32 rows x ldc) += x^T y over `rows` rows of two chunks in paired order
template <class T>
static void outer_product(const T* x, int64_t ldx, int64_t m, const T* y, int64_t ldy, int64_t n, int64_t rows, float* c,
                          int64_t ldc) {
  alignas(64) T turned[32 * MOST_ROWS];  // 32 columns of x as rows: two tiles for 32 rows of x at a time
  for (int64_t i0 = 0; i0 < m; i0 += 32) {
    for (int64_t p = 0; p < rows; p += 32)
      for (int64_t half = 0; half < 2; half++) {
        vf square[V];
#pragma GCC unroll 16
        for (int q = 0; q < V; q++) square[q] = load((const float*)(x + Operand<T>::paired(p + 2 * q, i0 + 16 * half, ldx)));
        transpose(square);
#pragma GCC unroll 16
        for (int q = 0; q < V; q++) store((float*)(turned + p * 32 + half * 512 + q * 32), square[q]);
      }
    for (int64_t j = 0; j < n; j += 32) {
      float* sum = c + i0 * ldc + j;
      MN_TILE_LOAD(0, sum, ldc * 4);
      MN_TILE_LOAD(1, sum + V, ldc * 4);
      MN_TILE_LOAD(2, sum + 16 * ldc, ldc * 4);
      MN_TILE_LOAD(3, sum + 16 * ldc + V, ldc * 4);
      for (int64_t p = 0; p < rows; p += 32) {
        const T* b = y + Operand<T>::paired(p, j, ldy);
        MN_TILE_LOAD(4, turned + p * 32, 64);
        MN_TILE_LOAD(6, b, ldy * 2 * sizeof(T));
        MN_TILE_LOAD(7, b + 2 * V, ldy * 2 * sizeof(T));
        MN_TILE_LOAD(5, turned + p * 32 + 512, 64);
        MN_TILE_PRODUCT(0, 4, 6);
        MN_TILE_PRODUCT(1, 4, 7);
        MN_TILE_PRODUCT(2, 5, 6);
        MN_TILE_PRODUCT(3, 5, 7);
      }
      MN_TILE_STORE(0, sum, ldc * 4);
      MN_TILE_STORE(1, sum + V, ldc * 4);
      MN_TILE_STORE(2, sum + 16 * ldc, ldc * 4);
      MN_TILE_STORE(3, sum + 16 * ldc + V, ldc * 4);
    }
  }
}
