"""Global response normalisation (GRN), in two and three dimensions."""

import torch
from torch import Tensor


def grn(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-6, denominator: str = "mean") -> Tensor:
    """Scale each channel by its spatial norm relative to the other channels, and add the input back.

    `y = x * (1 + gamma * g / (d + eps)) + beta`, where `g` is the L2 norm of each channel over space and `d` the mean
    (or the sum) of `g` over channels. With `gamma = beta = 0`, the initial state, the layer is the identity.
    With `C` channels, `gamma` of the mean form is `gamma / C` of the sum form (and `eps` is `C` times larger).

    Args:
        x: Features, `(N, C, *spatial)`. For float16 and bfloat16, the norms are computed in float32: a 128³ map of
            root mean square 45 already has a norm beyond the largest float16.
        gamma: The learned gain per channel, `(C,)`.
        beta: The learned shift per channel, `(C,)`.
        eps: The number that is added to the denominator, in the unit of `x`.
        denominator: `"mean"` (ConvNeXt V2) or `"sum"` over channels.

    Returns:
        A tensor with the shape and dtype of `x`.

    Source:
        Woo et al. 2023, ConvNeXt V2, section 3 and algorithm 1 (arXiv:2301.00808); in 3D: MedNeXt-v2
        (arXiv:2512.17774).
    """
    if denominator not in ("mean", "sum"):
        raise ValueError("the denominator of GRN is 'mean' or 'sum'")
    half = x.dtype == torch.float16 or x.dtype == torch.bfloat16
    y = x.float() if half else x
    space = [i for i in range(2, x.dim())]  # TorchScript has no list(range())
    # vector_norm, not sqrt(sum of squares): its gradient is 0, not NaN, if a channel is all zero
    g = torch.linalg.vector_norm(y, 2.0, space)  # (N, C)
    d = g.sum(1, keepdim=True) if denominator == "sum" else g.mean(1, keepdim=True)
    scale = 1 + gamma * (g / (d + eps))
    broadcast = [1 for _ in space]
    scale = scale.to(y.dtype).reshape(list(scale.shape) + broadcast)
    shift = beta.to(y.dtype).reshape([1, x.shape[1]] + broadcast)  # noqa: RUF005  (TorchScript)
    # in float32 to the end: the gradients of scale and shift are sums over all voxels, beyond the largest float16
    return torch.addcmul(shift, y, scale).to(x.dtype)
