"""The depthwise convolution on CUDA, channels-last: launches of the kernels in `_depthwise_kernels.py`."""

import torch
import triton
from torch import Tensor

from mednextv2.ops import _depthwise_kernels as kernels
from mednextv2.ops import _triton_configs as configs
from mednextv2.ops import memory_layout
from mednextv2.ops._folded_mlp_launch import Moments
from mednextv2.ops._folded_mlp_small_kernels import moments_kernel
from mednextv2.ops.parameters import Convolution, Statistics
from mednextv2.ops.shape_checks import result_shape


def forward(x: Tensor, convolution: Convolution) -> tuple[Tensor, Statistics]:
    """Return the result and its moments; the arguments are those of `depthwise_op`."""
    y, parts = convolve(x, taps(convolution.weight), convolution)
    return y, moments(parts, x)


def backward(
    grad: Tensor, x: Tensor, convolution: Convolution, need_x: bool, onto: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (empty unless `need_x`; with `onto` added), weight and bias."""
    grad = grad.to(x.dtype)
    dx = input_gradient(grad, x, taps(convolution.weight), convolution, onto) if need_x else x.new_empty(0)
    db = memory_layout.rows(grad).sum((0, 1), dtype=torch.float32)
    return dx, weight_gradient(grad, x, convolution), db.to(convolution.weight.dtype)


def taps(weight: Tensor) -> Tensor:
    """Return the weights as the kernels read them, `(taps, C)` in float32, with adjacent channels."""
    return weight.flatten(1).t().to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def moments(parts: Moments, x: Tensor) -> Statistics:
    """Combine the moments of tiles."""
    samples, channels = x.shape[:2]
    mean, variance = (x.new_empty(samples, channels, dtype=torch.float32) for _ in range(2))
    block, tiles = configs.MOMENTS
    with torch.cuda.device_of(x):
        moments_kernel[triton.cdiv(channels, block), samples](
            *parts, mean, variance, parts.counts.shape[0], C=channels, BLOCK_M=block, BLOCK_T=tiles, num_warps=8
        )  # fmt: skip
    return Statistics(mean, variance)


def convolve(x: Tensor, weights: Tensor, convolution: Convolution) -> tuple[Tensor, Moments]:
    """Return the result and the moments of its tiles."""
    stride, transposed = convolution.stride, convolution.transposed
    spatial = tuple(result_shape(x, convolution.weight, stride, transposed))
    return _gather(x, weights, convolution, spatial, transposed, moments=True)


def input_gradient(
    grad: Tensor, x: Tensor, weights: Tensor, convolution: Convolution, onto: Tensor | None = None
) -> Tensor:
    """Return the gradient of x, with `onto` added; it gathers like the other kind, with the same weights."""
    convolution = convolution._replace(bias=None)
    dx, _ = _gather(grad, weights, convolution, tuple(x.shape[2:]), not convolution.transposed, onto=onto)
    return dx


def _gather(x, weights, convolution, spatial, transposed, moments=False, onto=None):
    """Return the result and the moments of every tile (or of no tile if they are not needed)."""
    samples, channels = x.shape[:2]
    rows = memory_layout.rows(x).contiguous()
    y = rows.new_empty(samples, *spatial, channels)
    kz, k, sz, step = _kernel(convolution)
    per_class = _space(spatial)
    if transposed:
        per_class = [triton.cdiv(n, s) for n, s in zip(per_class, (sz, step, step), strict=True)]
    config = configs.lookup("depthwise_gather", x, k)
    planes = min(config.blocks[0], configs.power_of_two(per_class[0]))
    block = configs.tile(config.blocks[1], channels, per_class[1], per_class[2])
    tiles = [triton.cdiv(n, b) for n, b in zip(per_class, (planes, *block[:2]), strict=True)]
    programs = tiles[0] * tiles[1] * tiles[2] * (sz * step * step if transposed else 1)
    shapes = ((programs,), (samples, programs, channels), (samples, programs, channels))
    parts = Moments(*(x.new_empty(shape if moments else 0, dtype=torch.float32) for shape in shapes))
    bias = None if convolution.bias is None else convolution.bias.contiguous()
    added = None if onto is None else memory_layout.rows(onto).contiguous()
    with torch.cuda.device_of(x):
        kernels.gather_kernel[programs, triton.cdiv(channels, block[2]), samples](
            rows, weights, weights if bias is None else bias, rows if added is None else added, y,
            *parts, *_space(x.shape[2:]), *_space(spatial), *tiles, C=channels, KZ=kz, K=k, SZ=sz, S=step,
            TRANSPOSED=transposed, HAS_BIAS=bias is not None, HAS_ONTO=added is not None, MOMENTS=moments,
            PLANES=planes, BLOCK_Y=block[0], BLOCK_X=block[1], BLOCK_C=block[2], num_warps=config.warps,
            num_stages=config.stages,
        )  # fmt: skip
    return y.movedim(-1, 1), parts


def weight_gradient(grad: Tensor, x: Tensor, convolution: Convolution) -> Tensor:
    """Return the gradient of the weight, contiguous."""
    weight = convolution.weight
    a, b = (x, grad) if convolution.transposed else (grad, x)
    channels, (kz, k, sz, step) = weight.shape[0], _kernel(convolution)
    config = configs.lookup("depthwise_weight", a, k)
    depth, height, width = _space(a.shape[2:])
    chunk = min(config.blocks[0], depth)
    block = configs.tile(config.blocks[1], channels, height, width)
    tiles = [triton.cdiv(depth, chunk), triton.cdiv(height, block[0]), triton.cdiv(width, block[1])]
    count = a.shape[0] * tiles[0] * tiles[1] * tiles[2]
    taps_x = k if k <= 5 else (k + 1) // 2  # with all taps, the sums would not fit into the registers
    groups = triton.cdiv(k, taps_x) * k * triton.cdiv(channels, block[2])
    per_split, splits = configs.split(count, config.programs // groups)
    partial = a.new_empty(splits, channels, kz * k * k, dtype=torch.float32)
    with torch.cuda.device_of(a):
        kernels.weight_kernel[groups, splits](
            memory_layout.rows(a).contiguous(), memory_layout.rows(b).contiguous(), partial, *_space(a.shape[2:]),
            *_space(b.shape[2:]), *tiles, chunk, count, per_split, C=channels, KZ=kz, K=k, SZ=sz, S=step,
            TAPS_X=taps_x, BLOCK_Y=block[0], BLOCK_X=block[1], BLOCK_C=block[2], num_warps=config.warps,
            num_stages=config.stages,
        )  # fmt: skip
    total = partial[0] if splits == 1 else partial.sum(0)
    return total.reshape(weight.shape).to(weight.dtype)


def _space(spatial) -> tuple[int, int, int]:
    """Return the size in three dimensions; a 2D image has one plane."""
    return (1,) * (3 - len(spatial)) + tuple(spatial)


def _kernel(convolution: Convolution) -> tuple[int, int, int, int]:
    """Return the size and stride of the kernel in z, and those in y and x."""
    k, stride = convolution.weight.shape[-1], convolution.stride
    return (k, k, stride, stride) if convolution.weight.dim() == 5 else (1, k, 1, stride)
