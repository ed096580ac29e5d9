"""The formats in which weights are kept, and their tensors by the names that they have in a network of this project."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mednextv2.weights import monai_names, official, unet_names
from mednextv2.weights.expectations import Expectations, read_expectations

#: Where a network lies within :class:`mednextv2.nets.AdaptedNetwork`.
INNER = "network."
State = dict[str, Tensor]


@dataclass
class Source:
    """The tensors of a file by the names that they have, or would have, in the network.

    Attributes:
        title: What the file is, in words; empty for this project's own.
        network: How its network is chosen here, for the message that it is another one.
        tensors: The tensors by their names in the network.
        names: The name in the file of each of them.
        absent: Why tensors of the network may lack in the file, by name.
        differs: Why tensors of the network may have another shape in the file, by name.
        left: Why tensors of the file have no place in the network, by their names in the file.
        new_heads: Why the segmentation heads shall be new, whatever their shape; empty if they need not.
        remarks: Sentences about the file.
        expects: What the pretraining was done with.
    """

    title: str
    network: str
    tensors: State
    names: dict[str, str]
    absent: dict[str, str] = field(default_factory=dict)
    differs: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    new_heads: str = ""
    remarks: list[str] = field(default_factory=list)
    expects: Expectations = field(default_factory=Expectations)


#: A function from the content of a file, its state dict and the network's own to a source, or None for what it does not
#: know.
Reader = Callable[[Any, State, State], "Source | None"]


def _read_unet(content: Any, state: State, own: State) -> Source | None:
    """Read a U-Net of dynamic-network-architectures: of nnU-Net, of nnssl, or trained here."""
    found = unet_names.translate(state, own)
    if found is None:
        return None
    expects = read_expectations(content)
    checkpoint = isinstance(content, Mapping) and "network_weights" in content
    foreign = checkpoint or not any(name in own for name in state)
    source = Source(
        title=describe_origin(content, expects.architecture or found.kind.title) if foreign else "",
        network=f"give --network {found.kind.network}",
        tensors=found.tensors,
        names=found.names,
        absent=found.absent,
        left=found.left,
        remarks=found.remarks,
        expects=expects,
    )
    if _is_self_supervised(content):
        source.new_heads = "the file's heads reconstruct images"
    if expects.architecture == "NoSkipResEncL":  # its decoder has half of the channels
        reason = "the pretraining had no skip connections"
        source.differs = {name: reason for name in own if ".stages." in name and "decoder.stages" in name}
    return source


def _read_same_names(content: Any, state: State, own: State) -> Source | None:
    """Read weights with the network's own names, or those within an adapted network, if most names are such."""
    for prefix in ("", INNER):
        if 2 * sum(f"{prefix}{name}" in own for name in state) > len(state):
            return _renamed(content, state, prefix)
    return None


def _read_any_names(content: Any, state: State, own: State) -> Source | None:
    """Read a state dict of which at least one tensor has a name of the network."""
    return _renamed(content, state, "") if any(name in own for name in state) else None


def _renamed(content: Any, state: State, prefix: str) -> Source:
    expects = read_expectations(content)
    return Source(
        title=describe_origin(content, expects.architecture),
        network="",
        tensors={f"{prefix}{name}": tensor for name, tensor in state.items()},
        names={f"{prefix}{name}": name for name in state},
        expects=expects,
    )


def _read_official(content: Any, state: State, own: State) -> Source | None:
    """Read a MedNeXt of its authors' code: v1, or with GRN as MultiTalent trains it in nnU-Net v2."""
    if not official.is_official(state):
        return None
    grn = " with GRN" if any(name.endswith("grn_gamma") for name in state) else ""
    expects = read_expectations(content)
    return Source(
        title=describe_origin(content, f"MedNeXt{grn} of its authors' code"),
        network="leave out --network",
        tensors=official.translate(state),
        names={official.rename(name): name for name in state if name != official.DUMMY},
        left={name: "has no effect there" for name in state if name == official.DUMMY},
        expects=expects,
    )


def _read_monai(content: Any, state: State, own: State) -> Source | None:
    """Read MONAI's MedNeXt; in its sizes B, M and L, two down blocks are narrower than in the paper."""
    if not monai_names.is_monai(state):
        return None
    tensors = monai_names.translate(state)
    narrower = {
        name: "MONAI's down block is narrower in this size"
        for name in own
        if monai_names.depends_on_down_ratio(name) and name in tensors and own[name].shape != tensors[name].shape
    }
    return Source(
        title="MONAI's MedNeXt",
        network="leave out --network, or give --network monai_mednext",
        tensors=tensors,
        names={monai_names.rename(name): name for name in state},
        differs=narrower,
    )


#: What can be read, in the order in which it is tried.
READERS: list[Reader] = [_read_unet, _read_same_names, _read_official, _read_monai, _read_any_names]


def find_source(content: Any, state: State, own: State) -> Source | None:
    """Return the tensors of a file by their names in a network, or None if no reader knows it.

    Args:
        content: The content of the file.
        state: The state dict in it, with names of tensors.
        own: The network's state dict.
    """
    return next((source for reader in READERS if (source := reader(content, state, own)) is not None), None)


def _is_self_supervised(content: Any) -> bool:
    return isinstance(content, Mapping) and not content.keys().isdisjoint(("nnssl_adaptation_plan", "spark_weights"))


def describe_origin(content: Any, network: str) -> str:
    """Say of which project a checkpoint is, as far as it records it, and of which network.

    Args:
        content: The content of the file.
        network: The network in words, or an empty text.
    """
    known = content if isinstance(content, Mapping) else {}
    project = "nnssl" if _is_self_supervised(known) else "nnU-Net" if "network_weights" in known else ""
    trainer = known.get("trainer_name")
    named = re.sub(r"\W", "", trainer)[:80] if isinstance(trainer, str) else ""
    parts = [part for part in (network, named) if part]
    if not project:
        return network
    return f"checkpoint of {project}" + (f": {', '.join(parts)}" if parts else "")
