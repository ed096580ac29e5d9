"""The folded MLP in PyTorch calls: for every device and dtype, and without a compiler.

GRN's scale per channel, which precedes a matrix product, is moved into the matrix, so that only products with rows of
voxels remain. Rows are processed in chunks, so that only the expanded rows of one chunk are in memory (on a CPU, in its
cache). The formulas and their derivation are in `docs/fast_block.md`, whose names are used here.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mednextv2.ops import memory_layout
from mednextv2.ops.parameters import Mlp, Settings, Statistics

CPU_CHUNK = 2**21  # elements of one chunk of expanded rows; larger ones leave the cache
GPU_CHUNK = 2**26  # here, only memory counts: 256 MiB in float32, and several chunks exist at a time


def forward(
    y: Tensor, statistics: Statistics, mlp: Mlp, residual: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Return the output, `(N, O, *spatial)`, and the norms `g`, `(N, E)`; arguments as for `folded_mlp_op`."""
    (mean, variance), (norm_eps, grn_eps, grn_sum) = statistics, settings
    norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2 = mlp
    y_rows = memory_layout.rows(y)
    residual_rows = None if residual is None else memory_layout.rows(residual)
    out = y.new_empty(y.shape[0], y_rows.shape[1], w2.shape[0])
    w1t, b1n = w1.to(y.dtype).t(), b1.to(y.dtype)
    norms = []
    for n in range(y.shape[0]):
        a = norm_weight.to(mean.dtype) * torch.rsqrt(variance[n] + norm_eps)
        chunks = y_rows[n].split(_chunk_rows(y, w1))

        def expanded(chunk, n=n, a=a):
            return F.gelu(torch.addmm(b1n, normalise(chunk, mean[n], a, norm_bias), w1t))

        w2n, b2n = w2.to(mean.dtype), b2.to(mean.dtype)
        kept = None
        if gamma is not None and beta is not None:
            kept = [expanded(chunks[0])] if len(chunks) == 1 else None
            g = sum_of_squares(kept or map(expanded, chunks), mean.dtype).sqrt()
            norms.append(g)
            s = response(g[None], gamma, grn_eps, grn_sum).s[0]
            b2n = b2n + w2n @ beta.to(mean.dtype)
            w2n = w2n * s
        w2n, b2n = w2n.to(y.dtype), b2n.to(y.dtype)
        start = 0
        for i, c in enumerate(chunks):
            stop = start + c.shape[0]
            torch.addmm(b2n, kept[i] if kept else expanded(c), w2n.t(), out=out[n, start:stop])
            if residual_rows is not None:
                out[n, start:stop] += residual_rows[n, start:stop]
            start = stop
    return memory_layout.from_rows(out, y), torch.stack(norms) if norms else mean.new_empty(y.shape[0], 0)


