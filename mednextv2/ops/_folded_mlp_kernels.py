# ruff: noqa: N803  (what is constant when a kernel is compiled is written in capitals)
"""The five Triton kernels of the folded MLP, which `_folded_mlp_triton.py` launches.

A tile of voxels is normed, expanded and put through GELU in registers wherever the expanded values are needed: once
for their norms, once for the output, and three times in the backward pass. On a GPU that is cheaper than storing
them: in thin blocks, which hold nearly all voxels of a network, an expanded value costs one matrix-unit step of C
products and an `erf`, while storing it costs two trips to memory, each R times as long as reading `y`. So there is
also no need for chunks of rows. What is summed over voxels is summed by every program for its own rows, in float32,
and the few hundred partial sums are added by PyTorch: the result does not depend on the order of execution.

The names are those of `docs/fast_block.md`, with one change: voxels are centred and divided by their deviation in
registers, `z = (y - m) r`, and only the affine part of the norm is folded into the expansion, `W1' = W1 * norm_weight`.
So `W1'` belongs to all samples, and rounding (to half precision or TF32) happens after a large mean is gone.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
_FREE = ["voxels", "tiles"]  # arguments that must not cause a compilation for every new size of image


@triton.jit
def _tile(pointer, i, j, stride_i, stride_j, size_i, size_j):
    mask = (i < size_i)[:, None] & (j < size_j)[None, :]
    return tl.load(pointer + i[:, None] * stride_i + j[None, :] * stride_j, mask=mask, other=0.0)


@triton.jit
def _dot(a, b, total, PRECISION: tl.constexpr):
    if INTERPRETED:  # Triton's interpreter would multiply the bits of bfloat16 as integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _put(pointer, values, i, j, stride_i, size_i, size_j):
    mask = (i < size_i)[:, None] & (j < size_j)[None, :]
    tl.store(pointer + i[:, None] * stride_i + j[None, :], values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _normed(y, mean, rstd, rows, voxels, c, C: tl.constexpr):
    """Return `z` in float32; zero beyond the last voxel and the last channel."""
    m = tl.load(mean + c, mask=c < C, other=0.0)
    r = tl.load(rstd + c, mask=c < C, other=0.0)
    values = _tile(y, rows, c, C, 1, voxels, C).to(tl.float32)
    return tl.where((rows < voxels)[:, None], (values - m[None, :]) * r[None, :], 0.0)


@triton.jit
def _expanded(z, w, y, mean, rstd, w1, b1, rows, voxels, e, C: tl.constexpr, E, BLOCK_C: tl.constexpr,
              PRECISION: tl.constexpr):  # fmt: skip
    """Return a tile of `u`, given the first block of channels of `z` and of `W1'` (which callers keep in a loop)."""
    u = _dot(z, w, None, PRECISION)
    for start in tl.static_range(BLOCK_C, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        more = _normed(y, mean, rstd, rows, voxels, c, C).to(z.dtype)
        u = _dot(more, _tile(w1, c, e, 1, C, C, E), u, PRECISION)
    return u + tl.load(b1 + e, mask=e < E, other=0.0)[None, :]


@triton.jit
def _compressed_gradient(d, w, grad, w2, rows, voxels, e, OUT: tl.constexpr, E, BLOCK_O: tl.constexpr,
                         PRECISION: tl.constexpr):  # fmt: skip
    """Return a tile of `D (W2 s)`, given the first block of channels of both."""
    dh = _dot(d, w, None, PRECISION)
    for start in tl.static_range(BLOCK_O, OUT, BLOCK_O):
        o = start + tl.arange(0, BLOCK_O)
        more = _tile(grad, rows, o, OUT, 1, voxels, OUT)
        dh = _dot(more, _tile(w2, o, e, E, 1, OUT, E), dh, PRECISION)
    return dh


@triton.jit
def _gelu(u):
    return 0.5 * u * (1.0 + tl.erf(u * 0.7071067811865476))


@triton.jit
def _expanded_gradient(u, dh, k):
    """Return `du`, given `u`, the part of `dh` that does not go through GRN's norms, and `k` for the part that does."""
    cdf = 0.5 * (1.0 + tl.erf(u * 0.7071067811865476))
    slope = cdf + u * 0.3989422804014327 * tl.exp(-0.5 * u * u)
    return (dh + u * cdf * k[None, :]) * slope


