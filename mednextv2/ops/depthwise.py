"""The depthwise convolution of a MedNeXt block, with the statistics that its norm needs."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mednextv2.ops import paths
from mednextv2.ops.folded_mlp import moments
from mednextv2.ops.shapes import check_depthwise


def depthwise_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, transposed: bool = False
) -> Tensor:
    """Define :func:`depthwise` by PyTorch's convolutions; arguments as there, returns the output alone."""
    padding = [size // 2 for size in weight.shape[2:]]
    if transposed:
        convolution = F.conv_transpose3d if x.dim() == 5 else F.conv_transpose2d
        return convolution(x, weight, bias, stride, padding, groups=x.shape[1])
    convolution = F.conv3d if x.dim() == 5 else F.conv2d
    return convolution(x, weight, bias, stride, padding, groups=x.shape[1])


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, transposed: bool = False
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Convolve every channel with a kernel of its own, and return the moments of the result beside it.

    Args:
        x: `(N, C, *spatial)` in two or three dimensions.
        weight: `(C, 1, k, k, k)` (or two k), k odd; padded with k // 2 zeros.
        bias: `(C,)` or None.
        stride: 1 or 2.
        transposed: The transposed convolution: an axis of n voxels becomes one of `stride (n - 1) + 1`.

    Returns:
        The result, channels-last, and its mean and biased variance over space, `(N, C)` each, as
        :func:`mednextv2.ops.folded_mlp` takes them; None in place of these where the plain definition is used.

    Raises:
        ValueError: For shapes that do not fit each other, or another stride.

    Source:
        Roy et al. 2023, MedNeXt, sections 2.1 and 2.2 (arXiv:2303.09975).
    """
    x = paths.autocast(x)
    if paths.plain(x):
        return depthwise_reference(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), stride,
                                   transposed), None  # fmt: skip
    check_depthwise(x, weight, bias, stride)
    y, mean, variance = depthwise_op(paths.channels_last(x), weight, bias, stride, transposed)
    return y, (mean, variance)


@torch.library.custom_op("mednextv2::depthwise", mutates_args=())
def depthwise_op(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, transposed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the chosen path; returns the result, its mean and its biased variance."""
    return choose(x, weight)[0](x, weight, bias, stride, transposed)


@torch.library.custom_op("mednextv2::depthwise_backward", mutates_args=())
def depthwise_backward_op(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, transposed: bool, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (empty unless `need_x`), weight and bias."""
    return choose(x, weight)[1](paths.channels_last(grad), x, weight, stride, transposed, need_x)


def choose(x: Tensor, weight: Tensor):
    """Return the chosen path's functions: forward, and backward, whose `onto` is added to the gradient of x."""
    path = paths.choose(x.device.type, x.dtype, weight.shape[-1]).name
    if path == paths.NATIVE:
        from mednextv2.ops import _depthwise_native as native

        return native.forward, native.backward
    if path == paths.TRITON:
        from mednextv2.ops import _depthwise_triton as triton

        return triton.forward, triton.backward
    return _torch_forward, _torch_backward


def _torch_forward(x, weight, bias, stride, transposed):
    y = depthwise_reference(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), stride, transposed)
    y = paths.channels_last(y)
    return y, *moments(y)


def _torch_backward(grad, x, weight, stride, transposed, need_x, onto=None):
    if x.device.type == "cpu" and x.dtype != paths.statistics_dtype(x):
        # oneDNN's weight gradient in bfloat16 is wrong for some channels-last shapes: (2, 24, 2, 2, 2) in PyTorch 2.13
        plain = paths.statistics_dtype(x)
        onto = None if onto is None else onto.to(plain)
        dx, dw, db = _torch_backward(grad.to(plain), x.to(plain), weight, stride, transposed, need_x, onto)
        return dx.to(x.dtype), dw, db
    w = weight.to(x.dtype)
    padding = [size // 2 for size in weight.shape[2:]]
    ones, zeros = [1] * len(padding), [0] * len(padding)
    # PyTorch's CPU code takes ten times as long for this gradient of the input as for a forward convolution, which it
    # is, with the kernel turned around; and 50 times as long for that of the bias as for a sum
    turned = need_x and stride == 1 and x.device.type == "cpu"
    mask = [need_x and not turned, True, False]
    dx, dw, _ = torch.ops.aten.convolution_backward(
        grad, x, w, None, [stride] * len(padding), padding, ones, transposed, zeros, x.shape[1], mask
    )
    if turned:
        dx = depthwise_reference(grad, w if transposed else w.flip(*range(2, w.dim())), None)
    dx = paths.channels_last(dx) if need_x else x.new_empty(0)
    dx = dx if onto is None else dx.add_(onto)
    db = paths.rows(grad).sum((0, 1), dtype=paths.statistics_dtype(x))
    return dx, dw.to(weight.dtype), db.to(weight.dtype)


@depthwise_op.register_fake
def _(x, weight, bias, stride, transposed):
    def size(n, k):
        return stride * (n - 1) - 2 * (k // 2) + k if transposed else (n + 2 * (k // 2) - k) // stride + 1

    spatial = [size(n, k) for n, k in zip(x.shape[2:], weight.shape[2:], strict=True)]
    y = paths.channels_last(x.new_empty(*x.shape[:2], *spatial))
    mean = x.new_empty(x.shape[:2], dtype=paths.statistics_dtype(x))
    return y, mean, torch.empty_like(mean)


@depthwise_backward_op.register_fake
def _(grad, x, weight, stride, transposed, need_x):
    dx = torch.empty_like(x) if need_x else x.new_empty(0)
    return dx, torch.empty_like(weight), weight.new_empty(weight.shape[0])


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, stride, transposed = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias, ctx.stride, ctx.transposed = bias is not None, stride, transposed
    ctx.mark_non_differentiable(output[1], output[2])


def _backward(ctx, grad, _, __):
    x, weight = ctx.saved_tensors
    need_x = ctx.needs_input_grad[0]
    dx, dw, db = depthwise_backward_op(grad, x, weight, ctx.stride, ctx.transposed, need_x)
    return dx if need_x else None, dw, db if ctx.has_bias else None, None, None


depthwise_op.register_autograd(_backward, setup_context=_setup_context)
