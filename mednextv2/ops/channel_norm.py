"""Normalisation of every channel over space: GroupNorm with as many groups as channels."""

import torch
from torch import Tensor


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise each channel of each sample over space, then scale and shift it.

    Half-precision input is normalised in float32 and cast back, so that autocast does not lose the statistics.
    A channel of one voxel is allowed and becomes `bias` (`torch.nn.GroupNorm` refuses it), so that a patch of 16
    voxels, which has one voxel at the bottleneck, can be trained on.

    Args:
        x: Features, `(N, C, *spatial)`.
        weight: The scale per channel, `(C,)`.
        bias: The shift per channel, `(C,)`.
        eps: The number that is added to the variance.

    Returns:
        A tensor with the shape and dtype of `x`.

    Source:
        Roy et al. 2023, MedNeXt, section 2.1 (arXiv:2303.09975): channel-wise GroupNorm after the depthwise
        convolution. Wu and He 2018, Group Normalization (arXiv:1803.08494).
    """
    half = x.dtype == torch.float16 or x.dtype == torch.bfloat16
    y = x.float() if half else x
    space = [i for i in range(2, x.dim())]  # TorchScript has no list(range())
    # Centred before squaring. torch.group_norm does not do this on channels-last CPU tensors, where a channel with mean
    # 100 and deviation 1 is wrong by 7 % (PyTorch 2.13); and on CUDA, it gives up the channels-last layout.
    y = y - y.mean(space, keepdim=True)
    variance = (y * y).mean(space, keepdim=True)
    broadcast = [1 for _ in space]
    scale = torch.rsqrt(variance + eps) * weight.to(y.dtype).reshape([1, x.shape[1]] + broadcast)  # noqa: RUF005
    shift = bias.to(y.dtype).reshape([1, x.shape[1]] + broadcast)  # noqa: RUF005
    return torch.addcmul(shift, y, scale).to(x.dtype)
