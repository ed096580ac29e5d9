"""The path that every layer of a network takes on a device, with reasons, for users who look into speed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mednextv2.ops import implementation_choice, implementations
from mednextv2.wording import count


@dataclass(frozen=True)
class Layer:
    """One operator of one block.

    Attributes:
        block: The block's name in the network.
        operator: `depthwise` or `folded_mlp`.
        size: Channels and voxels of its input, such as `32 × 64×64×64`.
        path: The implementation: see :class:`mednextv2.ops.implementations.Choice`.
        reason: The reason for this path.
    """

    block: str
    operator: str
    size: str
    path: str
    reason: str


class Explanation(list[Layer]):
    """The layers in order of execution, printed as a table that has one line for equal layers."""

    def __str__(self) -> str:
        """Return the table."""
        lines: list[str] = []
        groups: dict[tuple[str, str, str], list[Layer]] = {}
        for layer in self:
            groups.setdefault((layer.operator, layer.path, layer.reason), []).append(layer)
        for (operator, path, reason), layers in groups.items():
            names = layers[0].block if len(layers) == 1 else f"{layers[0].block} … {layers[-1].block}"
            lines.append(f"{operator:<11} {path:<9} {len(layers):>3} blocks ({names}): {reason}")
        return "\n".join(lines)


def explain(
    network: nn.Module,
    input_shape: Sequence[int],
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Explanation:
    """Return the path that each block of a MedNeXt takes for an input.

    Args:
        network: A :class:`mednextv2.nets.MedNeXt`.
        input_shape: Shape of the input, `(N, C, *spatial)`.
        device: The device on which it would run; by default that of its parameters.
        dtype: The dtype of the features, which is that of autocast if it is used; by default that of the parameters, or
            bfloat16 if the network computes in it by itself.

    Returns:
        A list of :class:`Layer`; `print` it for a summary.

    Raises:
        ValueError: If the input does not fit the network, or the network is not a MedNeXt.

    Example:
        >>> from mednextv2.nets import create_mednext
        >>> len(explain(create_mednext("v2_tiny"), (1, 1, 64, 64, 64)))
        52
    """
    from mednextv2.nets.kernel_problems import block_problem, convolution_alone, inside
    from mednextv2.nets.legal_sizes import check_spatial_shape
    from mednextv2.nets.mednext import MedNeXt

    if not isinstance(network, MedNeXt):
        raise ValueError(
            f"explain takes a MedNeXt, not a {type(network).__name__}; of a wrapped one give .module, "
            "of a compiled one ._orig_mod"
        )
    shape = list(input_shape) if isinstance(input_shape, Sequence) else []
    if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"input_shape is a sequence of positive ints, such as (1, 1, 64, 64, 64): got {input_shape!r}")
    check_spatial_shape(torch.empty(shape, device="meta"), network.spatial_dims)
    channels = network.stem.in_channels
    if shape[1] != channels:
        raise ValueError(f"the network takes {count(channels, 'channel')}, axis 1 of input_shape says {shape[1]}")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype is a floating-point torch.dtype, such as torch.bfloat16: got {dtype!r}")
    parameter = next(network.parameters())
    try:
        device = torch.device(parameter.device if device is None else device)
    except (RuntimeError, TypeError) as e:
        raise ValueError(f"device is cpu, cuda or another device of PyTorch: got {device!r}") from e
    if dtype is None:
        dtype = torch.bfloat16 if device.type == "cpu" and network.cpu_bfloat16 else parameter.dtype
    if implementations.by_verdict(device):
        from mednextv2.ops import trial  # on GPUs only

        trial.ensure(network.problems(dtype), device)  # all at once
    layers = Explanation()
    for name, block, level in _blocks(network):
        size = [n // 2**level for n in input_shape[2:]]
        channels = block.depthwise.in_channels
        whole = block_problem(block, dtype)
        depthwise = mlp = implementation_choice.choose_for(whole, device)
        if depthwise.name == implementations.TORCH:  # then each half is looked up separately
            depthwise = implementation_choice.choose_for(convolution_alone(whole), device)
            mlp = implementation_choice.choose_for(inside(whole), device)
        for operator, path in (("depthwise", depthwise), ("folded_mlp", mlp)):
            layers.append(Layer(name, operator, f"{channels} × {'×'.join(map(str, size))}", path.name, path.reason))
    return layers


def _blocks(network: Any) -> list[tuple[str, Any, int]]:
    """List the name, the block and the level of its input in order of execution."""
    found: list[tuple[str, Any, int]] = []
    for level, stage in enumerate(network.encoder):
        found += [(f"encoder.{level}.{i}", block, level) for i, block in enumerate(stage)]
        found.append((f"down.{level}", network.down[level], level))
    deepest = len(network.encoder)
    found += [(f"bottleneck.{i}", block, deepest) for i, block in enumerate(network.bottleneck)]
    for index, stage in enumerate(network.decoder):
        found.append((f"up.{index}", network.up[index], deepest - index))
        found += [(f"decoder.{index}.{i}", block, deepest - index - 1) for i, block in enumerate(stage)]
    return found
