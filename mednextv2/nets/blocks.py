"""The blocks of MedNeXt: standard, down- and up-sampling.

Each is a ConvNeXt block: a depthwise convolution, a normalisation of every channel, an expansion to `ratio` times the
channels, GELU, (v2) global response normalisation, and a compression. Parameters are the weights of ordinary
convolutions, so that any checkpoint can be mapped to them; memory is channels-last.

Source: Roy et al. 2023, MedNeXt, sections 2.1 and 2.2 (arXiv:2303.09975); GRN: Woo et al. 2023 (arXiv:2301.00808).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.checkpoint import checkpoint

from mednextv2 import ops

# convolutions by the number of spatial axes
CONVOLUTION: dict[int, Callable[..., _ConvNd]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Callable[..., _ConvNd]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class ChannelNorm(nn.Module):
    """Normalise each channel over space, keeping `(N, C, *spatial)`: see :func:`mednextv2.ops.channel_norm`."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return ops.channel_norm(x, self.weight, self.bias, self.eps)


class GlobalResponseNorm(nn.Module):
    """Let channels compete by their norm, keeping `(N, C, *spatial)`: see :func:`mednextv2.ops.grn`."""

    def __init__(self, channels: int, eps: float = 1e-6, denominator: str = "mean") -> None:
        super().__init__()
        self.eps = eps
        self.denominator = denominator
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return ops.grn(x, self.gamma, self.beta, self.eps, self.denominator)


# a mixin before Conv2d or Conv3d, whose attributes it uses
if TYPE_CHECKING:
    _Convolution = _ConvNd
else:
    _Convolution = object


