"""Loading of our own weights into a network that exists: every tensor or none."""

import os
from typing import Any

import torch
from torch import Tensor, nn

from mednextv2.errors import InputError
from mednextv2.weights.files import load_file, unwrap_state
from mednextv2.weights.provenance import describe_network
from mednextv2.wording import brief, count

_SHOWN = 3  # number of tensors named in an error; the others are counted


def load_weights(network: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Load a bundle's weights (`model.pt`, or a training checkpoint) into its network.

    Args:
        network: The network, on any device; it is changed in place.
        path: A state dict, or a checkpoint that contains one: see :func:`mednextv2.weights.files.unwrap_state`.

    Returns:
        The same network.

    Raises:
        InputError: When the file is missing, damaged or unsafe, or belongs to a network of another variant, kernel
            size, number of channels or classes. The network is left as it was.
    """
    state = unwrap_state(load_file(path))
    if not isinstance(state, dict) or not state or wrong_tensors(state):
        raise InputError(
            f"{path}: holds no state dict of this network. For checkpoints of nnU-Net trainers of the MedNeXt authors' "
            "code use mednextv2.weights.import_official"
        )
    problem = describe_mismatch(network.state_dict(), state)
    if problem:
        recorded = describe_network(path)
        advice = f" They were {recorded}: give the same settings here." if recorded else ""
        raise InputError(f"{path}: the weights are of another network. {problem}{advice}")
    if problem := wrong_tensors(state, network.state_dict()):
        raise InputError(f"{path}: {problem}")
    if problem := broken_numbers(state):
        raise InputError(f"{path}: {problem}: a training failed")
    network.load_state_dict(state)
    return network


def wrong_tensors(state: dict[str, Any], own: dict[str, Tensor] | None = None) -> str:
    """Say in words which entry of a state dict is not a numeric tensor as networks have; empty if all are.

    Args:
        state: The state dict.
        own: The network's own state dict with the same names. If it is given, the number types are compared, too. A
            network in half precision accepts float32.
    """
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            return f"Its entry {brief(key)} is {brief(value)}, where names and tensors are expected."
        kind = value.dtype if own is None else own[key].dtype
        if value.dtype != kind and not (value.dtype == torch.float32 and kind.is_floating_point):
            return f"Its tensor {key} is {value.dtype}, the network's is {kind}; save it again as the latter."
    return ""


def broken_numbers(state: dict[str, Tensor]) -> str:
    """Say in words which tensors of a state dict have infinite or NaN values; empty if none has."""
    broken = [k for k, v in state.items() if not torch.isfinite(v).all()]
    return f"NaN or infinite numbers in {count(len(broken), 'tensor')} ({broken[0]}, …)" if broken else ""


def describe_mismatch(own: dict[str, Tensor], other: dict[str, Tensor]) -> str:
    """Say in words how a state dict differs from a network's own; empty when it fits.

    Args:
        own: The network's state dict.
        other: The one to be loaded.

    Returns:
        Sentences that name the likely cause first, or an empty string.
    """
    missing = [k for k in own if k not in other]
    unknown = [k for k in other if k not in own]
    shapes = [k for k in own if k in other and own[k].shape != other[k].shape]
    if not (missing or unknown or shapes):
        return ""
    if not any(k in own and not k.startswith("stem.") for k in other):  # the stem has the same names in every network
        return (
            "Not one tensor has a name of this network. For weights of the MedNeXt authors' code use "
            "mednextv2.weights.import_official"
        )
    lines = _likely_causes(own, other, missing, unknown)
    described = [f"{k} {tuple(other[k].shape)} in the file, {tuple(own[k].shape)} here" for k in shapes]
    for what, names in (
        ("of another shape", described),
        ("not in the file", missing),
        ("not in this network", unknown),
    ):
        if names:
            lines.append(
                f"{count(len(names), 'tensor')} {what}: {', '.join(names[:_SHOWN])}{', …' * (len(names) > _SHOWN)}."
            )
    return " ".join(lines)


def _likely_causes(own: dict, other: dict, missing: list[str], unknown: list[str]) -> list[str]:
    """Name the settings that explain the difference, from tensors that each depend on one setting."""

    def size(state: dict, key: str, axis: int) -> int | None:
        return state[key].shape[axis] if key in state and state[key].dim() > axis else None

    causes = []
    for key, axis, words in (
        ("stem.weight", 1, "input channels"),
        ("heads.0.weight", 0, "classes"),
        ("stem.weight", 0, "filters at full resolution (variant)"),
        ("encoder.0.0.depthwise.weight", 2, "voxels to a side of its kernels (kernel size)"),
    ):
        theirs, ours = size(other, key, axis), size(own, key, axis)
        if theirs is not None and ours is not None and theirs != ours:
            causes.append(f"It has {theirs} {words}, the configuration {ours}.")
    if any(".grn." in k for k in own) != any(".grn." in k for k in other):
        causes.append("One of the two has global response normalisation (v2), the other not (v1).")
    stages = ("encoder.", "bottleneck.", "decoder.")
    if any(k.startswith(stages) and k.endswith("depthwise.weight") for k in missing + unknown):
        causes.append("The two differ in depth (variant).")
    if any(k.startswith("heads.") for k in missing + unknown):
        causes.append("One of the two has deep supervision, the other not.")
    return causes
