"""The parts of a network: its encoder, and its stages in the order of their distance from the output."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets.adapters import AdaptedNetwork
from mednextv2.nets.mednext import MedNeXt

#: The parts of a network that can be frozen.
PARTS = ("encoder",)


class Stage(NamedTuple):
    """Layers of a network that have the same distance from its output."""

    name: str
    modules: Sequence[nn.Module]


def encoder_of(network: nn.Module) -> list[nn.Module]:
    """Return the modules of a network's encoder.

    In MedNeXt, these are the stem, the encoder stages, the down blocks and the bottleneck. In any other network, it is
    the module that has the name encoder.

    Raises:
        InputError: If the network has no such module, or it is the whole network.
    """
    inner = _inner(network)
    if isinstance(inner, MedNeXt):
        return [inner.stem, inner.encoder, inner.down, inner.bottleneck]
    found = getattr(inner, "encoder", None)
    parts = [name for name, _ in inner.named_children()]
    if not isinstance(found, nn.Module) or next(found.parameters(), None) is None:
        raise InputError(
            f"freeze encoder: the network {_name(network)} has no part with the name encoder; its parts are "
            f"{', '.join(parts[:10])}. Leave --freeze out, or choose a network with an encoder, such as MedNeXt or "
            "resenc_l"
        )
    own = {id(p) for p in found.parameters()}
    if all(id(p) in own for p in inner.parameters()):
        raise InputError(f"freeze encoder: nothing else of the network {_name(network)} could be trained")
    return [found]


def stages_from_output(network: nn.Module) -> list[Stage]:
    """Return the stages of a network along its main path, from the output to the input.

    For MedNeXt: all heads; the four decoder stages from full resolution down, each with the up block that leads to it;
    the bottleneck and the three lower encoder stages from the lowest resolution up, each with the down block that leads
    to it; the encoder stage at full resolution; the stem. The U-Nets of nnU-Net have the same order, with as many
    stages as they have resolutions. Skip connections are no shorter path.

    Raises:
        InputError: For a network whose order is not known.
    """
    inner = _inner(network)
    if isinstance(inner, MedNeXt):
        return _stages(inner.heads, inner.decoder, inner.up, [*inner.encoder, inner.bottleneck], inner.down, inner.stem)
    encoder, decoder = getattr(inner, "encoder", None), getattr(inner, "decoder", None)
    needed = [(encoder, "stages"), (decoder, "stages"), (decoder, "transpconvs"), (decoder, "seg_layers")]
    if not all(hasattr(part, name) for part, name in needed):
        raise InputError(
            f"layer_decay: the order of the layers of the network {_name(network)} is not known; leave it at 1.0, or "
            "choose MedNeXt, resenc_l or plain_conv_unet"
        )
    nnunet: Any = inner
    stem = nnunet.encoder.stem if isinstance(getattr(encoder, "stem", None), nn.Module) else None
    return _stages(
        nnunet.decoder.seg_layers, nnunet.decoder.stages, nnunet.decoder.transpconvs, nnunet.encoder.stages, [], stem
    )


def _stages(heads: Any, decoder: Any, up: Any, encoder: Any, down: Any, stem: nn.Module | None) -> list[Stage]:
    """Name the stages; the decoder and its up blocks are listed from the lowest resolution up, the others down."""
    found = [Stage("heads", [heads])]
    for level, modules in enumerate(zip(reversed(decoder), reversed(up), strict=True)):
        found.append(Stage(f"decoder, {_resolution(level)}", modules))
    lowest = len(encoder) - 1
    for level in range(lowest, -1, -1):
        name = "bottleneck" if level == lowest else f"encoder, {_resolution(level)}"
        found.append(Stage(name, [encoder[level], *([down[level - 1]] if down and level else [])]))
    return [*found, *([Stage("stem", [stem])] if stem is not None else [])]


def _resolution(level: int) -> str:
    return "full resolution" if level == 0 else f"1/{2**level} of the resolution"


def _inner(network: nn.Module) -> nn.Module:
    return network.network if isinstance(network, AdaptedNetwork) else network


def _name(network: nn.Module) -> str:
    return network.name if isinstance(network, AdaptedNetwork) else type(network).__name__
