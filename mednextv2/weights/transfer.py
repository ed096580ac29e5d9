"""Weights of one training as the start of another: everything that fits, and a sentence about the rest.

A file is read by the first of :data:`READERS` that knows it, which returns a state dict with the names of the network.
Weights of other projects need only a reader of their own; what fits is decided here for all of them.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mednextv2.errors import InputError
from mednextv2.weights.files import load_file, unwrap_state
from mednextv2.weights.loading import broken_numbers, wrong_tensors
from mednextv2.weights.mismatch import describe_mismatch
from mednextv2.weights.provenance import describe_network, other_labels
from mednextv2.wording import count

_SHOWN = 3  # number of tensors named in a message; the others are counted
_LEAST = 0.5  # the smallest part of the parameters that is worth the name of a transfer
_INTERPOLATION = {2: "bilinear", 3: "trilinear"}

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)

#: A function from a file's content to a state dict with the network's names, or None for content that it does not know.
Reader = Callable[[Any, nn.Module], "dict[str, Tensor] | None"]


@dataclass
class Transfer:
    """What became of the tensors of a file and of a network.

    Attributes:
        path: The file.
        loaded: Names of the network's tensors that have the values of the file.
        adapted: Names of those whose values were made from the file's, each with how.
        new: Names of those that keep their random values.
        unused: Names of the file's tensors that the network does not have.
        parameters: The number of numbers in `loaded` and `adapted`, and in the whole network.
        remark: What is said after the names of those that are newly initialised.
    """

    path: str
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    parameters: tuple[int, int] = (0, 0)
    remark: str = ""

    def describe(self) -> str:
        """Return a line for people.

        Example:
            >>> Transfer("model.pt", ["a", "b"], {}, ["heads.0.weight"], [], (90, 100)).describe()
            'pretrained model.pt: 2 of 3 tensors loaded (90 of 100 parameters); newly initialised: heads.0.weight'
        """
        total = len(self.loaded) + len(self.adapted) + len(self.new)
        taken, whole = self.parameters
        parts = [f"{len(self.loaded)} of {count(total, 'tensor')} loaded ({taken:,} of {whole:,} parameters)"]
        ways: dict[str, list[str]] = {}
        for name, way in self.adapted.items():
            ways.setdefault(way, []).append(name)
        parts += [f"adapted: {_listed(names)} ({way})" for way, names in ways.items()]
        if self.new or self.remark:
            parts.append(f"newly initialised: {_listed(self.new) or 'none'}{self.remark}")
        parts += [f"unused: {_listed(self.unused)}"] if self.unused else []
        return f"pretrained {self.path}: {'; '.join(parts)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {count(len(names) - _SHOWN, 'other')}" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _read_own(content: Any, network: nn.Module) -> dict[str, Tensor] | None:
    """Read this project's files: a `model.pt`, a training's checkpoint, or a bare state dict with the same names."""
    state = unwrap_state(content)
    known = isinstance(state, dict) and any(name in state for name in network.state_dict())
    return state if known else None


#: What can be read, in the order in which it is tried.
READERS: list[Reader] = [_read_own]


def transfer_weights(
    network: nn.Module,
    path: str | os.PathLike,
    in_channels: int | None = None,
    out_channels: int | None = None,
    labels: Sequence[str] | None = None,
) -> Transfer:
    """Load everything that fits from the weights of another training.

    The networks must be the same, but may differ in three things. If the number of outputs differs, or the labels that
    the file records, the segmentation heads keep their random values. If the number of input channels differs, the
    filters of the first layer are adapted with :func:`adapt_channels`. If the network's kernels are larger, the file's
    are enlarged with :func:`enlarge_kernel`.

    Args:
        network: The network, on any device; it is changed in place.
        path: A file of weights, or a checkpoint that contains them.
        in_channels: The number of the network's input channels; by default, the first layer must fit.
        out_channels: The number of the network's outputs; by default, the heads must fit.
        labels: The meaning of the network's outputs: see :func:`mednextv2.weights.provenance.recorded_labels`; by
            default, they are not compared.

    Returns:
        What was loaded, adapted, newly initialised and not used.

    Raises:
        InputError: If the file is missing, damaged or unsafe, if it is of another network, or if less than half of the
            parameters would be loaded. The network is left as it was.
    """
    content = load_file(path)
    state = next((found for reader in READERS if (found := reader(content, network)) is not None), None)
    if state is None:
        raise InputError(f"{path}: holds no weights of this network; not one tensor has a name of it{_of(path)}")
    if problem := wrong_tensors(state):
        raise InputError(f"{path}: holds no weights of this network. {problem}")
    own = network.state_dict()
    result, values = Transfer(str(path)), {}
    heads = output_tensors(network, out_channels)
    difference = other_labels(path, labels)
    for name, tensor in own.items():
        way, value = _fit(name, tensor, state.get(name), in_channels, out_channels, heads)
        if difference and name in heads and way != "other":
            way, value = "new", None
        if value is not None:
            values[name] = value
        if way == "new":
            result.new.append(name)
        elif way == "other":
            raise _other_network(path, own, state)
        elif way:
            result.adapted[name] = way
        else:
            result.loaded.append(name)
    if difference:
        result.remark = f", since {difference}" if result.new else f" ({difference}, but the last layer is not known)"
    result.unused = [name for name in state if name not in own]
    if not all(_is_head(name) for name in result.unused):
        raise _other_network(path, own, state)
    _check_values(path, values, own)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}  # each once, if it is shared
    result.parameters = sum(size for name, size in sizes.items() if name in values), sum(sizes.values())
    if result.parameters[0] < _LEAST * result.parameters[1]:
        raise InputError(f"{result.describe()}. That is less than half of the network: it would not be a fine-tuning")
    network.load_state_dict(values, strict=False)
    return result


def _fit(
    name: str,
    own: Tensor,
    given: Tensor | None,
    in_channels: int | None,
    out_channels: int | None,
    heads: dict[str, int],
) -> tuple[str, Tensor | None]:
    """Return how a tensor becomes one of the network ("" unchanged, `new`, `other`, or words), and its values."""
    if given is None:
        return ("new" if _is_head(name) else "other"), None
    if given.shape == own.shape:
        return "", given
    if given.dim() != own.dim():
        return "other", None
    axes = [axis for axis in range(own.dim()) if own.shape[axis] != given.shape[axis]]
    if (name in heads and axes == [heads[name]]) or (axes == [0] and own.shape[0] == out_channels):
        return "new", None
    if axes == [1] and own.dim() > 2 and own.shape[1] == in_channels:
        return f"from {count(given.shape[1], 'input channel')} to {own.shape[1]}", adapt_channels(given, own.shape[1])
    dims = own.dim() - 2
    if name.endswith("depthwise.weight") and axes == list(range(2, 2 + dims)) and own.shape[2] > given.shape[2]:
        way = f"kernels enlarged from {given.shape[2]} to {own.shape[2]} voxels"
        return way, enlarge_kernel(given, tuple(own.shape[2:]))
    return "other", None


def output_tensors(network: nn.Module, out_channels: int | None) -> dict[str, int]:
    """Return the tensors of the layers that make the outputs, each with the axis of its outputs.

    In MedNeXt they have names of their own. In other networks, they are layers that only mix channels (or enlarge the
    image by the size of their kernel) and have as many outputs as the network.

    Args:
        network: The network.
        out_channels: The number of its outputs; only needed for networks other than MedNeXt.
    """
    if named := {name: 0 for name in network.state_dict() if _is_head(name)}:
        return named
    found: dict[str, int] = {}
    for layer_name, layer in network.named_modules(remove_duplicate=False):  # state dicts have all names
        if isinstance(layer, nn.Linear):
            outputs, transposed = layer.out_features, False
        elif isinstance(layer, _TRANSPOSED) and layer.kernel_size == layer.stride:
            outputs, transposed = layer.out_channels, True
        elif isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED)) and {*layer.kernel_size} == {1}:
            outputs, transposed = layer.out_channels, isinstance(layer, _TRANSPOSED)
        else:
            continue
        if outputs == out_channels:
            prefix = f"{layer_name}." if layer_name else ""
            found[f"{prefix}weight"] = int(transposed)
            if layer.bias is not None:
                found[f"{prefix}bias"] = 0
    return found


def _is_head(name: str) -> bool:
    """Tell whether a tensor of MedNeXt belongs to the layers that make the outputs."""
    return name.startswith("heads.")


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
    """Return depthwise filters of a larger kernel, interpolated linearly: MedNeXt's UpKern.

    Args:
        weight: Filters, `(out, 1, *kernel)`.
        size: The size of the larger kernel.

    Source:
        Roy et al. 2023, MedNeXt, section 2.3 (arXiv:2303.09975).
    """
    enlarged = F.interpolate(weight.float(), size=size, mode=_INTERPOLATION[len(size)], align_corners=False)
    return enlarged.to(weight.dtype)


def _check_values(path: str | os.PathLike, values: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    if problem := wrong_tensors(values, own):
        raise InputError(f"{path}: {problem}")
    if problem := broken_numbers(values):
        raise InputError(f"{path}: {problem}: a training failed")


def _other_network(path: str | os.PathLike, own: dict[str, Tensor], state: dict[str, Tensor]) -> InputError:
    return InputError(f"{path}: the weights are of another network{_of(path)}. {describe_mismatch(own, state)}")


def _of(path: str | os.PathLike) -> str:
    network = describe_network(path)
    return f", {network}" if network else ""
