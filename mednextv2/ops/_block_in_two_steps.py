"""A whole block in two steps, the convolution and the folded MLP, each of which chooses its implementation."""

from torch import Tensor

from mednextv2.ops import memory_layout
from mednextv2.ops.depthwise import choose as choose_depthwise
from mednextv2.ops.folded_mlp import choose as choose_mlp
from mednextv2.ops.parameters import Convolution, Mlp, Saved, Settings, Statistics, pick


def forward(
    x: Tensor, convolution: Convolution, mlp: Mlp, residual: Tensor | None, settings: Settings, keep: bool
) -> tuple[Tensor, Saved]:
    """Return the output and what the backward pass needs; whatever `keep` says, nothing is kept between calls."""
    y, statistics = choose_depthwise(x, convolution).forward(x, convolution)
    out, g = choose_mlp(y, mlp, residual is not None).forward(y, statistics, mlp, residual, settings)
    return out, Saved(y, statistics.mean, statistics.variance, g, x.new_empty(0), x.new_empty(0), x.new_empty(0))


def backward(
    grad: Tensor,
    x: Tensor,
    convolution: Convolution,
    mlp: Mlp,
    saved: Saved,
    settings: Settings,
    need_x: bool,
    own_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Mlp]:
    """Return the gradients of x (empty unless `need_x`), of the convolution's weight and bias, and of the MLP."""
    module = choose_mlp(saved.y, mlp, own_residual)
    dy, gradients = module.backward(grad, saved.y, pick(Statistics, saved), mlp, saved.g, settings)
    onto = grad.to(x.dtype) if own_residual and need_x else None
    module = choose_depthwise(x, convolution)
    dx, dw, db = module.backward(memory_layout.channels_last(dy), x, convolution, need_x, onto)
    return dx, dw, db, gradients
