# ruff: noqa: N803  (constants of a kernel are written in capitals)
"""The Triton kernels of wide blocks: products fused with neighbouring steps, and a workspace of expanded width.

Wide blocks lie deep in a network, with few voxels and large products. Expanding again for every use, as in
`_folded_mlp_kernels.py`, would cost more than storing, and their weights do not fit into a multiprocessor. So each
kernel here is one product, whose factor is normalised on the way in, or whose result goes through GELU, a sum over
voxels or the addition of a residual on the way out. cuBLAS computes the two products that sum over voxels (`h^T D` and
`du^T z`).

The names are those of `docs/fast_block.md`; `w1n`, `b1n`, `w2n`, `b2n` are those of `_folded_mlp_small_kernels.py`.
"""

import triton
import triton.language as tl

from mednextv2.ops._triton_parts import (
    dot,
    gelu,
    gelu_and_slope,
    inverse_deviation,
    load_tile,
    load_vector,
    norm_gradient,
    normed,
    rounded,
    shared_gradient,
    store_tile,
)

_FREE = ["voxels", "tiles", "eps"]  # arguments that must not cause a compilation for every new image size


@triton.jit(do_not_specialize=_FREE)
def expand_kernel(y, mean, variance, w1n, b1n, h, squares, voxels, tiles, eps, NORMS: tl.constexpr, C: tl.constexpr,
                  E: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
                  HALF: tl.constexpr):  # fmt: skip
    """Store `h = GELU(z W1'^T + b1')` of `tiles` tiles of voxels, a block of channels, and sum its squares."""
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    split, n = tl.program_id(1), tl.program_id(2).to(tl.int64)
    y, h, mean, variance = y + n * voxels * C, h + n * voxels * E, mean + n * C, variance + n * C
    bias = load_vector(b1n, e, E)
    total = tl.zeros([BLOCK_P, BLOCK_E], tl.float32)
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, tl.cdiv(voxels, BLOCK_P))):
        rows = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
        u = tl.zeros([BLOCK_P, BLOCK_E], tl.float32)
        for start in range(0, C, BLOCK_K):
            c = start + tl.arange(0, BLOCK_K)
            m, r = load_vector(mean, c, C), inverse_deviation(variance, c, eps, C)
            z = rounded(normed(y, m, r, rows, voxels, c, C), y.dtype.element_ty)
            u = dot(z, load_tile(w1n, c, e, 1, C, C, E), u)
        value = gelu(u + bias[None, :], HALF)
        store_tile(h, value, rows, e, E, 1, voxels, E)
        if NORMS:
            value = tl.where((rows < voxels)[:, None], value, 0.0)
            total += value * value
    if NORMS:
        tl.store(squares + (n * tl.num_programs(1) + split) * E + e, tl.sum(total, 0), mask=e < E)


@triton.jit(do_not_specialize=_FREE)
def expand_again_kernel(grad, y, mean, variance, w1n, b1n, u, h, z, d_sum, voxels, tiles, eps, C: tl.constexpr,
                        E: tl.constexpr, OUT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr,
                        BLOCK_K: tl.constexpr, HALF: tl.constexpr):  # fmt: skip
    """Store `u`, `h = GELU(u)` and, in the programs of the first block of channels, `z`; these sum `D`, too."""
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    split, n = tl.program_id(1), tl.program_id(2).to(tl.int64)
    y, z, mean, variance = y + n * voxels * C, z + n * voxels * C, mean + n * C, variance + n * C
    u, h, grad = u + n * voxels * E, h + n * voxels * E, grad + n * voxels * OUT
    bias = load_vector(b1n, e, E)
    first, last = split * tiles, tl.minimum((split + 1) * tiles, tl.cdiv(voxels, BLOCK_P))
    for tile in range(first, last):
        rows = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
        total = tl.zeros([BLOCK_P, BLOCK_E], tl.float32)
        for start in range(0, C, BLOCK_K):
            c = start + tl.arange(0, BLOCK_K)
            m, r = load_vector(mean, c, C), inverse_deviation(variance, c, eps, C)
            own = rounded(normed(y, m, r, rows, voxels, c, C), y.dtype.element_ty)
            if tl.program_id(0) == 0:
                store_tile(z, own, rows, c, C, 1, voxels, C)
            total = dot(own, load_tile(w1n, c, e, 1, C, C, E), total)
        total = rounded(total + bias[None, :], u.dtype.element_ty)
        store_tile(u, total, rows, e, E, 1, voxels, E)
        store_tile(h, gelu(total.to(tl.float32), HALF), rows, e, E, 1, voxels, E)
    if tl.program_id(0) == 0:
        for start in range(0, OUT, BLOCK_K):
            o = start + tl.arange(0, BLOCK_K)
            d = tl.zeros([BLOCK_P, BLOCK_K], tl.float32)
            for tile in range(first, last):
                rows = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
                d += load_tile(grad, rows, o, OUT, 1, voxels, OUT).to(tl.float32)
            tl.store(d_sum + (n * tl.num_programs(1) + split) * OUT + o, tl.sum(d, 0), mask=o < OUT)


