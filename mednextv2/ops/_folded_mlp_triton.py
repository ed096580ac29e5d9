# ruff: noqa: N803  (what is constant when a kernel is compiled is written in capitals)
"""The folded MLP on CUDA: five Triton kernels, and never a tensor of the expanded width in memory.

A tile of voxels is normed, expanded and put through GELU in registers wherever the expanded values are needed: once
for their norms, once for the output, and three times in the backward pass. On a GPU that is cheaper than storing
them: in thin blocks, which hold nearly all voxels of a network, an expanded value costs one matrix-unit step of C
products and an `erf`, while storing it costs two trips to memory, each R times as long as reading `y`. So there is
also no need for chunks of rows. What is summed over voxels is summed by every program for its own rows, in float32,
and the few hundred partial sums are added by PyTorch: the result does not depend on the order of execution.

Blocks wider than `WIDEST` channels lie deep in the network, with few voxels and large matrix products: there the
recomputation would dominate, and `_folded_mlp_torch.py`, that is cuBLAS, is the better choice.

The names are those of `docs/fast_block.md`, with one change: voxels are centred and divided by their deviation in
registers, `z = (y - m) r`, and only the affine part of the norm is folded into the expansion, `W1' = W1 * norm_weight`.
So `W1'` belongs to all samples, and rounding (to half precision or TF32) happens after a large mean is gone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mednextv2.ops import _folded_mlp_torch as folded
from mednextv2.ops import _triton_configs as configs
from mednextv2.ops import paths

WIDEST = {torch.float32: 128, torch.float16: 256, torch.bfloat16: 256}  # channels of input or output; not measured
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
def _norms_kernel(y, mean, rstd, w1, b1, squares, voxels, tiles, C: tl.constexpr, E: tl.constexpr, OUT: tl.constexpr,
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
def _output_kernel(y, mean, rstd, w1, b1, w2, b2, residual, out, voxels, HAS_RESIDUAL: tl.constexpr,
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
def _w2_kernel(grad, y, mean, rstd, w1, b1, g2, d_sum, voxels, tiles, C: tl.constexpr, E: tl.constexpr,
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
def _w1_kernel(grad, y, mean, rstd, w1, b1, w2, k, g1, b_sum, voxels, tiles, PER_SAMPLE: tl.constexpr,
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
def _input_kernel(grad, y, mean, rstd, w1, b1, w2, k, offset, slope, dy, voxels, PER_SAMPLE: tl.constexpr,
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


def forward(
    y, mean, variance, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, residual, norm_eps, grn_eps, grn_sum
):  # fmt: skip
    """Return the output, `(N, O, *spatial)`, and the norms `g`, `(N, E)`; arguments as in `folded_mlp_op`."""
    if _too_wide(y, w2):
        return folded.forward(
            y, mean, variance, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, residual, norm_eps, grn_eps,
            grn_sum,
        )  # fmt: skip
    launch, inputs = _Launch(y, w1, w2), _fold(y, mean, variance, norm_weight, norm_bias, w1, b1, norm_eps)
    w2n, b2n, g = w2.float(), b2.float(), mean.new_empty(y.shape[0], 0)
    if gamma is not None:
        (squares,) = launch.sum("mlp_norms", _norms_kernel, inputs, ((launch.expanded,),), launch.expanded)
        g = squares.sqrt()
        b2n = (b2n + w2n @ beta.float()).expand(y.shape[0], -1).contiguous()
        w2n = w2n * response(g, gamma, grn_eps, grn_sum)[0][:, None]
    out = y.new_empty(y.shape[0], launch.voxels, w2.shape[0])
    rows = inputs[0] if residual is None else paths.rows(residual).contiguous()
    launch.map("mlp_output", _output_kernel, (*inputs, w2n.to(y.dtype), b2n, rows, out), launch.out,
               HAS_RESIDUAL=residual is not None, PER_SAMPLE=int(gamma is not None))  # fmt: skip
    return paths.from_rows(out, y), g


def backward(
    grad, y, mean, variance, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, g, norm_eps, grn_eps, grn_sum
):  # fmt: skip
    """Return the gradients of y, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, given that of the output."""
    if _too_wide(y, w2):
        return folded.backward(
            grad, y, mean, variance, norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2, g, norm_eps, grn_eps,
            grn_sum,
        )  # fmt: skip
    launch = _Launch(y, w1, w2)
    inputs = (paths.rows(grad).to(y.dtype).contiguous(),
              *_fold(y, mean, variance, norm_weight, norm_bias, w1, b1, norm_eps))  # fmt: skip
    w1s, w2s = w1.float(), w2.float()
    expanded, channels, out = launch.expanded, launch.channels, launch.out
    g2, d_sum = launch.sum("mlp_w2", _w2_kernel, inputs, ((expanded, out), (out,)), expanded, out)
    g2 = g2.transpose(1, 2)  # (N, O, E)
    dw2, db2 = g2.sum(0), d_sum.sum(0)
    dgamma = dbeta = None
    w2n, k = w2s, w2s.new_zeros(expanded)
    if gamma is not None:
        s, k, dgamma = grn_gradient(g2, w2s, g, gamma, grn_eps, grn_sum)
        dw2 = (g2 * s[:, None]).sum(0) + torch.outer(db2, beta.float())
        dbeta = w2s.t() @ db2
        w2n = w2s * s[:, None]
    inputs, own = (*inputs, w2n.to(y.dtype), k), int(gamma is not None)
    g1, b_sum = launch.sum("mlp_w1", _w1_kernel, inputs, ((expanded, channels), (expanded,)), expanded, channels,
                           PER_SAMPLE=own)  # fmt: skip
    total, db1 = g1.sum(0), b_sum.sum(0)
    folded_w1 = inputs[4].float()
    dy = inputs[1].new_empty(inputs[1].shape)
    # the part of dy that goes through mean and variance: the mean of dz and its slope over z, both known already
    means = (b_sum @ folded_w1 / launch.voxels, (folded_w1 * g1).sum(1) / launch.voxels)
    launch.map("mlp_input", _input_kernel, (*inputs, *means, dy), channels, PER_SAMPLE=own)
    gradients = (
        (w1s * total).sum(0), w1s.t() @ db1, total * norm_weight.float() + torch.outer(db1, norm_bias.float()), db1,
        dgamma, dbeta, dw2, db2,
    )  # fmt: skip
    parameters = (norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2)
    return paths.from_rows(dy, y), *(
        w1.new_empty(0) if p is None else v.to(p.dtype) for v, p in zip(gradients, parameters, strict=True)
    )


def response(g, gamma, grn_eps, grn_sum):
    """Return GRN's `s = 1 + gamma n`, `n = g / d` and the denominator `d` of every sample, from the norms `(N, E)`."""
    d = (g.sum(1, keepdim=True) if grn_sum else g.mean(1, keepdim=True)) + grn_eps
    n = g / d
    return 1 + gamma.float() * n, n, d