@triton.jit(do_not_specialize=_FREE)
def norms_kernel(y, mean, rstd, w1, b1, squares, voxels, tiles, C: tl.constexpr, E: tl.constexpr, OUT: tl.constexpr,
                  BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_O: tl.constexpr,
                  PRECISION: tl.constexpr):  # fmt: skip
    """Sum `h^2` over the rows of one split."""
    e, c = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_C)
    split, n = tl.program_id(1), tl.program_id(2).to(tl.int64)
    y, mean, rstd = y + n * voxels * C, mean + n * C, rstd + n * C
    w = _tile(w1, c, e, 1, C, C, E)
    total = tl.zeros([BLOCK_P, BLOCK_E], tl.float32)  # summed over its rows only after the loop
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, tl.cdiv(voxels, BLOCK_P))):
        rows = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
        z = _normed(y, mean, rstd, rows, voxels, c, C).to(y.dtype.element_ty)
        h = _gelu(_expanded(z, w, y, mean, rstd, w1, b1, rows, voxels, e, C, E, BLOCK_C, PRECISION))
        total += tl.where((rows < voxels)[:, None], h * h, 0.0)
    tl.store(squares + (n * tl.num_programs(1) + split) * E + e, tl.sum(total, 0), mask=e < E)


@triton.jit(do_not_specialize=["voxels"])
def output_kernel(y, mean, rstd, w1, b1, w2, b2, residual, out, voxels, HAS_RESIDUAL: tl.constexpr,
                   PER_SAMPLE: tl.constexpr, C: tl.constexpr, E: tl.constexpr, OUT: tl.constexpr,
                   BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_O: tl.constexpr,
                   PRECISION: tl.constexpr):  # fmt: skip
    """Compute a tile of the output; `PER_SAMPLE` is 1 where every sample has its own `w2` and `b2`, else 0."""
    blocks: tl.constexpr = (OUT + BLOCK_O - 1) // BLOCK_O
    n = tl.program_id(1).to(tl.int64)
    rows = (tl.program_id(0) // blocks * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
    o, c = tl.program_id(0) % blocks * BLOCK_O + tl.arange(0, BLOCK_O), tl.arange(0, BLOCK_C)
    y, mean, rstd, w2 = y + n * voxels * C, mean + n * C, rstd + n * C, w2 + n * PER_SAMPLE * OUT * E
    z = _normed(y, mean, rstd, rows, voxels, c, C).to(y.dtype.element_ty)
    total = tl.zeros([BLOCK_P, BLOCK_O], tl.float32)
    for start in range(0, E, BLOCK_E):
        e = start + tl.arange(0, BLOCK_E)
        w = _tile(w1, c, e, 1, C, C, E)
        u = _expanded(z, w, y, mean, rstd, w1, b1, rows, voxels, e, C, E, BLOCK_C, PRECISION)
        total = _dot(_gelu(u).to(z.dtype), _tile(w2, e, o, 1, E, E, OUT), total, PRECISION)
    total += tl.load(b2 + n * PER_SAMPLE * OUT + o, mask=o < OUT, other=0.0)[None, :]
    if HAS_RESIDUAL:
        total += _tile(residual + n * voxels * OUT, rows, o, OUT, 1, voxels, OUT).to(tl.float32)
    _put(out + n * voxels * OUT, total, rows, o, OUT, voxels, OUT)


@triton.jit(do_not_specialize=_FREE)
def w2_kernel(grad, y, mean, rstd, w1, b1, g2, d_sum, voxels, tiles, C: tl.constexpr, E: tl.constexpr,
               OUT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr,
               BLOCK_O: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Sum `h^T D` (the document's G2, transposed) and `D` over the rows of one split."""
    blocks: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E
    e = tl.program_id(0) % blocks * BLOCK_E + tl.arange(0, BLOCK_E)
    o, c = tl.program_id(0) // blocks * BLOCK_O + tl.arange(0, BLOCK_O), tl.arange(0, BLOCK_C)
    split, n = tl.program_id(1), tl.program_id(2).to(tl.int64)
    y, mean, rstd, grad = y + n * voxels * C, mean + n * C, rstd + n * C, grad + n * voxels * OUT
    w = _tile(w1, c, e, 1, C, C, E)
    total = tl.zeros([BLOCK_E, BLOCK_O], tl.float32)
    total_d = tl.zeros([BLOCK_O], tl.float32)
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, tl.cdiv(voxels, BLOCK_P))):
        rows = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
        z = _normed(y, mean, rstd, rows, voxels, c, C).to(y.dtype.element_ty)
        h = _gelu(_expanded(z, w, y, mean, rstd, w1, b1, rows, voxels, e, C, E, BLOCK_C, PRECISION)).to(z.dtype)
        d = _tile(grad, rows, o, OUT, 1, voxels, OUT)  # zero beyond the last voxel, where h is not
        total = _dot(tl.trans(h), d, total, PRECISION)
        total_d += tl.sum(d.to(tl.float32), 0)
    index = n * tl.num_programs(1) + split
    _put(g2 + index * E * OUT, total, e, o, OUT, E, OUT)
    if tl.program_id(0) % blocks == 0:
        tl.store(d_sum + index * OUT + o, total_d, mask=o < OUT)


@triton.jit(do_not_specialize=_FREE)
def w1_kernel(grad, y, mean, rstd, w1, b1, w2, k, g1, b_sum, voxels, tiles, PER_SAMPLE: tl.constexpr,
               C: tl.constexpr, E: tl.constexpr, OUT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
               BLOCK_E: tl.constexpr, BLOCK_O: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Sum `du^T z` and `du` over the rows of one split."""
    blocks: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E
    e = tl.program_id(0) % blocks * BLOCK_E + tl.arange(0, BLOCK_E)
    own = tl.program_id(0) // blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    o, c = tl.arange(0, BLOCK_O), tl.arange(0, BLOCK_C)
    split, n = tl.program_id(1), tl.program_id(2).to(tl.int64)
    y, mean, rstd, grad = y + n * voxels * C, mean + n * C, rstd + n * C, grad + n * voxels * OUT
    w2 += n * PER_SAMPLE * OUT * E
    kn = tl.load(k + n * PER_SAMPLE * E + e, mask=e < E, other=0.0)
    w, v = _tile(w1, c, e, 1, C, C, E), _tile(w2, o, e, E, 1, OUT, E)
    total = tl.zeros([BLOCK_E, BLOCK_C], tl.float32)
    total_u = tl.zeros([BLOCK_E], tl.float32)
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, tl.cdiv(voxels, BLOCK_P))):
        rows = (tile * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
        z = _normed(y, mean, rstd, rows, voxels, c, C).to(y.dtype.element_ty)
        d = _tile(grad, rows, o, OUT, 1, voxels, OUT)
        u = _expanded(z, w, y, mean, rstd, w1, b1, rows, voxels, e, C, E, BLOCK_C, PRECISION)
        dh = _compressed_gradient(d, v, grad, w2, rows, voxels, e, OUT, E, BLOCK_O, PRECISION)
        du = tl.where((rows < voxels)[:, None], _expanded_gradient(u, dh, kn), 0.0)
        if C > BLOCK_C:
            z = _normed(y, mean, rstd, rows, voxels, own, C).to(y.dtype.element_ty)
        total = _dot(tl.trans(du.to(z.dtype)), z, total, PRECISION)
        total_u += tl.sum(du, 0)
    index = n * tl.num_programs(1) + split
    _put(g1 + index * E * C, total, e, own, C, E, C)
    if tl.program_id(0) < blocks:
        tl.store(b_sum + index * E + e, total_u, mask=e < E)


@triton.jit(do_not_specialize=["voxels"])
def input_kernel(grad, y, mean, rstd, w1, b1, w2, k, offset, slope, dy, voxels, PER_SAMPLE: tl.constexpr,
                  C: tl.constexpr, E: tl.constexpr, OUT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
                  BLOCK_E: tl.constexpr, BLOCK_O: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Compute a tile of `dy = r (du W1' - offset - slope z)`."""
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    n = tl.program_id(1).to(tl.int64)
    rows = (tl.program_id(0) // blocks * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
    own = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    o, c = tl.arange(0, BLOCK_O), tl.arange(0, BLOCK_C)
    y, mean, rstd, grad = y + n * voxels * C, mean + n * C, rstd + n * C, grad + n * voxels * OUT
    w2, k = w2 + n * PER_SAMPLE * OUT * E, k + n * PER_SAMPLE * E
    z = _normed(y, mean, rstd, rows, voxels, c, C).to(y.dtype.element_ty)
    d = _tile(grad, rows, o, OUT, 1, voxels, OUT)
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in range(0, E, BLOCK_E):
        e = start + tl.arange(0, BLOCK_E)
        w, v = _tile(w1, c, e, 1, C, C, E), _tile(w2, o, e, E, 1, OUT, E)
        u = _expanded(z, w, y, mean, rstd, w1, b1, rows, voxels, e, C, E, BLOCK_C, PRECISION)
        dh = _compressed_gradient(d, v, grad, w2, rows, voxels, e, OUT, E, BLOCK_O, PRECISION)
        du = _expanded_gradient(u, dh, tl.load(k + e, mask=e < E, other=0.0)).to(z.dtype)
        total = _dot(du, _tile(w1, e, own, C, 1, E, C), total, PRECISION)
    total -= tl.load(offset + n * C + own, mask=own < C, other=0.0)[None, :]
    exact = _normed(y, mean, rstd, rows, voxels, own, C)
    total -= exact * tl.load(slope + n * C + own, mask=own < C, other=0.0)[None, :]
    total *= tl.load(rstd + own, mask=own < C, other=0.0)[None, :]
    _put(dy + n * voxels * C, total, rows, own, C, voxels, C)
