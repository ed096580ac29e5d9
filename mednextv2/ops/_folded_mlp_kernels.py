# ruff: noqa: N803, RUF005  (constants of a kernel are written in capitals; Triton joins tuples only with +)
"""The Triton kernels of thin blocks, which hold nearly all voxels of a network: nothing expanded is ever stored.

A tile of voxels is normalised once, and then, one block of expanded channels at a time, it is expanded and put through
GELU in registers: once for the norms, once for the output, and twice in the backward pass. On a GPU, this is cheaper
than storing the expanded values: recomputing them costs one step of the matrix unit and a hyperbolic tangent, and
storing them two trips to memory. A program processes many tiles and adds up the sums over voxels in registers; the few
hundred partial sums are added in a fixed order by the kernels of `_folded_mlp_small_kernels.py`, so the result does not
depend on the order of execution.

The names are those of `docs/fast_block.md`, with one change: voxels are centred and divided by their deviation in
registers, `z = (y - m) r`, and only the affine part of the norm is folded into the expansion (`w1n`, `b1n`). So,
rounding to half precision happens after a large mean is gone.
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
def norms_kernel(y, mean, variance, w1n, b1n, squares, voxels, tiles, eps, C: tl.constexpr, E: tl.constexpr,
                 BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr, HALF: tl.constexpr):  # fmt: skip
    """Sum the squares of the expanded channels over the voxels of `tiles` tiles."""
    blocks: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E
    c, split, n = tl.arange(0, BLOCK_C), tl.program_id(0), tl.program_id(1).to(tl.int64)
    y += n * voxels * C
    m, r = load_vector(mean + n * C, c, C), inverse_deviation(variance + n * C, c, eps, C)
    weights: tl.tuple = ()
    biases: tl.tuple = ()
    totals: tl.tuple = ()
    for i in tl.static_range(blocks):
        e = i * BLOCK_E + tl.arange(0, BLOCK_E)
        weights = weights + (load_tile(w1n, c, e, 1, C, C, E),)
        biases = biases + (load_vector(b1n, e, E),)
        totals = totals + (tl.zeros([BLOCK_P, BLOCK_E], tl.float32),)  # summed over its rows only after the loop
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, tl.cdiv(voxels, BLOCK_P))):
        rows = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
        z = rounded(normed(y, m, r, rows, voxels, c, C), y.dtype.element_ty)
        for i in tl.static_range(blocks):
            h = gelu(dot(z, weights[i], None) + biases[i][None, :], HALF)
            h = tl.where((rows < voxels)[:, None], h, 0.0)
            totals = totals[:i] + (totals[i] + h * h,) + totals[i + 1 :]
    for i in tl.static_range(blocks):
        e = i * BLOCK_E + tl.arange(0, BLOCK_E)
        tl.store(squares + (n * tl.num_programs(0) + split) * E + e, tl.sum(totals[i], 0), mask=e < E)


@triton.jit(do_not_specialize=_FREE)
def output_kernel(y, mean, variance, w1n, b1n, w2n, b2n, residual, out, voxels, tiles, eps,
                  HAS_RESIDUAL: tl.constexpr, PER_SAMPLE: tl.constexpr, C: tl.constexpr, E: tl.constexpr,
                  OUT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr,
                  BLOCK_O: tl.constexpr, HALF: tl.constexpr):  # fmt: skip
    """Compute `tiles` tiles of the output; `PER_SAMPLE` is 1 if every sample has its own `w2n`, else 0."""
    c, o = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_O)
    split, n = tl.program_id(0), tl.program_id(1).to(tl.int64)
    y, out, w2n = y + n * voxels * C, out + n * voxels * OUT, w2n + n * PER_SAMPLE * OUT * E
    m, r = load_vector(mean + n * C, c, C), inverse_deviation(variance + n * C, c, eps, C)
    bias = load_vector(b2n, o, OUT)
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, tl.cdiv(voxels, BLOCK_P))):
        rows = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
        z = rounded(normed(y, m, r, rows, voxels, c, C), y.dtype.element_ty)
        total = tl.zeros([BLOCK_P, BLOCK_O], tl.float32)
        for start in range(0, E, BLOCK_E):
            e = start + tl.arange(0, BLOCK_E)
            u = dot(z, load_tile(w1n, c, e, 1, C, C, E), None) + load_vector(b1n, e, E)[None, :]
            total = dot(rounded(gelu(u, HALF), z.dtype), load_tile(w2n, e, o, 1, E, E, OUT), total)
        total += bias[None, :]
        if HAS_RESIDUAL:
            total += load_tile(residual + n * voxels * OUT, rows, o, OUT, 1, voxels, OUT).to(tl.float32)
        store_tile(out, total, rows, o, OUT, 1, voxels, OUT)


@triton.jit(do_not_specialize=_FREE)
def compression_kernel(grad, y, mean, variance, w1n, b1n, g2, d_sum, voxels, tiles, eps, C: tl.constexpr,
                       E: tl.constexpr, OUT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
                       BLOCK_E: tl.constexpr, BLOCK_O: tl.constexpr, HALF: tl.constexpr):  # fmt: skip
    """Sum `h^T D` (the transposed G of the document) and `D` over the voxels of `tiles` tiles."""
    blocks: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E
    c, o = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_O)
    split, n = tl.program_id(0), tl.program_id(1).to(tl.int64)
    y, grad = y + n * voxels * C, grad + n * voxels * OUT
    m, r = load_vector(mean + n * C, c, C), inverse_deviation(variance + n * C, c, eps, C)
    totals: tl.tuple = ()
    sums = tl.zeros([BLOCK_P, BLOCK_O], tl.float32)
    for _ in tl.static_range(blocks):
        totals = totals + (tl.zeros([BLOCK_E, BLOCK_O], tl.float32),)
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, tl.cdiv(voxels, BLOCK_P))):
        rows = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
        z = rounded(normed(y, m, r, rows, voxels, c, C), y.dtype.element_ty)
        d = load_tile(grad, rows, o, OUT, 1, voxels, OUT)  # zero beyond the last voxel, where h is not zero
        sums += d.to(tl.float32)
        for i in tl.static_range(blocks):
            e = i * BLOCK_E + tl.arange(0, BLOCK_E)
            u = dot(z, load_tile(w1n, c, e, 1, C, C, E), None) + load_vector(b1n, e, E)[None, :]
            h = rounded(gelu(u, HALF), z.dtype)
            totals = totals[:i] + (dot(tl.trans(h), d, totals[i]),) + totals[i + 1 :]
    index = n * tl.num_programs(0) + split
    for i in tl.static_range(blocks):
        e = i * BLOCK_E + tl.arange(0, BLOCK_E)
        store_tile(g2 + index * E * OUT, totals[i], e, o, OUT, 1, E, OUT)
    tl.store(d_sum + index * OUT + o, tl.sum(sums, 0), mask=o < OUT)


@triton.jit(do_not_specialize=[*_FREE, "BLOCKS"])
def expansion_kernel(grad, y, mean, variance, w1n, b1n, w2n, change, inverse, shared, sums, dz, voxels, tiles, eps,
                     BLOCKS, GRN: tl.constexpr, C: tl.constexpr, E: tl.constexpr, OUT: tl.constexpr,
                     BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_O: tl.constexpr,
                     BLOCK_B: tl.constexpr, HALF: tl.constexpr):  # fmt: skip
    """Sum `du^T z` and, after it in `sums`, `du` over the voxels of `tiles` tiles, and store `dz = du W1'`."""
    blocks: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E
    c, o = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_O)
    split, n = tl.program_id(0), tl.program_id(1).to(tl.int64)
    y, grad, dz, w2n = y + n * voxels * C, grad + n * voxels * OUT, dz + n * voxels * C, w2n + n * GRN * OUT * E
    if GRN:
        change, inverse = change + n * E, inverse + n * E
        common = shared_gradient(shared + n * BLOCKS, BLOCKS, BLOCK_B)
    m, r = load_vector(mean + n * C, c, C), inverse_deviation(variance + n * C, c, eps, C)
    totals: tl.tuple = ()
    columns: tl.tuple = ()
    for _ in tl.static_range(blocks):
        totals = totals + (tl.zeros([BLOCK_E, BLOCK_C], tl.float32),)
        columns = columns + (tl.zeros([BLOCK_E, 16], tl.float32),)
    # a product with it sums over voxels; the interpreter of Triton before 3.7 makes no constants of bfloat16
    ones = tl.full([BLOCK_P, 16], 1.0, tl.float32).to(y.dtype.element_ty)
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, tl.cdiv(voxels, BLOCK_P))):
        rows = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
        z = rounded(normed(y, m, r, rows, voxels, c, C), y.dtype.element_ty)
        d = load_tile(grad, rows, o, OUT, 1, voxels, OUT)
        total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        for i in tl.static_range(blocks):
            e = i * BLOCK_E + tl.arange(0, BLOCK_E)
            w = load_tile(w1n, c, e, 1, C, C, E)
            u = dot(z, w, None) + load_vector(b1n, e, E)[None, :]
            du = dot(d, load_tile(w2n, o, e, E, 1, OUT, E), None)
            h, slope = gelu_and_slope(u, HALF)
            if GRN:
                du += h * norm_gradient(change, inverse, common, e, E)[None, :]
            du = rounded(tl.where((rows < voxels)[:, None], du * slope, 0.0), z.dtype)
            total = dot(du, tl.trans(w), total)
            du = tl.trans(du)
            totals = totals[:i] + (dot(du, z, totals[i]),) + totals[i + 1 :]
            columns = columns[:i] + (dot(du, ones, columns[i]),) + columns[i + 1 :]
        store_tile(dz, total, rows, c, C, 1, voxels, C)
    sums += (n * tl.num_programs(0) + split) * E * (C + 1)
    for i in tl.static_range(blocks):
        e = i * BLOCK_E + tl.arange(0, BLOCK_E)
        store_tile(sums, totals[i], e, c, C, 1, E, C)
        tl.store(sums + E * C + e, tl.max(columns[i], 1), mask=e < E)  # all 16 are equal


@triton.jit(do_not_specialize=["voxels", "eps"])
def correction_kernel(dz, y, mean, variance, offset, slope, voxels, eps, C: tl.constexpr, BLOCK_P: tl.constexpr,
                      BLOCK_C: tl.constexpr):  # fmt: skip
    """Replace a tile of `dz` by `dy = r (dz - offset - slope z)`."""
    c, n = tl.arange(0, BLOCK_C), tl.program_id(1).to(tl.int64)
    rows = (tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
    m, r = load_vector(mean + n * C, c, C), inverse_deviation(variance + n * C, c, eps, C)
    z = normed(y + n * voxels * C, m, r, rows, voxels, c, C)
    dz += n * voxels * C
    value = load_tile(dz, rows, c, C, 1, voxels, C).to(tl.float32)
    value -= load_vector(offset + n * C, c, C)[None, :] + load_vector(slope + n * C, c, C)[None, :] * z
    value = tl.where(voxels > 1, value * r[None, :], 0.0)  # the norm of a single voxel is constant
    store_tile(dz, value, rows, c, C, 1, voxels, C)