def grn_gradient(g2, w2, g, gamma, grn_eps, grn_sum):
    """Return `s` and `k` of every sample and the gradient of gamma, from `g2 = D^T h`, `(N, O, E)`."""
    s, n, d = response(g, gamma, grn_eps, grn_sum)
    ds = (w2 * g2).sum(1)
    dn = ds * gamma.float()
    shared = (dn * g).sum(1, keepdim=True) / d**2
    dg = dn / d - (shared if grn_sum else shared / g.shape[1])
    return s, torch.where(g > 0, dg / g, 0.0), (ds * n).sum(0)


def _fold(y, mean, variance, norm_weight, norm_bias, w1, b1, norm_eps):
    """Return what every kernel takes: rows, mean, 1 / deviation, `W1'` in the dtype of `y`, and `b1'`."""
    w1s = w1.float()
    w1n = (w1s * norm_weight.float()).to(y.dtype).contiguous()
    b1n = torch.addmv(b1.float(), w1s, norm_bias.float())
    return paths.rows(y).contiguous(), mean.contiguous(), torch.rsqrt(variance + norm_eps).contiguous(), w1n, b1n


def _too_wide(y, w2):
    return max(y.shape[1], w2.shape[0]) > WIDEST[y.dtype]


class _Launch:
    """Launches the kernels on one problem."""

    def __init__(self, y: Tensor, w1: Tensor, w2: Tensor) -> None:
        self.y, self.samples, self.channels = y, y.shape[0], y.shape[1]
        self.voxels, self.expanded, self.out = y[0, 0].numel(), w1.shape[0], w2.shape[0]

    def sum(self, name, kernel, inputs, shapes, expanded, channels=1, **constants) -> list[Tensor]:
        """Sum over voxels: programs for blocks of `expanded` x `channels`; returns `(N, *shape)` for each shape."""
        config, constants = self._constants(name, constants)
        blocks = triton.cdiv(expanded, constants["BLOCK_E"]) * triton.cdiv(channels, configs.channel_block(channels))
        tiles = triton.cdiv(self.voxels, constants["BLOCK_P"])
        per_split = triton.cdiv(tiles, max(1, config.programs // (blocks * self.samples)))
        splits = triton.cdiv(tiles, per_split)
        partial = [self.y.new_empty(self.samples, splits, *s, dtype=torch.float32) for s in shapes]
        with torch.cuda.device_of(self.y):
            kernel[blocks, splits, self.samples](*inputs, *partial, self.voxels, per_split, **constants)
        return [p.sum(1) for p in partial]

    def map(self, name, kernel, tensors, channels, **constants) -> None:
        """Compute tiles of rows x blocks of `channels`, over all voxels."""
        _, constants = self._constants(name, constants)
        tiles = triton.cdiv(self.voxels, constants["BLOCK_P"]) * triton.cdiv(channels, configs.channel_block(channels))
        with torch.cuda.device_of(self.y):
            kernel[tiles, self.samples](*tensors, self.voxels, **constants)

    def _constants(self, name, constants):
        config = configs.lookup(name, self.y, max(self.channels, self.out))
        rows, expanded = config.blocks
        return config, constants | {
            "C": self.channels, "E": self.expanded, "OUT": self.out, "BLOCK_P": rows,
            "BLOCK_C": configs.channel_block(self.channels), "BLOCK_O": configs.channel_block(self.out),
            "BLOCK_E": configs.fitting(expanded, self.expanded), "PRECISION": configs.precision(),
            "num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": True,
        }  # fmt: skip