@triton.jit(do_not_specialize=["voxels"])
def compress_kernel(h, w2n, b2n, residual, out, voxels, HAS_RESIDUAL: tl.constexpr, PER_SAMPLE: tl.constexpr,
                    E: tl.constexpr, OUT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr,
                    BLOCK_K: tl.constexpr):  # fmt: skip
    """Compute a tile of `h W2'^T + b2'` and add the residual; `PER_SAMPLE` is 1 if every sample has its own `w2n`."""
    blocks: tl.constexpr = (OUT + BLOCK_O - 1) // BLOCK_O  # neighbouring programs share rows of h
    o, n = tl.program_id(0) % blocks * BLOCK_O + tl.arange(0, BLOCK_O), tl.program_id(1).to(tl.int64)
    rows = (tl.program_id(0) // blocks * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
    h, w2n = h + n * voxels * E, w2n + n * PER_SAMPLE * OUT * E
    total = tl.zeros([BLOCK_P, BLOCK_O], tl.float32)
    for start in range(0, E, BLOCK_K):
        e = start + tl.arange(0, BLOCK_K)
        w = load_tile(w2n, e, o, 1, E, E, OUT)
        total = dot(load_tile(h, rows, e, E, 1, voxels, E), w, total)
    total += load_vector(b2n, o, OUT)[None, :]
    if HAS_RESIDUAL:
        total += load_tile(residual + n * voxels * OUT, rows, o, OUT, 1, voxels, OUT).to(tl.float32)
    store_tile(out + n * voxels * OUT, total, rows, o, OUT, 1, voxels, OUT)


@triton.jit(do_not_specialize=["voxels", "tiles", "BLOCKS"])
def expanded_gradient_kernel(grad, w2n, u, change, inverse, shared, sums, voxels, tiles, BLOCKS, GRN: tl.constexpr,
                             E: tl.constexpr, OUT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr,
                             BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr, HALF: tl.constexpr):  # fmt: skip
    """Replace `u` by `du = (D W2' + h k) GELU'(u)` in `tiles` tiles of voxels, a block of channels, and sum it."""
    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    split, n = tl.program_id(1), tl.program_id(2).to(tl.int64)
    grad, u, w2n = grad + n * voxels * OUT, u + n * voxels * E, w2n + n * GRN * OUT * E
    if GRN:
        k = norm_gradient(change + n * E, inverse + n * E, shared_gradient(shared + n * BLOCKS, BLOCKS, BLOCK_B), e, E)
    total = tl.zeros([BLOCK_P, BLOCK_E], tl.float32)
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, tl.cdiv(voxels, BLOCK_P))):
        rows = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
        du = tl.zeros([BLOCK_P, BLOCK_E], tl.float32)
        for start in range(0, OUT, BLOCK_K):
            o = start + tl.arange(0, BLOCK_K)
            d = load_tile(grad, rows, o, OUT, 1, voxels, OUT)
            du = dot(d, load_tile(w2n, o, e, E, 1, OUT, E), du)
        h, slope = gelu_and_slope(load_tile(u, rows, e, E, 1, voxels, E).to(tl.float32), HALF)
        if GRN:
            du += h * k[None, :]
        du = rounded(tl.where((rows < voxels)[:, None], du * slope, 0.0), u.dtype.element_ty)
        total += du.to(tl.float32)
        store_tile(u, du, rows, e, E, 1, voxels, E)
    tl.store(sums + (n * tl.num_programs(1) + split) * E + e, tl.sum(total, 0), mask=e < E)


@triton.jit(do_not_specialize=["voxels", "eps"])
def input_kernel(du, y, mean, variance, w1n, offset, slope, dy, voxels, eps, C: tl.constexpr, E: tl.constexpr,
                 BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Compute a tile of `dy = r (du W1' - offset - slope z)`."""
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    c, n = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C), tl.program_id(1).to(tl.int64)
    rows = (tl.program_id(0) // blocks * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
    du += n * voxels * E
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in range(0, E, BLOCK_K):
        e = start + tl.arange(0, BLOCK_K)
        w = load_tile(w1n, e, c, C, 1, E, C)
        total = dot(load_tile(du, rows, e, E, 1, voxels, E), w, total)
    m, r = load_vector(mean + n * C, c, C), inverse_deviation(variance + n * C, c, eps, C)
    z = normed(y + n * voxels * C, m, r, rows, voxels, c, C)
    total -= load_vector(offset + n * C, c, C)[None, :] + load_vector(slope + n * C, c, C)[None, :] * z
    total = tl.where(voxels > 1, total * r[None, :], 0.0)  # the norm of a single voxel is constant
    store_tile(dy + n * voxels * C, total, rows, c, C, 1, voxels, C)
