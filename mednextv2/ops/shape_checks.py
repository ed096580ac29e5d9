"""Checks of the operators' arguments: kernels trust sizes, and would read past the end of a short tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mednextv2.ops.parameters import Convolution, Mlp, Settings, Statistics


def check_tensor(name: str, value: object) -> None:
    """Raise a ValueError if the value is not a tensor, or return."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a tensor, not a {type(value).__name__}")


def check_depthwise(x: Tensor, convolution: Convolution) -> None:
    """Raise a ValueError that says which argument of :func:`mednextv2.ops.depthwise` does not fit, or return."""
    weight, bias, stride, _ = convolution
    if x.dim() not in (4, 5) or not x.is_floating_point():
        raise ValueError(
            f"x is a floating-point tensor (N, C, *spatial) of two or three dimensions, not {_describe(x)}"
        )
    kernel = tuple(weight.shape[2:])
    if weight.dim() != x.dim() or tuple(weight.shape[:2]) != (x.shape[1], 1) or not all(k % 2 for k in kernel):
        wanted = f"({x.shape[1]}, 1{', k' * (x.dim() - 2)})"
        raise ValueError(f"weight has the shape {wanted} with odd k for this x, not {_describe(weight)}")
    _expect("bias", bias, (x.shape[1],))
    if stride not in (1, 2):
        raise ValueError(f"stride is 1 or 2, not {stride!r}")


def check_mlp(
    y: Tensor,
    mlp: Mlp,
    residual: Tensor | None = None,
    statistics: Statistics | None = None,
) -> None:
    """Raise a ValueError that says which argument of :func:`mednextv2.ops.folded_mlp` does not fit, or return."""
    if y.dim() not in (4, 5) or not y.is_floating_point():
        raise ValueError(
            f"y is a floating-point tensor (N, C, *spatial) of two or three dimensions, not {_describe(y)}"
        )
    samples, channels = y.shape[:2]
    width, out_channels = mlp.w1.shape[0], mlp.w2.shape[0]
    _expect("norm_weight", mlp.norm_weight, (channels,))
    _expect("norm_bias", mlp.norm_bias, (channels,))
    _expect("w1", mlp.w1, (width, channels), ones=True)
    _expect("b1", mlp.b1, (width,))
    _expect("gamma", mlp.gamma, (width,))
    _expect("beta", mlp.beta, (width,))
    _expect("w2", mlp.w2, (out_channels, width), ones=True)
    _expect("b2", mlp.b2, (out_channels,))
    _expect("residual", residual, (samples, out_channels, *y.shape[2:]))
    if statistics is not None:
        for name, tensor in zip(Statistics._fields, statistics, strict=True):
            _expect(f"statistics: {name}", tensor, (samples, channels))


def check_block(x: Tensor, convolution: Convolution, mlp: Mlp, residual: Tensor | None) -> None:
    """Raise a ValueError that says which argument of :func:`mednextv2.ops.block` does not fit, or return."""
    check_depthwise(x, convolution)
    check_mlp(x, mlp)
    if residual is not None:
        space = result_shape(x, convolution.weight, convolution.stride, convolution.transposed)
        _expect("residual", residual, (x.shape[0], mlp.w2.shape[0], *space))


def check_runs(runs: Tensor, length: int, line: int) -> None:
    """Raise a ValueError that says which argument of :func:`mednextv2.ops.gather_rows` does not fit, or return."""
    if runs.dim() != 1 or runs.dtype != torch.int64:
        raise ValueError(f"runs is an int64 tensor (K,), not {_describe(runs)}")
    if length < 1 or line % length:
        raise ValueError(f"length divides the positions of a line, {line}, which {length} does not")


def check_rows(rows: Tensor, runs: Tensor, length: int, shape: Sequence[int], fill: Tensor | None) -> None:
    """Raise a ValueError that says which argument of :func:`mednextv2.ops.scatter_rows` does not fit, or return."""
    check_runs(runs, length, shape[-1])
    if rows.dim() != 2 or rows.shape[0] != runs.shape[0] * length:
        raise ValueError(f"rows has the shape ({runs.shape[0] * length}, C) for these runs, not {_describe(rows)}")
    _expect("fill", fill, (rows.shape[1],))


def result_shape(x: Tensor, weight: Tensor, stride: int, transposed: bool) -> list[int]:
    """Return the spatial shape of the result of a depthwise convolution of `x`."""
    return [
        stride * (n - 1) - 2 * (k // 2) + k if transposed else (n + 2 * (k // 2) - k) // stride + 1
        for n, k in zip(x.shape[2:], weight.shape[2:], strict=True)
    ]


def check_grn(mlp: Mlp, settings: Settings) -> None:
    """Raise a ValueError if GRN's arguments contradict each other, or return."""
    if not isinstance(settings.grn_sum, bool):
        raise ValueError(f"grn_sum, whether GRN's denominator is the sum, is True or False, not {settings.grn_sum!r}")
    if (mlp.gamma is None) != (mlp.beta is None):
        raise ValueError("gamma and beta of GRN are given both or not at all")


def _expect(name: str, tensor: Tensor | None, shape: tuple[int, ...], ones: bool = False) -> None:
    """Compare shapes; with `ones`, that of a convolution with kernel size 1 is also allowed."""
    if tensor is None:
        return
    found = tuple(tensor.shape)
    if found == shape or (ones and found[: len(shape)] == shape and set(found[len(shape) :]) <= {1}):
        return
    raise ValueError(f"{name} has the shape {shape}, not {_describe(tensor)}")


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
