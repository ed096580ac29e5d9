"""Loading of our own weights into a network that exists: every tensor or none."""

import os
from typing import Any

import torch
from torch import Tensor, nn

from mednextv2.errors import InputError
from mednextv2.weights.files import load_file, unwrap_state
from mednextv2.weights.mismatch import describe_mismatch
from mednextv2.weights.provenance import describe_network
from mednextv2.wording import brief, count


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
        raise InputError(
            f"{path}: {problem}, so its training failed; give weights of another training, or an earlier state"
        )
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
    more = ", …" * (len(broken) > 1)
    return f"has NaN or infinite numbers in {count(len(broken), 'tensor')} ({broken[0]}{more})" if broken else ""
