"""Normalisation of every channel over space: GroupNorm with as many groups as channels."""

import torch
from torch import Tensor


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise each channel of each sample over space, then scale and shift it.

    Half-precision input is normalised in float32 and cast back, so that autocast does not lose the statistics.
    A channel of one voxel is legal and becomes `bias` (`torch.nn.GroupNorm` refuses it), so that a patch of
    16 voxels, one voxel at the bottleneck, can be trained on.

    Args:
        x: Features, `(N, C, *spatial)`.
        weight: Scale per channel, `(C,)`.
        bias: Shift per channel, `(C,)`.
        eps: Added to the variance.

    Returns:
        Tensor with the shape and dtype of `x`.

    Source:
        Roy et al. 2023, MedNeXt, section 2.1 (arXiv:2303.09975): channel-wise GroupNorm after the depthwise
        convolution. Wu and He 2018, Group Normalization (arXiv:1803.08494).
    """
    half = x.dtype == torch.float16 or x.dtype == torch.bfloat16
    y = x.float() if half else x
    space = [i for i in range(2, x.dim())]  # TorchScript has no list(range())
    # Centred before squaring. torch.group_norm does not on channels-last CPU tensors: there a channel of mean 100 and
    # deviation 1 comes out 7 % wrong (PyTorch 2.13); and on CUDA it gives up the channels-last layout.
    y = y - y.mean(space, keepdim=True)
    variance = (y * y).mean(space, keepdim=True)
    broadcast = [1 for _ in space]
    scale = torch.rsqrt(variance + eps) * weight.to(y.dtype).reshape([1, x.shape[1]] + broadcast)  # noqa: RUF005
    shift = bias.to(y.dtype).reshape([1, x.shape[1]] + broadcast)  # noqa: RUF005
    return torch.addcmul(shift, y, scale).to(x.dtype)
