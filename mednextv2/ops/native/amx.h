// Products in AMX tiles of 16 rows x 64 bytes: 32 rows x 32 columns at once in four of them, whose sums go through
// memory, since vector instructions cannot read tiles. The sums of the next rows are started before those of the last
// are used, so that tiles and vectors work at the same time.
//
// The assembler's statements name memory as changed: GCC's own intrinsics do not, and let stores pass a tile's load.
#pragma once

#define MN_TILE_LOAD(tile, place, stride) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"((const void*)(place)), "r"((int64_t)(stride)) : "memory")
#define MN_TILE_STORE(tile, place, stride) \
  asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"((void*)(place)), "r"((int64_t)(stride)) : "memory")
#define MN_TILE_ZERO(tile) asm volatile("tilezero %%tmm" #tile ::)
#define MN_TILE_PRODUCT(sum, a, b) asm volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum ::)

// The tiles of this thread, all of full size, while this lives; others (oneDNN) find them released.
struct Unit {
  struct alignas(64) Shape {
    uint8_t palette = 1, start_row = 0, reserved[14] = {0};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  Unit() {
    static const Shape shape;
    asm volatile("ldtilecfg %0" ::"m"(shape));
  }
  ~Unit() { asm volatile("tilerelease" ::); }
};

// sums of 32 rows x 32 columns, from bias (or zero) and `a` (row-major) times a panel
template <class T>
MN_INLINE void tile_block(const T* a, int64_t lda, const T* panel, int64_t k, const float* bias, vf (&sum)[ROWS][2]) {
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
  for (int64_t j = 0; j < k; j += 32) {
    MN_TILE_LOAD(4, a + j, lda * sizeof(T));
    MN_TILE_LOAD(6, panel + j * 2 * V, 128);
    MN_TILE_LOAD(7, panel + j * 2 * V + 2 * V, 128);
    MN_TILE_LOAD(5, a + 16 * lda + j, lda * sizeof(T));
    MN_TILE_PRODUCT(0, 4, 6);
    MN_TILE_PRODUCT(1, 4, 7);
    MN_TILE_PRODUCT(2, 5, 6);
    MN_TILE_PRODUCT(3, 5, 7);
  }
  MN_TILE_STORE(0, &sum[0][0], 128);
  MN_TILE_STORE(1, &sum[0][1], 128);
  MN_TILE_STORE(2, &sum[16][0], 128);
  MN_TILE_STORE(3, &sum[16][1], 128);
}

template <int NV, class T, class Use>
MN_INLINE void panel_product(const T* a, int64_t lda, int64_t rows, const T* panel, int64_t k, const float* bias,
                             Use use) {
  static_assert(NV == 2, "all panels are 32 columns wide");
  vf sum[2][ROWS][NV];
  tile_block(a, lda, panel, k, bias, sum[0]);
  for (int64_t r = 0, now = 0; r < rows; r += ROWS, now ^= 1) {
    if (r + ROWS < rows) tile_block(a + (r + ROWS) * lda, lda, panel, k, bias, sum[now ^ 1]);
    use(r, sum[now]);
  }
}

// c (M rounded up to 32 rows x ldc) += x^T y over `rows` rows of two chunks in paired order
template <class T>
static void outer_product(const T* x, int64_t ldx, int64_t m, const T* y, int64_t ldy, int64_t n, int64_t rows, float* c,
                          int64_t ldc) {
  alignas(64) T turned[32 * MOST_ROWS];  // 32 columns of x as rows: for 32 rows of x at a time two tiles
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