class _Pointwise(_Convolution):
    """The forward pass of a convolution with kernel size 1: see :func:`mednextv2.ops.pointwise`."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._conv_forward(x, self.weight, self.bias)
        return self._fast(x)

    @torch.jit.unused
    def _fast(self, x: Tensor) -> Tensor:
        return ops.pointwise(x, self.weight, self.bias)


class Pointwise2d(_Pointwise, nn.Conv2d):
    """Convolution of images with kernel size 1: `Pointwise2d(C, O, 1)` maps `(N, C, X, Y)` to `(N, O, X, Y)`."""


class Pointwise3d(_Pointwise, nn.Conv3d):
    """Convolution of volumes with kernel size 1: `Pointwise3d(C, O, 1)` maps `(N, C, X, Y, Z)` to `(N, O, X, Y, Z)`."""


POINTWISE = {2: Pointwise2d, 3: Pointwise3d}  # by the number of spatial axes


def _bias(convolution: _ConvNd) -> Tensor:
    return cast(Tensor, convolution.bias)  # all convolutions of a block have a bias


class MedNeXtBlock(nn.Module):
    """Standard block: `(N, C, *spatial)` to `(N, C, *spatial)`.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels C of the input.
        out_channels: Channels of the output, which differ from C only in resampling blocks.
        ratio: The block is `ratio * in_channels` wide inside.
        kernel_size: Size of the depthwise kernel in voxels along each axis, an odd number.
        residual: Whether the input is added to the output.
        grn: `"mean"` or `"sum"` (the denominator of GRN), or None for a block without GRN (v1).
        drop_path_rate: Probability of skipping the block for a sample in training (Huang et al. 2016, stochastic depth,
            arXiv:1603.09382).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        ratio: int,
        kernel_size: int,
        residual: bool = True,
        grn: str | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.drop_path_rate = drop_path_rate
        self.activation_checkpointing = False  # set by the network, per resolution
        width = ratio * in_channels
        self.depthwise = self._depthwise(spatial_dims, in_channels, kernel_size)
        self.norm = ChannelNorm(in_channels)
        self.expand = CONVOLUTION[spatial_dims](in_channels, width, kernel_size=1)
        self.grn = nn.Identity() if grn is None else GlobalResponseNorm(width, denominator=grn)
        self.compress = CONVOLUTION[spatial_dims](width, out_channels, kernel_size=1)

    def _depthwise(self, spatial_dims: int, channels: int, kernel_size: int) -> _ConvNd:
        return CONVOLUTION[spatial_dims](channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def transform(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Apply the block, and add `residual` if given: `(N, C, *spatial)` to `(N, O, *spatial of depthwise)`."""
        if torch.jit.is_scripting():
            y = self.compress(self.grn(F.gelu(self.expand(self.norm(self.depthwise(x))))))
            return y if residual is None else residual + y
        return self._transform_fast(x, residual)

    @torch.jit.unused
    def _transform_fast(self, x: Tensor, residual: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        mlp, settings = self.inside(bias)
        return ops.block(x, self.convolution(), mlp, residual, settings)

    @torch.jit.unused
    def convolution(self) -> ops.Convolution:
        """Return the depthwise convolution as the operators take it."""
        return ops.Convolution(
            weight=self.depthwise.weight,
            bias=self.depthwise.bias,
            stride=self.depthwise.stride[0],
            transposed=self.depthwise.transposed,
        )

    @torch.jit.unused
    def inside(self, bias: Tensor | None = None) -> tuple[ops.Mlp, ops.Settings]:
        """Return everything after the convolution as the operators take it; a `bias` is added to the last one."""
        grn = self.grn if isinstance(self.grn, GlobalResponseNorm) else None
        mlp = ops.Mlp(
            norm_weight=self.norm.weight,
            norm_bias=self.norm.bias,
            w1=self.expand.weight,
            b1=_bias(self.expand),
            gamma=None if grn is None else grn.gamma,
            beta=None if grn is None else grn.beta,
            w2=self.compress.weight,
            b2=_bias(self.compress) if bias is None else _bias(self.compress) + bias,
        )
        if grn is None:
            return mlp, ops.Settings(self.norm.eps)
        return mlp, ops.Settings(self.norm.eps, grn.eps, grn.denominator == "sum")

    def drop_path(self, y: Tensor) -> Tensor:
        """In training, zero whole samples with probability `drop_path_rate` and scale up the others."""
        if self.drop_path_rate > 0.0 and self.training:
            keep = 1.0 - self.drop_path_rate
            mask = torch.rand([y.shape[0]] + [1 for _ in range(1, y.dim())], device=y.device) < keep
            y = y * (mask.to(y.dtype) / keep)
        return y

    def whole(self, x: Tensor) -> Tensor:
        """Apply the block with its residual connection."""
        if self.drop_path_rate > 0.0 and self.training:
            y = self.drop_path(self.transform(x))
            return x + y if self.residual else y
        return self.transform(x, x if self.residual else None)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102  (the condition must stand alone to be left out of TorchScript)
            if self.activation_checkpointing and torch.is_grad_enabled():
                return checkpoint(self.whole, x, use_reentrant=False, preserve_rng_state=self.drop_path_rate > 0.0)
        return self.whole(x)


class MedNeXtDownBlock(MedNeXtBlock):
    """Halve every axis: `(N, C, *spatial)` to `(N, O, *spatial / 2)`, with O = 2 C in the paper.

    The residual is a convolution with kernel size 1 and stride 2, without a norm. Here, it is one with stride 1 on
    every second voxel, since the backward pass of oneDNN's strided convolution writes outside its memory for
    channels-last CPU tensors with few channels (PyTorch 2.13). The arguments are those of :class:`MedNeXtBlock`.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        ratio: int,
        kernel_size: int,
        residual: bool = True,
        grn: str | None = None,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, ratio, kernel_size, residual, grn)
        self.shortcut = POINTWISE[spatial_dims](in_channels, out_channels, 1) if residual else nn.Identity()

    def _depthwise(self, spatial_dims: int, channels: int, kernel_size: int) -> _ConvNd:
        return CONVOLUTION[spatial_dims](
            channels, channels, kernel_size, stride=2, padding=kernel_size // 2, groups=channels
        )

    def whole(self, x: Tensor) -> Tensor:
        """Apply the block with its residual connection."""
        if not self.residual:
            return self.transform(x)
        every_second = x[:, :, ::2, ::2]
        if x.dim() == 5:
            every_second = every_second[:, :, :, :, ::2]
        return self.transform(x, self.shortcut(every_second))


class MedNeXtUpBlock(MedNeXtBlock):
    """Double every axis: `(N, C, *spatial)` to `(N, O, 2 * spatial)`, O = C / 2 in the paper; add a skip connection.

    The transposed convolutions with stride 2 give `2 n - 1` voxels along an axis of n; one zero in front makes it
    `2 n`, as in the authors' code. The arguments are those of :class:`MedNeXtBlock`.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        ratio: int,
        kernel_size: int,
        residual: bool = True,
        grn: str | None = None,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, ratio, kernel_size, residual, grn)
        self.front = [1, 0] * spatial_dims  # padding for F.pad: one voxel at the start of every axis
        self.shortcut: nn.Identity | _ConvNd = (
            TRANSPOSED[spatial_dims](in_channels, out_channels, kernel_size=1, stride=2) if residual else nn.Identity()
        )

    def _depthwise(self, spatial_dims: int, channels: int, kernel_size: int) -> _ConvNd:
        return TRANSPOSED[spatial_dims](
            channels, channels, kernel_size, stride=2, padding=kernel_size // 2, groups=channels
        )

    def whole(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Apply the block with its residual connection, and add the skip connection."""
        if torch.jit.is_scripting():
            y = self.transform(x)
            if self.residual:
                y = y + self.shortcut(x)
            y = F.pad(y, self.front)
            return y if skip is None else y + skip
        return self._whole_fast(x, skip)

    @torch.jit.unused
    def _whole_fast(self, x: Tensor, skip: Tensor | None) -> Tensor:
        convolution = self.shortcut
        if isinstance(convolution, nn.Identity):  # without residual connection
            return ops.upsample_merge(self.transform(x), None, skip)
        # the transposed convolution with kernel size 1, computed on the coarse grid; its bias is added to every voxel
        shortcut = ops.pointwise(x, convolution.weight.transpose(0, 1))
        y = self._transform_fast(x, None, convolution.bias)
        return ops.upsample_merge(y, shortcut, skip)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102  (as in MedNeXtBlock)
            if self.activation_checkpointing and torch.is_grad_enabled():
                # no random numbers are drawn, and a CUDA graph cannot keep their state
                return checkpoint(self.whole, x, skip, use_reentrant=False, preserve_rng_state=False)
        return self.whole(x, skip)
