# ruff: noqa: N803  (constants of a kernel are written in capitals)
"""The parts that the Triton kernels of a block share: tiles, products, the norm, GELU and its slope.

GELU in half precision is `u / 2 (1 + tanh(u p(u²)))` with a fitted polynomial `p`, since `erf` and `exp` cost more than
everything else in a block. The error of `p` is at most 4e-5, and that of the processor's `tanh.approx` 2⁻¹¹ of its
value (PTX's bound): together less than a bfloat16 rounding of a result near 1. Triton's interpreter, which cannot run
assembler, uses an exact hyperbolic tangent instead. In float32, GELU is exact.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# tanh(u (P0 + P1 u² + P2 u⁴)) is 2 Phi(u) - 1, fitted for u² up to LIMIT; beyond it both equal 1 to seven digits
P0, P1, P2 = tl.constexpr(0.797424263), tl.constexpr(0.0370008652), tl.constexpr(-0.000345869328)
LIMIT = tl.constexpr(40.0)


@triton.jit
def rounded(values, dtype: tl.constexpr):
    """Convert float32 values to the dtype of features, rounding to the nearest value."""
    if INTERPRETED and dtype == tl.bfloat16:  # Triton's interpreter would truncate the digits
        bits = values.to(tl.int32, bitcast=True)
        values = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
    return values.to(dtype)


@triton.jit
def load_tile(pointer, i, j, stride_i, stride_j, size_i, size_j):
    """Load a tile; zero outside."""
    mask = (i < size_i)[:, None] & (j < size_j)[None, :]
    return tl.load(pointer + i[:, None] * stride_i + j[None, :] * stride_j, mask=mask, other=0.0)


@triton.jit
def store_tile(pointer, values, i, j, stride_i, stride_j, size_i, size_j):
    """Store the part of a tile that is inside, in the tensor's dtype."""
    mask = (i < size_i)[:, None] & (j < size_j)[None, :]
    values = rounded(values.to(tl.float32), pointer.dtype.element_ty)
    tl.store(pointer + i[:, None] * stride_i + j[None, :] * stride_j, values, mask=mask)


@triton.jit
def load_vector(pointer, i, size):
    """Load a vector in float32; zero outside."""
    return tl.load(pointer + i, mask=i < size, other=0.0).to(tl.float32)


@triton.jit
def dot(a, b, total):
    """Return `total + a b` in float32."""
    if INTERPRETED:  # Triton's interpreter would multiply the bits of bfloat16 as integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def inverse_deviation(variance, c, eps, C: tl.constexpr):
    """Load the variance of channels and return the reciprocal of their deviation."""
    return tl.rsqrt(load_vector(variance, c, C) + eps)


@triton.jit
def normed(y, mean, rstd, rows, voxels, c, C: tl.constexpr):
    """Return a tile of `z = (y - mean) rstd` in float32; zero beyond the last voxel and the last channel."""
    values = load_tile(y, rows, c, C, 1, voxels, C).to(tl.float32)
    return tl.where((rows < voxels)[:, None], (values - mean[None, :]) * rstd[None, :], 0.0)


@triton.jit
def _tanh(x):
    if INTERPRETED:
        return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)
    return tl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )  # fmt: skip


@triton.jit
def gelu(u, HALF: tl.constexpr):
    """Return GELU of `u`, float32."""
    if HALF:
        q = tl.minimum(u * u, LIMIT)
        part = 0.5 * u
        return part + part * _tanh(u * (P0 + q * (P1 + q * P2)))
    return 0.5 * u * (1.0 + tl.erf(u * 0.7071067811865476))


@triton.jit
def gelu_and_slope(u, HALF: tl.constexpr):
    """Return GELU of `u` and its derivative."""
    if HALF:
        square = u * u
        q = tl.minimum(square, LIMIT)
        t = _tanh(u * (P0 + q * (P1 + q * P2)))
        below = 0.5 + 0.5 * t
        # no slope beyond the limit, where the tangent's error would be multiplied by a large `u`
        density = tl.where(square < LIMIT, (0.5 - 0.5 * t * t) * (P0 + q * (3.0 * P1 + q * (5.0 * P2))), 0.0)
    else:
        below = 0.5 * (1.0 + tl.erf(u * 0.7071067811865476))
        density = 0.3989422804014327 * tl.exp(-0.5 * u * u)
    return u * below, below + u * density


@triton.jit
def shared_gradient(shared, BLOCKS, BLOCK_B: tl.constexpr):
    """Return the part of GRN's gradient that all channels of a sample share, from the part that each program stored."""
    b = tl.arange(0, BLOCK_B)
    return tl.sum(tl.load(shared + b, mask=b < BLOCKS, other=0.0), 0)


@triton.jit
def norm_gradient(change, inverse, total, e, E: tl.constexpr):
    """Return `k`, where `dh` has the term `h k`: from the results of `scale_gradient_kernel` for this sample."""
    return load_vector(change, e, E) - total * load_vector(inverse, e, E)
