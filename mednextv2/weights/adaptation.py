"""Tensors of weights for a network that differs: other input channels, larger kernels, another form of GRN."""

import torch
import torch.nn.functional as F
from torch import Tensor

_INTERPOLATION = {2: "bilinear", 3: "trilinear"}


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Return filters for another number of input channels, with the same sum over the channels.

    For more channels, those of the file are repeated in turn, and each is divided by how often it occurs. For fewer,
    those that fall on the same place in turn are added. An image whose channels are all alike therefore gives the same
    features as before.

    Args:
        weight: Filters, `(out, in, *kernel)`.
        channels: The number of channels that is needed.

    Returns:
        Filters, `(out, channels, *kernel)`.

    Example:
        >>> adapt_channels(torch.tensor([[[6.0], [1.0]]]), 3).flatten().tolist()
        [3.0, 1.0, 3.0]
        >>> adapt_channels(torch.tensor([[[6.0], [1.0], [2.0]]]), 1).flatten().tolist()
        [9.0]
    """
    given = weight.shape[1]
    places = torch.arange(max(given, channels), device=weight.device)
    if channels >= given:
        source = places % given
        return weight[:, source] / torch.bincount(source)[source].to(weight).view(-1, *[1] * (weight.dim() - 2))
    adapted = weight.new_zeros((weight.shape[0], channels, *weight.shape[2:]))
    return adapted.index_add_(1, places % channels, weight)


def enlarge_kernel(weight: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return depthwise filters of a larger kernel, interpolated linearly along each axis: MedNeXt's UpKern.

    As in the authors' code, positions are those of voxel centres (`align_corners=False`), values beyond the border are
    those of the border, and the magnitude is not rescaled.

    Args:
        weight: Filters, `(out, 1, *kernel)`.
        size: The size of the larger kernel.

    Returns:
        Filters, `(out, 1, *size)`.

    Source:
        Roy et al. 2023, MedNeXt, section 2.3 and algorithm 1 (arXiv:2303.09975).
    """
    enlarged = F.interpolate(weight.float(), size=size, mode=_INTERPOLATION[len(size)], align_corners=False)
    return enlarged.to(weight.dtype)


def convert_grn_gain(gamma: Tensor, given: str, needed: str) -> Tensor:
    """Return the gain of GRN for the other denominator, with which the layer computes the same.

    A sum over `C` channels is `C` times their mean, so the gain of the sum is `C` times that of the mean. What is left
    of the difference is the number of 1e-6 that is added to either denominator.

    Args:
        gamma: The gain per channel, `(C,)`.
        given: The denominator that it was trained with: `mean` or `sum`, see :func:`mednextv2.ops.grn`.
        needed: That of the network.

    Example:
        >>> convert_grn_gain(torch.tensor([4.0, 8.0]), "sum", "mean").tolist()
        [2.0, 4.0]
    """
    if given == needed:
        return gamma
    return gamma / gamma.numel() if given == "sum" else gamma * gamma.numel()
