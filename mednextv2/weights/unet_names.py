"""The names of U-Nets of dynamic-network-architectures, which nnU-Net and nnssl train.

Such a state dict has most tensors under several names. `decoder.encoder` is the encoder once more, and a block has its
layers both by name (`conv`, `norm`) and in the list `all_modules`, which is what is computed. nnssl's sparse form (S3D,
SparK) replaces the layers of the encoder in each place by another object, so only those of `all_modules` are trained,
and the others are still random.
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mednextv2.wording import count

_FIRST = re.compile(r"^(.*?)encoder\.stages\.0\.(?:(blocks)|0)\.")
_LISTED = re.compile(r"^(.*\.)all_modules\.(\d+)\.(weight|bias)$")
_STAGE = re.compile(r"^(encoder\.stages|decoder\.(?:stages|transpconvs|seg_layers))\.(\d+)\.")
_OWN_PARTS = ("encoder.stem.", "encoder.stages.", "decoder.")


class Kind(NamedTuple):
    """A kind of U-Net: its name, and that of the network here."""

    title: str
    network: str


RESIDUAL = Kind("nnU-Net's residual encoder U-Net", "resenc_l")
PLAIN = Kind("nnU-Net's PlainConvUNet", "plain_conv_unet")


@dataclass
class Translation:
    """A state dict by the names of a network: see :class:`mednextv2.weights.foreign.Source`."""

    kind: Kind
    tensors: dict[str, Tensor]
    names: dict[str, str]
    absent: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


class _UNet:
    """The tensors of a U-Net, each under one name: `names` has that in the state dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        found = [match for name in state if (match := _FIRST.match(name)) and not match[1].endswith("decoder.")]
        self.known = bool(found)
        if not self.known:
            return
        self.state = state
        self.prefix = min((match[1] for match in found), key=len)
        self.kind = RESIDUAL if any(match[2] for match in found) else PLAIN
        self.untrained: list[str] = []  # copies that differ from what is computed
        self.names: dict[str, str] = {}
        for name in sorted(state, key=lambda name: ".all_modules." in name):  # the latter replace the former
            key = self.canonical(name)
            if key is None:
                continue
            before = self.names.get(key)
            alias = name.removeprefix(self.prefix).startswith("decoder.encoder.")
            if before is None or not alias:
                if before is not None and not _equal(state[before], state[name]):
                    self.untrained.append(before)
                self.names[key] = name
        stages = [int(match[2]) for key in self.names if (match := _STAGE.match(key)) and match[1] == "encoder.stages"]
        self.stages = max(stages) + 1

    def canonical(self, name: str) -> str | None:
        """Return the one name of a tensor, such as `encoder.stem.convs.0.conv.weight`, or None for no part of it."""
        if not name.startswith(self.prefix):
            return None
        key = name.removeprefix(self.prefix)
        key = key.removeprefix("decoder.") if key.startswith("decoder.encoder.") else key
        if not key.startswith(_OWN_PARTS):
            return None
        if match := _LISTED.match(key):
            weight = self.state.get(re.sub(r"\.bias$", ".weight", name))
            layer = "norm" if weight is not None and weight.dim() == 1 else "conv"
            key = f"{match[1]}{layer}.{match[3]}"
        return key


def translate(state: dict[str, Tensor], own: dict[str, Tensor]) -> Translation | None:
    """Return a state dict by the names of a network.

    If the two have different numbers of stages, those of the same resolution belong together: the decoder is counted
    from full resolution.

    Args:
        state: The state dict, whose names may all have the same prefix.
        own: The network's state dict.

    Returns:
        The translation, or None if the state dict is not of such a U-Net. For a network that is another one, the names
        are those of the file.
    """
    given, ours = _UNet(state), _UNet(own)
    if not given.known:
        return None
    if not ours.known or given.kind != ours.kind:
        unlike = {f"{given.kind.network}:{name}": name for name in state}  # no name that the network has
        return Translation(given.kind, {key: state[name] for key, name in unlike.items()}, unlike)
    deeper = given.stages - ours.stages  # stages of the file below the lowest here
    result = Translation(given.kind, {}, {})
    used = set()
    for name in own:
        key = ours.canonical(name)
        source = given.names.get(_shifted(key, deeper)) if key else None
        if source is not None:
            result.tensors[name], result.names[name] = state[source], source
            used.add(source)
        elif key and (reason := _reason(key, given, ours)):
            result.absent[name] = reason
    _leave(result, given, used, deeper)
    if given.untrained:
        result.remarks.append(
            f"the file is of sparse pretraining, in which {count(len(given.untrained), 'copy', 'copies')} of layers "
            "stayed untrained (conv and norm); their trained form (all_modules) was taken"
        )
    if deeper:
        more = "the file" if deeper > 0 else "the network"
        result.remarks.append(
            f"the file has {count(given.stages, 'stage')}, the network {ours.stages}, as planned for its patch and "
            f"spacing; stages of the same resolution were taken, and {count(abs(deeper), 'stage')} of {more} "
            "at the lowest resolution had no counterpart"
        )
    return result


def _leave(result: Translation, given: _UNet, used: set[str], deeper: int) -> None:
    """Enter which tensors of the file have no place; further names of tensors that are used are not counted."""
    for key, name in given.names.items():
        if name in used:
            continue
        match = _STAGE.match(key)
        lower = match is not None and deeper > 0
        result.left[name] = "of a stage that the network does not have" if lower else ""
    for name in given.state:
        if given.canonical(name) is None:
            result.left[name] = "no part of the U-Net"


def _shifted(key: str, deeper: int) -> str:
    """Return the name that a tensor has in a U-Net with more stages; the decoder counts from the lowest resolution."""
    match = _STAGE.match(key)
    if match is None or match[1] == "encoder.stages":
        return key
    return f"{match[1]}.{int(match[2]) + deeper}.{key[match.end() :]}"


def _reason(key: str, given: _UNet, ours: _UNet) -> str:
    """Say why a tensor may lack in the file; empty if it may not."""
    match = _STAGE.match(key)
    if key.startswith("decoder.") and not any(name.startswith("decoder.stages.") for name in given.names):
        return "the file has an encoder only"
    if match is None or given.stages >= ours.stages:
        return ""
    number = int(match[2])
    low = number >= given.stages if match[1] == "encoder.stages" else number < ours.stages - given.stages
    return "of a stage that the file does not have" if low else ""


def _equal(one: Tensor, other: Tensor) -> bool:
    """Compare two tensors; those of a network that has them under two names are the same numbers in memory."""
    if one.shape != other.shape:
        return False
    return (one.data_ptr() == other.data_ptr() and one.stride() == other.stride()) or torch.equal(one, other)
