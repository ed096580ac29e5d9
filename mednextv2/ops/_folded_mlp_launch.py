"""Launches of the folded MLP's kernels on one problem: which blocks are thin, and how work is split into programs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from mednextv2.ops import _folded_mlp_kernels as thin_kernels
from mednextv2.ops import _folded_mlp_small_kernels as small_kernels
from mednextv2.ops import _folded_mlp_wide_kernels as wide_kernels
from mednextv2.ops import _triton_configs as configs
from mednextv2.ops.parameters import Mlp, Settings

# Thin blocks have at most this many channels of input and output, and this many expanded channels. GPUs of a compute
# capability other than 9.0 take fewer: older ones have too little shared memory, and on newer ones the compiler has no
# registers for the sums.
THIN, THIN_EXPANDED = 64, 256
THIN_ELSEWHERE = 32


class Moments(NamedTuple):
    """Statistics of the depthwise convolution's result: number of voxels, means and centred squares of each tile."""

    counts: Tensor
    means: Tensor
    squares: Tensor


class Folded(NamedTuple):
    """The values that the kernels take instead of the norm and the expansion.

    Attributes:
        mean: The mean, `(N, C)`.
        variance: The biased variance, `(N, C)`.
        w1n: `W1 * norm_weight`, `(E, C)`, in the dtype of the features.
        b1n: `b1 + W1 norm_bias`, `(E,)`, float32.
    """

    mean: Tensor
    variance: Tensor
    w1n: Tensor
    b1n: Tensor


class ScaleChange(NamedTuple):
    """The parts of `k`, by which GRN's scale changes the gradient of `h`.

    Attributes:
        change: The change of each channel through its own norm, `dn / (d g)`, `(N, E)`.
        inverse: `1 / g`, `(N, E)`.
        shared: Parts of the change that all channels share through the denominator, `(N, blocks)`.
    """

    change: Tensor
    inverse: Tensor
    shared: Tensor


def empty(like: Tensor, *shapes: Sequence[int]) -> list[Tensor]:
    """Return uninitialised float32 tensors on the device of another tensor."""
    return [like.new_empty(shape, dtype=torch.float32) for shape in shapes]