def backward(
    grad: Tensor, y: Tensor, statistics: Statistics, mlp: Mlp, g: Tensor, settings: Settings
) -> tuple[Tensor, Mlp]:
    """Return the gradients of y and of the weights, given the gradient of the output."""
    (mean, variance), (norm_eps, grn_eps, grn_sum) = statistics, settings
    norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2 = mlp
    stat = mean.dtype
    y_rows, d_rows = memory_layout.rows(y), memory_layout.rows(grad)
    voxels = y_rows.shape[1]
    dy = torch.empty_like(y_rows, memory_format=torch.contiguous_format)
    dw1, db1, dw2, db2, dnw, dnb = (torch.zeros_like(p, dtype=stat) for p in (w1, b1, w2, b2, norm_weight, norm_bias))
    dgamma, dbeta = (mean.new_zeros(0 if p is None else p.shape) for p in (gamma, beta))
    w1n, b1n, w2s = w1.to(y.dtype), b1.to(y.dtype), w2.to(stat)
    size = _chunk_rows(y, w1)
    for n in range(y.shape[0]):
        r = torch.rsqrt(variance[n] + norm_eps)
        a = norm_weight.to(stat) * r
        pairs = list(zip(y_rows[n].split(size), d_rows[n].split(size), strict=True))
        g2 = torch.zeros_like(dw2)  # D^T h
        for c, d in pairs:
            g2 += d.t() @ F.gelu(torch.addmm(b1n, normalise(c, mean[n], a, norm_bias), w1n.t()))
        d_sum = d_rows[n].sum(0, dtype=stat)
        db2 += d_sum
        s, k = None, None
        if gamma is None or beta is None:
            dw2 += g2
        else:
            s, k, own = grn_gradient(g2[None], w2s, g[n : n + 1], gamma, grn_eps, grn_sum)
            dgamma += own
            dbeta += w2s.t() @ d_sum
            dw2 += g2 * s + torch.outer(d_sum, beta.to(stat))
        w2n = (w2s if s is None else w2s * s).to(y.dtype)
        total, product, start = mean.new_zeros(y.shape[1]), mean.new_zeros(y.shape[1]), 0
        for c, d in pairs:
            z = normalise(c, mean[n], a, norm_bias)
            u = torch.addmm(b1n, z, w1n.t())
            dh = (d @ w2n).to(stat)
            if k is not None:
                dh.addcmul_(F.gelu(u).to(stat), k)
            du = torch.ops.aten.gelu_backward(dh, u.to(stat)).to(y.dtype)
            dw1 += du.t() @ z
            db1 += du.sum(0, dtype=stat)
            stop = start + c.shape[0]
            dz = torch.mm(du, w1n, out=dy[n, start:stop]).to(stat)
            total += dz.sum(0)
            product += (dz * (c.to(stat) - mean[n])).sum(0) * r
            start = stop
        dnb += total
        dnw += product
        # dy = a (dz - mean(dz) - x mean(dz x)), x = r (y - m): an offset and a slope per channel besides the scale
        offset, slope = -a * total / voxels, -a * r * product / voxels
        centred = y_rows[n].to(stat) - mean[n]
        dy[n] = (dy[n].to(stat) * a + torch.addcmul(offset, centred, slope)).to(dy.dtype)
    if voxels == 1:  # the norm of a single voxel is constant; a difference of rounded numbers is not quite zero
        dy.zero_()
    return memory_layout.from_rows(dy, y), mlp.with_dtypes(Mlp(dnw, dnb, dw1, db1, dgamma, dbeta, dw2, db2))


def normalise(chunk, mean, scale, shift):
    """Normalise rows of one sample in the dtype of the statistics: `(y - mean) * scale + shift`, in `chunk`'s dtype.

    The scale is not folded into the weights: the rows are C wide, so this is a fraction of the work, and a large mean
    cancels before any
    """
    return torch.addcmul(shift.to(mean.dtype), chunk.to(mean.dtype) - mean, scale).to(chunk.dtype)


class Response(NamedTuple):
    """GRN's scale `s = 1 + gamma n`, `n = g / d` and the denominator `d`: `(N, E)`, `(N, E)` and `(N, 1)`."""

    s: Tensor
    n: Tensor
    d: Tensor


def response(g: Tensor, gamma: Tensor, grn_eps: float, grn_sum: bool) -> Response:
    """Return GRN's response of every sample, from the norms `(N, E)`."""
    d = (g.sum(1, keepdim=True) if grn_sum else g.mean(1, keepdim=True)) + grn_eps
    n = g / d
    return Response(1 + gamma.to(g.dtype) * n, n, d)


def grn_gradient(g2, w2, g, gamma, grn_eps, grn_sum):
    """Return `s`, `k` (`dh` has a term `h k`) and the gradient of gamma, from `g2 = D^T h`, `(N, O, E)`."""
    s, n, d = response(g, gamma, grn_eps, grn_sum)
    ds = (w2 * g2).sum(1)
    dn = ds * gamma.to(g.dtype)
    shared = (dn * g).sum(1, keepdim=True) / d**2
    dg = dn / d - (shared if grn_sum else shared / g.shape[1])
    return s, torch.where(g > 0, dg / g, 0.0), (ds * n).sum(0)


def sum_of_squares(chunks, dtype):
    """Return the sum of squares over the rows of an iterable of chunks, `(E,)`, in `dtype`."""
    total = 0.0
    for h in chunks:
        total = total + torch.linalg.vector_norm(h, dim=0, dtype=dtype).square()
    return total


def _chunk_rows(y: Tensor, w1: Tensor) -> int:
    elements = GPU_CHUNK if y.is_cuda else CPU_CHUNK
    return max(64, elements // w1.shape[0])
