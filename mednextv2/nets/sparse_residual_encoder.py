"""The residual encoder of nnU-Net's ResEnc networks on an image of which some cells are hidden.

The modules stay as they are, and the masks are arguments; this is a second walk over the modules. Hidden positions are
zero in front of every convolution, and each InstanceNorm takes its statistics over the visible positions of a sample.
Convolutions are dense ones: with hidden positions that are zero, they give at visible positions what a sparse
convolution gives.

What the published code does otherwise: it does not hide cells of the image itself, so that the first convolution and
its norm see them; it keeps a second, untrained copy of each convolution; and its mask is a global variable.

Source:
    Tian et al. 2023, SparK (arXiv:2301.03580), section 3.1; for this network: Wald et al. 2025 (arXiv:2410.23132).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from mednextv2.errors import InputError
from mednextv2.nets.masked_norm import masked_instance_norm
from mednextv2.nets.visible_cells import hide, visible_positions

_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def is_residual_unet(network: nn.Module) -> bool:
    """Return whether a network is a ResidualEncoderUNet of dynamic-network-architectures."""
    try:
        from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
    except ImportError:  # without the package, it cannot be one
        return False
    return isinstance(network, ResidualEncoderUNet)


def check(network: Any) -> None:
    """Raise an InputError if the encoder has parts that this module does not mask, or return.

    Args:
        network: A ResidualEncoderUNet.
    """
    from dynamic_network_architectures.building_blocks.residual import StackedResidualBlocks

    encoder = network.encoder
    for stage in encoder.stages:
        if not isinstance(stage, StackedResidualBlocks):
            _refuse("pooling in front of a stage")
        if any(block.apply_se for block in stage.blocks):
            _refuse("squeeze and excitation")
    for module in encoder.modules():
        if hasattr(module, "all_modules"):
            _check_unit(list(module.all_modules))


def _check_unit(parts: list[nn.Module]) -> None:
    """Check a convolution with its norm and nonlinearity."""
    if not any(isinstance(part, _NormBase) for part in parts):
        _refuse("a convolution without a norm")
    for part in parts:
        name = type(part).__name__
        if isinstance(part, _NormBase) and (not isinstance(part, _NORMS) or part.track_running_stats):
            _refuse(f"the norm {name}")
        if not isinstance(part, (_ConvNd, _NormBase, _DropoutNd)) and part(torch.zeros(1)) != 0:
            _refuse(f"the nonlinearity {name}, which makes zeros other numbers")


def _refuse(what: str) -> None:
    raise InputError(f"form: the sparse forms of masked autoencoding do not know {what}; choose the form dense")


def total_strides(encoder: Any) -> list[list[int]]:
    """Return the voxels of a position along each axis, for each stage of the encoder."""
    strides = [[1] * len(encoder.strides[0])]
    for stride in encoder.strides:
        strides.append([a * b for a, b in zip(strides[-1], stride, strict=True)])
    return strides[1:]


def encode(encoder: Any, image: Tensor, visible: Tensor) -> list[Tensor]:
    """Apply the encoder to the visible cells of an image.

    Args:
        encoder: The encoder of a ResidualEncoderUNet.
        image: The image, `(N, C, *space)`; what is in hidden cells has no influence.
        visible: The visible cells, bool, `(N, *grid)`, on the device of the image.

    Returns:
        The outputs of the stages, full resolution first, `(N, C, *positions)`, with zeros at hidden positions.
    """
    space, found = image.shape[2:], []
    mask = visible_positions(visible, space)[:, None]
    x = hide(image, visible)
    for convolution in encoder.stem.convs:
        x = _convolve(convolution, x, mask)
    for stage, stride in zip(encoder.stages, total_strides(encoder), strict=True):
        before, mask = mask, visible_positions(visible, space, stride)[:, None]
        for block in stage.blocks:
            x, before = _residual_block(block, x, before, mask), mask
        found.append(x)
    return found


def _residual_block(block: Any, x: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Apply a BasicBlockD or a BottleneckD, given the visible positions of its input and of its output."""
    residual = x
    for part in block.skip if isinstance(block.skip, nn.Sequential) else ():
        # after pooling, hidden positions are zero: they are means of hidden positions
        residual = _convolve(part, residual, after) if hasattr(part, "all_modules") else part(residual)
    if hasattr(block, "conv3"):  # BottleneckD, whose second convolution has the stride
        masks, last = [before, after, after], block.nonlin3
    else:
        masks, last = [after, after], block.nonlin2
    for number, mask in enumerate(masks, start=1):
        x = _convolve(getattr(block, f"conv{number}"), x, mask)
    if block.apply_stochastic_depth:
        x = block.drop_path(x)
    return last(x + residual)


def _convolve(convolution: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Apply convolution, dropout, norm and nonlinearity; the norm makes hidden positions zero."""
    for part in convolution.all_modules:
        if isinstance(part, _NORMS):
            x = masked_instance_norm(x, mask, part.weight, part.bias, part.eps)
        else:
            x = part(x)
    return x
