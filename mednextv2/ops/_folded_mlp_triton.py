"""The folded MLP on CUDA: the order of the launches, and the two products that cuBLAS computes.

Thin blocks never have a tensor of the expanded width; wide ones store it for the duration of a call (see the modules of
the kernels).
"""

import torch
import triton
from torch import Tensor

from mednextv2.ops import _folded_mlp_small_kernels as small_kernels
from mednextv2.ops import _triton_configs as configs
from mednextv2.ops import memory_layout
from mednextv2.ops._folded_mlp_launch import Folded, Launch, Moments, empty
from mednextv2.ops.parameters import Mlp, Settings, Statistics


def fold(y: Tensor, mlp: Mlp, moments: Moments | None, statistics: Statistics | None = None) -> Folded:
    """Fold the norm into the expansion, and combine the moments of tiles, if there are any, in one launch."""
    samples, channels = y.shape[:2]
    expanded = mlp.w1.shape[0]
    w1n, b1n = y.new_empty(expanded, channels), y.new_empty(expanded, dtype=torch.float32)
    mean, variance = statistics or empty(y, (samples, channels), (samples, channels))
    block_m, block_t = configs.MOMENTS
    programs = 0 if moments is None else samples * triton.cdiv(channels, block_m)
    parts = moments or Moments(mean, mean, mean)
    with torch.cuda.device_of(y):
        small_kernels.fold_kernel[programs + triton.cdiv(expanded, 16),](
            *parts, mean, variance, mlp.w1, mlp.b1, mlp.norm_weight, mlp.norm_bias, w1n, b1n, parts.counts.shape[0],
            programs, C=channels, E=expanded, BLOCK_M=block_m, BLOCK_T=block_t, BLOCK_E=16,
            BLOCK_C=min(configs.power_of_two(channels), 256), num_warps=8,
        )  # fmt: skip
    return Folded(mean.contiguous(), variance.contiguous(), w1n, b1n)


def fold_weights(y: Tensor, mlp: Mlp) -> tuple[Tensor, Tensor]:
    """Return only `w1n` and `b1n`."""
    nothing = y.new_empty(0, dtype=torch.float32)
    folded = fold(y, mlp, None, Statistics(nothing, nothing))
    return folded.w1n, folded.b1n


def forward(
    y: Tensor, statistics: Statistics, mlp: Mlp, residual: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Return the output, `(N, O, *spatial)`, and the norms `g`, `(N, E)`; arguments as for `folded_mlp_op`."""
    mlp = mlp.contiguous()
    return forward_folded(y, fold(y, mlp, None, statistics), mlp, residual, settings)


def backward(
    grad: Tensor, y: Tensor, statistics: Statistics, mlp: Mlp, g: Tensor, settings: Settings
) -> tuple[Tensor, Mlp]:
    """Return the gradients of y and of the weights, given the gradient of the output."""
    mlp = mlp.contiguous()
    dy, gradients, _ = backward_folded(grad, y, fold(y, mlp, None, statistics), mlp, g, settings)
    return dy, gradients


def forward_folded(
    y: Tensor, folded: Folded, mlp: Mlp, residual: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Do the same as `forward`, for weights that are already folded."""
    launch, rows = Launch(y, mlp, settings), memory_layout.rows(y).contiguous()
    expansion = (rows, *folded)
    grn = mlp.gamma is not None
    h = None if launch.thin else y.new_empty(launch.samples, launch.voxels, launch.expanded)
    squares = launch.norms(expansion, h, grn)
    w2n, b2n, g = mlp.w2, mlp.b2, folded.mean.new_empty(launch.samples, 0)
    if squares is not None:
        w2n, b2n, g = launch.response(squares, mlp)
    w2n = w2n.to(y.dtype).contiguous()
    out = y.new_empty(launch.samples, launch.voxels, launch.out)
    added = rows if residual is None else memory_layout.rows(residual).contiguous()
    launch.output(expansion, h, w2n, b2n, added, out, HAS_RESIDUAL=residual is not None, PER_SAMPLE=int(grn))
    return memory_layout.from_rows(out, y), g


def backward_folded(
    grad: Tensor, y: Tensor, folded: Folded, mlp: Mlp, g: Tensor, settings: Settings
) -> tuple[Tensor, Mlp, Tensor]:
    """Do the same as `backward`, for weights that are already folded; also return zeros, `(C,)`."""
    launch = Launch(y, mlp, settings)
    d, rows = memory_layout.rows(grad).to(y.dtype).contiguous(), memory_layout.rows(y).contiguous()
    if launch.thin:
        g2, d_sum = launch.thin_compression(d, rows, folded)
        w2n, norm, own = launch.scale_gradient(g2, d_sum, mlp, g)
        g1, sums, dz = launch.thin_expansion(d, rows, folded, w2n, norm)
    else:
        u, h, z, d_sum = launch.expand_again(d, rows, folded)
        w2n, norm, own = launch.scale_gradient(_product(h, d)[:, None], d_sum, mlp, g)
        del h
        du, sums = launch.expanded_gradient(d, u, w2n, norm)
        g1 = _product(du, z)
        dz = du
    (offset, slope), others, zeros = launch.expand_gradient(g1, sums, folded, mlp)
    dy = launch.input_gradient(dz, rows, folded, offset, slope)
    dw2, db2, dgamma, dbeta = own
    dw1, db1, dnw, dnb = others
    gradients = mlp.with_dtypes(Mlp(dnw, dnb, dw1, db1, dgamma, dbeta, dw2, db2))
    return memory_layout.from_rows(dy, y), gradients, zeros


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return `a^T b` for every sample, `(N, E, C)` in float32, from `(N, voxels, E)` and `(N, voxels, C)`."""
    if a.device.type == "cpu":  # tensors of the interpreter; PyTorch has no such product for CPUs
        return a.transpose(1, 2).float() @ b.float()
    if a.dtype == torch.float32:
        return torch.bmm(a.transpose(1, 2), b)
    return torch.bmm(a.transpose(1, 2), b, out_dtype=torch.float32)