class Launch:
    """Launches the kernels on one problem."""

    def __init__(self, y: Tensor, mlp: Mlp, settings: Settings) -> None:
        self.y, self.samples, self.channels = y, y.shape[0], y.shape[1]
        self.voxels, self.expanded, self.out = y[0, 0].numel(), mlp.w1.shape[0], mlp.w2.shape[0]
        self.grn, self.settings = mlp.gamma is not None, settings
        self.thin = is_thin(self.channels, self.expanded, self.out, configs.capability(y))
        self.constants = {"C": self.channels, "E": self.expanded, "OUT": self.out, "HALF": y.dtype != torch.float32}

    def norms(self, expansion, h: Tensor | None, grn: bool) -> Tensor | None:
        """Sum squares, `(N, splits, E)`, if the block has GRN; store `h` if it is given."""
        if h is None:
            if not grn:
                return None
            (squares,) = self._split("norms", thin_kernels.norms_kernel, expansion, [(self.expanded,)])
            return squares
        config, grid, tiles = self._wide_grid("expand", self.expanded)
        squares = self.y.new_empty(self.samples, grid[1] if grn else 0, self.expanded, dtype=torch.float32)
        self._run(wide_kernels.expand_kernel, grid, config, *expansion, h, squares, self.voxels, tiles,
                  self.settings.norm_eps, NORMS=grn, BLOCK_K=configs.depth(config, self.channels))  # fmt: skip
        return squares if grn else None

    def response(self, squares: Tensor, mlp: Mlp) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weight of the compression for every sample, its bias, and the norms."""
        w2n, b2n = self.y.new_empty(self.samples, self.out, self.expanded), mlp.b2.new_empty(self.out)
        g = squares.new_empty(self.samples, self.expanded)
        block_e = min(configs.power_of_two(self.expanded), 4096)  # usually all channels, and their parts at once
        block_o = max(1, min(16, 16384 // block_e))
        with torch.cuda.device_of(self.y):
            small_kernels.response_kernel[triton.cdiv(self.out, block_o), self.samples](
                squares, mlp.gamma, mlp.beta, mlp.w2, mlp.b2, g, w2n, b2n, squares.shape[1], self.settings.grn_eps,
                GRN_SUM=self.settings.grn_sum, E=self.expanded, OUT=self.out, BLOCK_S=32768 // block_e,
                BLOCK_E=block_e, BLOCK_O=block_o, num_warps=16,
            )  # fmt: skip
        return w2n, b2n, g

    def output(self, expansion, h: Tensor | None, w2n, b2n, residual, out, **flags) -> None:
        """Write the output."""
        if h is None:
            tensors = (*expansion, w2n, b2n, residual, out)
            self._split("output", thin_kernels.output_kernel, tensors, [], **flags)
            return
        config, grid = self._product_grid("compress", self.out)
        self._run(wide_kernels.compress_kernel, grid, config, h, w2n, b2n, residual, out, self.voxels,
                  BLOCK_K=config.depth, **flags)  # fmt: skip

    def thin_compression(self, d, rows, folded: Folded) -> tuple[Tensor, Tensor]:
        """Return parts of `h^T D`, `(N, splits, E, O)`, and of the sums of `D`, `(N, splits, O)`."""
        shapes = [(self.expanded, self.out), (self.out,)]
        parts, sums = self._split("compression", thin_kernels.compression_kernel, (d, rows, *folded), shapes)
        return parts, sums

    def scale_gradient(self, g2, d_sum, mlp: Mlp, g):
        """Return `W2'`, the parts of `k`, and the gradients of w2, b2, gamma and beta."""
        n, e, o, grn = self.samples, self.expanded, self.out, self.grn
        block_o = configs.power_of_two(o)
        block_e = 4 if self.thin else max(1, min(8, 4096 // block_o))  # a program keeps `BLOCK_E * BLOCK_O` values
        programs = triton.cdiv(e, block_e)
        w2n = self.y.new_empty(n if grn else 1, o, e)
        change, inverse, shared, dw2, db2 = empty(g2, (n, e), (n, e), (n, programs), (o, e), (o,))
        dgamma, dbeta = empty(g2, *[(e if grn else 0,)] * 2)
        gamma, beta, norms = (mlp.gamma, mlp.beta, g) if grn else (dw2, dw2, dw2)
        with torch.cuda.device_of(self.y):
            small_kernels.scale_gradient_kernel[programs,](
                g2, d_sum, mlp.w2, gamma, beta, norms, w2n, change, inverse, shared, dw2, db2, dgamma, dbeta, n,
                g2.shape[1], d_sum.shape[1], self.settings.grn_eps, GRN=grn, GRN_SUM=self.settings.grn_sum, E=e, OUT=o,
                BLOCK_E=block_e, BLOCK_O=block_o, BLOCK_S=max(1, 2048 // block_o),
                BLOCK_N=min(configs.power_of_two(e), 1024), UNROLL=32 if self.thin else 1,
            )  # fmt: skip
        return w2n, ScaleChange(change, inverse, shared), (dw2, db2, dgamma, dbeta)

    def thin_expansion(self, d, rows, folded: Folded, w2n, norm: ScaleChange) -> tuple[Tensor, Tensor, Tensor]:
        """Return `du^T z`, `(N, E, C)`, the sums of `du`, `(N, 1, E)`, and `dz`."""
        n, e, c = self.samples, self.expanded, self.channels
        dz = rows.new_empty(rows.shape)
        tensors = (d, rows, *folded, w2n, *norm)
        blocks = norm.shared.shape[1]
        (parts,) = self._split("expansion", thin_kernels.expansion_kernel, tensors, [(e * (c + 1),)], (dz,), (blocks,),
                               GRN=self.grn, BLOCK_B=configs.power_of_two(blocks))  # fmt: skip
        g1, sums = parts.sum(1).split((e * c, e), dim=1)
        return g1.reshape(n, e, c), sums.reshape(n, 1, e), dz

    def expand_again(self, d, rows, folded: Folded) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `u` and `h`, `(N, voxels, E)`, `z`, and parts of the sums of `D`, `(N, splits, O)`."""
        config, grid, tiles = self._wide_grid("expand_again", self.expanded)
        u, h = (rows.new_empty(self.samples, self.voxels, self.expanded) for _ in range(2))
        z, d_sum = rows.new_empty(rows.shape), rows.new_empty(self.samples, grid[1], self.out, dtype=torch.float32)
        self._run(wide_kernels.expand_again_kernel, grid, config, d, rows, *folded, u, h, z, d_sum, self.voxels, tiles,
                  self.settings.norm_eps, BLOCK_K=configs.depth(config, self.channels))  # fmt: skip
        return u, h, z, d_sum

    def expanded_gradient(self, d, u, w2n, norm: ScaleChange) -> tuple[Tensor, Tensor]:
        """Replace `u` by `du`, and return it and parts of its sums, `(N, splits, E)`."""
        config, grid, tiles = self._wide_grid("expanded_gradient", self.expanded)
        sums, blocks = u.new_empty(self.samples, grid[1], self.expanded, dtype=torch.float32), norm.shared.shape[1]
        # At least two steps: a single one would be moved out of the loop over tiles, into registers that do not exist
        depth = configs.depth(config, self.out // 2)
        self._run(wide_kernels.expanded_gradient_kernel, grid, config, d, w2n, u, *norm, sums, self.voxels, tiles,
                  blocks, GRN=self.grn, BLOCK_K=depth, BLOCK_B=configs.power_of_two(blocks))  # fmt: skip
        return u, sums

    def expand_gradient(self, g1, sums, folded: Folded, mlp: Mlp):
        """Return the mean and slope of `dz`, the gradients of w1, b1, norm_weight and norm_bias, and zeros, `(C,)`."""
        n, e, c = self.samples, self.expanded, self.channels
        offset, slope, dw1, db1, dnw, dnb, zeros = empty(g1, (n, c), (n, c), (e, c), (e,), (c,), (c,), (c,))
        block_c, block_k = 8, configs.power_of_two(c)
        block_e, block_r = min(configs.power_of_two(e), 1024), max(1, 4096 // block_k)
        with torch.cuda.device_of(self.y):
            small_kernels.expand_gradient_kernel[triton.cdiv(c, block_c) + triton.cdiv(e, block_r),](
                g1, sums, mlp.w1, folded.w1n, mlp.norm_weight, mlp.norm_bias, offset, slope, dw1, db1, dnw, dnb, zeros,
                self.voxels, n, sums.shape[1], g1.stride(0), sums.stride(0), C=c, E=e, BLOCK_C=block_c,
                BLOCK_E=block_e, BLOCK_S=16, BLOCK_R=block_r, BLOCK_K=block_k, num_warps=8,
            )  # fmt: skip
        return (offset, slope), (dw1, db1, dnw, dnb), zeros

    def input_gradient(self, dz, rows, folded: Folded, offset, slope) -> Tensor:
        """Return `dy` from `dz` in thin blocks, which it replaces, or from `du` in wide ones."""
        if self.thin:
            block = configs.power_of_two(self.channels)
            rows_at_once = 8192 // block
            with torch.cuda.device_of(self.y):
                thin_kernels.correction_kernel[triton.cdiv(self.voxels, rows_at_once), self.samples](
                    dz, rows, folded.mean, folded.variance, offset, slope, self.voxels, self.settings.norm_eps,
                    C=self.channels, BLOCK_P=rows_at_once, BLOCK_C=block, num_warps=8,
                )  # fmt: skip
            return dz
        config, grid = self._product_grid("input", self.channels)
        dy = rows.new_empty(rows.shape)
        self._run(wide_kernels.input_kernel, grid, config, dz, rows, folded.mean, folded.variance, folded.w1n, offset,
                  slope, dy, self.voxels, self.settings.norm_eps, BLOCK_K=config.depth)  # fmt: skip
        return dy

    def _split(self, name, kernel, inputs, shapes, outputs=(), scalars=(), **constants) -> list[Tensor]:
        """Launch a kernel of thin blocks; return the partial sums of its programs, each `(N, splits, *shape)`."""
        config = configs.lookup(name, self.y, max(self.channels, self.out))
        tiles = triton.cdiv(self.voxels, config.blocks[0])
        per_split, splits = configs.split(tiles, config.programs // self.samples)
        parts = empty(self.y, *[(self.samples, splits, *shape) for shape in shapes])
        block_e = config.blocks[1] if config.whole else configs.fitting(config.blocks[1], self.expanded)
        self._run(kernel, (splits, self.samples), config, *inputs, *parts, *outputs, self.voxels, per_split,
                  self.settings.norm_eps, *scalars, BLOCK_E=block_e,
                  BLOCK_C=configs.channel_block(self.channels),
                  BLOCK_O=configs.channel_block(self.out), **constants)  # fmt: skip
        return parts

    def _wide_grid(self, name, width):
        """Return configuration, grid and tiles per program for blocks of `width` channels and splits of voxels."""
        config = configs.lookup(name, self.y, max(self.channels, self.out))
        config = replace(config, blocks=(config.blocks[0], configs.fitting(config.blocks[1], width)))
        blocks = triton.cdiv(width, config.blocks[1])
        tiles = triton.cdiv(self.voxels, config.blocks[0])
        per_split, splits = configs.split(tiles, config.programs // (blocks * self.samples))
        return config, (blocks, splits, self.samples), per_split

    def _product_grid(self, name, width):
        """Return configuration and grid for tiles of voxels x `width` channels, which are small if there are few."""
        for size in (configs.LARGE, configs.SMALL):
            config = configs.lookup(name, self.y, size)
            columns = min(config.blocks[1], configs.channel_block(width))
            config = replace(config, blocks=(config.blocks[0], columns))
            tiles = triton.cdiv(self.voxels, config.blocks[0]) * triton.cdiv(width, config.blocks[1])
            if tiles * self.samples >= config.programs:
                break
        return config, (tiles, self.samples)

    def _run(self, kernel, grid, config, *arguments, **constants) -> None:
        """Launch the kernel with the constants that it has."""
        known = set(kernel.arg_names)
        constants = {"BLOCK_P": config.blocks[0], "BLOCK_E": config.blocks[1]} | self.constants | constants
        for name in ("BLOCK_O", "BLOCK_C"):  # the columns of a product
            constants.setdefault(name, config.blocks[1])
        with torch.cuda.device_of(self.y):
            kernel[grid](*arguments, **{k: v for k, v in constants.items() if k in known},
                         num_warps=config.warps, num_stages=config.stages)  # fmt: skip


def is_thin(channels: int, expanded: int, out: int, capability: tuple[int, int]) -> bool:
    """Tell whether a block uses the kernels for thin blocks on a GPU of this compute capability."""
    widest = THIN if capability[0] == 9 else THIN_ELSEWHERE
    return max(channels, out) <= widest and expanded <= THIN_EXPANDED
