"""The folded MLP on CUDA by the kernels of `_folded_mlp_kernels.py`: never a tensor of the expanded width in memory.

Blocks wider than `WIDEST` channels lie deep in the network, with few voxels and large matrix products: there the
kernels' recomputation would dominate, and `_folded_mlp_torch.py`, that is cuBLAS, is the better choice.
"""

import torch
import triton
from torch import Tensor

from mednextv2.ops import _folded_mlp_kernels as kernels
from mednextv2.ops import _folded_mlp_torch as folded
from mednextv2.ops import _triton_configs as configs
from mednextv2.ops import paths

WIDEST = {torch.float32: 128, torch.float16: 256, torch.bfloat16: 256}  # channels of input or output; not measured


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
        (squares,) = launch.sum("mlp_norms", kernels.norms_kernel, inputs, ((launch.expanded,),), launch.expanded)
        g = squares.sqrt()
        b2n = (b2n + w2n @ beta.float()).expand(y.shape[0], -1).contiguous()
        w2n = w2n * folded.response(g, gamma, grn_eps, grn_sum)[0][:, None]
    out = y.new_empty(y.shape[0], launch.voxels, w2.shape[0])
    rows = inputs[0] if residual is None else paths.rows(residual).contiguous()
    launch.map("mlp_output", kernels.output_kernel, (*inputs, w2n.to(y.dtype), b2n, rows, out), launch.out,
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
    g2, d_sum = launch.sum("mlp_w2", kernels.w2_kernel, inputs, ((expanded, out), (out,)), expanded, out)
    g2 = g2.transpose(1, 2)  # (N, O, E)
    dw2, db2 = g2.sum(0), d_sum.sum(0)
    dgamma = dbeta = None
    w2n, k = w2s, w2s.new_zeros(expanded)
    if gamma is not None:
        s, k, dgamma = folded.grn_gradient(g2, w2s, g, gamma, grn_eps, grn_sum)
        dw2 = (g2 * s[:, None]).sum(0) + torch.outer(db2, beta.float())
        dbeta = w2s.t() @ db2
        w2n = w2s * s[:, None]
    inputs, own = (*inputs, w2n.to(y.dtype), k), int(gamma is not None)
    g1, b_sum = launch.sum("mlp_w1", kernels.w1_kernel, inputs, ((expanded, channels), (expanded,)), expanded, channels,
                           PER_SAMPLE=own)  # fmt: skip
    total, db1 = g1.sum(0), b_sum.sum(0)
    folded_w1 = inputs[4].float()
    dy = inputs[1].new_empty(inputs[1].shape)
    # the part of dy that goes through mean and variance: the mean of dz and its slope over z, both known already
    means = (b_sum @ folded_w1 / launch.voxels, (folded_w1 * g1).sum(1) / launch.voxels)
    launch.map("mlp_input", kernels.input_kernel, (*inputs, *means, dy), channels, PER_SAMPLE=own)
    gradients = (
        (w1s * total).sum(0), w1s.t() @ db1, total * norm_weight.float() + torch.outer(db1, norm_bias.float()), db1,
        dgamma, dbeta, dw2, db2,
    )  # fmt: skip
    parameters = (norm_weight, norm_bias, w1, b1, gamma, beta, w2, b2)
    return paths.from_rows(dy, y), *(
        w1.new_empty(0) if p is None else v.to(p.dtype) for v, p in zip(gradients, parameters, strict=True)
    )


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
