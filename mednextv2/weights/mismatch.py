"""In which way weights do not fit a network, in words, as far as names and shapes of their tensors tell it."""

from typing import Any, NamedTuple

from torch import Tensor

from mednextv2.nets.variants import VARIANTS
from mednextv2.wording import count

_SHOWN = 3  # number of tensors named in a message; the others are counted
_STAGES = (*(f"encoder.{i}" for i in range(4)), "bottleneck", *(f"decoder.{i}" for i in range(4)))


def describe_mismatch(
    own: dict[str, Tensor],
    other: dict[str, Tensor],
    elsewhere: str = "For weights of the MedNeXt authors' code use mednextv2.weights.import_official",
) -> str:
    """Say in words how a state dict differs from a network's own; empty when it fits.

    Args:
        own: The network's state dict.
        other: The one to be loaded.
        elsewhere: What to do with weights that have no name in common with the network.

    Returns:
        Sentences that name the likely cause first, or an empty string.
    """
    missing = [k for k in own if k not in other]
    unknown = [k for k in other if k not in own]
    shapes = [k for k in own if k in other and own[k].shape != other[k].shape]
    if not (missing or unknown or shapes):
        return ""
    if not any(k in own and not k.startswith("stem.") for k in other):  # the stem has the same names in every network
        return _describe_strangers(own, other, elsewhere)
    lines = _other_axes([(other[k], own[k]) for k in shapes])
    lines = lines or _likely_causes(own, other, missing, unknown) or _causes_elsewhere(own, other, shapes)
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


def images_in_words(axes: int) -> str:
    """Say what images with a number of spatial axes are.

    Example:
        >>> images_in_words(2)
        '2D images'
    """
    return {2: "2D images", 3: "volumes"}.get(axes, f"images with {count(axes, 'axis', 'axes')}")


def _other_axes(pairs: list[tuple[Tensor, Tensor]]) -> list[str]:
    """Say that all filters are those of 2D convolutions on one side and of 3D ones on the other, if that is so."""
    axes = {(a.dim() - 2, b.dim() - 2) for a, b in pairs}
    if len(pairs) < 2 or axes not in ({(2, 3)}, {(3, 2)}):
        return []
    theirs, ours = map(images_in_words, axes.pop())
    return [f"It is a network for {theirs}, that of the configuration for {ours}."]


def _describe_strangers(own: dict[str, Tensor], other: dict[str, Tensor], elsewhere: str) -> str:
    """Say what two networks are that have no name in common."""
    theirs = read_size(other)
    if theirs is not None:
        return f"They are of {theirs.describe()}: leave out --network, or give weights of the network here."
    names = f" (it begins with {next(iter(other))[:60]}, the network with {next(iter(own))})" if own and other else ""
    return (
        f"Not one tensor has a name of this network{names}. For weights of another network give its --network. "
        f"{elsewhere}"
    )


class MedNeXtSize(NamedTuple):
    """The settings of a MedNeXt, as read from its tensors; `variant` is None for a size without a name."""

    variant: str | None
    in_channels: int
    outputs: int
    kernel_size: int

    def describe(self) -> str:
        """Return them in words.

        Example:
            >>> MedNeXtSize("v2_tiny", 1, 3, 5).describe()
            'MedNeXt v2_tiny with 1 input channel, 3 classes and kernels of 5 voxels'
        """
        return (
            f"MedNeXt {self.variant or 'in a size of its own'} with {count(self.in_channels, 'input channel')}, "
            f"{count(self.outputs, 'class', 'classes')} and kernels of {count(self.kernel_size, 'voxel')}"
        )


def read_size(state: dict[str, Any]) -> MedNeXtSize | None:
    """Read the settings of a MedNeXt from the names and shapes of its tensors.

    Args:
        state: A state dict.

    Returns:
        The settings, or None if the state dict is not of this project's MedNeXt.
    """

    def shape(name: str) -> tuple[int, ...]:
        value = state.get(name)
        return tuple(value.shape) if isinstance(value, Tensor) else ()

    stem, head, kernel = shape("stem.weight"), shape("heads.0.weight"), shape("encoder.0.0.depthwise.weight")
    expand = [shape(f"{stage}.0.expand.weight") for stage in _STAGES]
    if any(len(part) < 3 for part in (stem, head, kernel)) or any(len(part) < 3 or not part[1] for part in expand):
        return None
    found = (
        stem[0],
        tuple(sum(k.startswith(f"{stage}.") and k.endswith(".depthwise.weight") for k in state) for stage in _STAGES),
        tuple(part[0] // part[1] for part in expand),
        "encoder.0.0.grn.gamma" in state,
    )
    sizes = {(v.init_filters, v.blocks, v.ratios, v.global_resp_norm): name for name, v in VARIANTS.items()}
    return MedNeXtSize(sizes.get(found), stem[1], head[0], kernel[2])


def _likely_causes(own: dict, other: dict, missing: list[str], unknown: list[str]) -> list[str]:
    """Name the settings that explain the difference, from tensors that each depend on one setting."""

    def size(state: dict, key: str, axis: int) -> int | None:
        return state[key].shape[axis] if key in state and state[key].dim() > axis else None

    causes = []
    theirs, ours = read_size(other), read_size(own)
    if theirs and ours and theirs.variant and ours.variant and theirs.variant != ours.variant:
        causes.append(
            f"They are of the variant {theirs.variant}, and the configuration is of {ours.variant}: give --variant "
            f"{theirs.variant}, or other weights."
        )
        return causes  # the rest follows from it, or is no obstacle
    for key, axis, words in (
        ("stem.weight", 1, ("input channel",)),
        ("heads.0.weight", 0, ("class", "classes")),
        ("stem.weight", 0, ("filter", "filters at full resolution (variant)")),
        ("encoder.0.0.depthwise.weight", 2, ("voxel", "voxels along each side of a kernel (kernel_size)")),
    ):
        given, needed = size(other, key, axis), size(own, key, axis)
        if given is not None and needed is not None and given != needed:
            causes.append(f"They are for {count(given, *words)}, and the configuration is for {needed}.")
    if any(".grn." in k for k in own) != any(".grn." in k for k in other):
        without, version = ("out", "v1") if any(".grn." in k for k in own) else ("", "v2")
        causes.append(
            f"They are of a network with{without} global response normalisation ({version}), and that of the "
            f"configuration is one with{'' if without else 'out'} it."
        )
    stages = ("encoder.", "bottleneck.", "decoder.")
    if any(k.startswith(stages) and k.endswith("depthwise.weight") for k in missing + unknown):
        causes.append("The two differ in depth (variant).")
    if any(k.startswith("heads.") for k in missing + unknown):
        causes.append("One of the two has deep supervision, the other not.")
    return causes


def _causes_elsewhere(own: dict, other: dict, shapes: list[str]) -> list[str]:
    """Do the same for a network of other code, of which only the order of its layers is known."""
    same_axes = [k for k in shapes if own[k].dim() == other[k].dim()]
    layers = [k for k in own if k in other and own[k].dim() == other[k].dim() > 2]  # convolutions, from the first on
    if not same_axes or not layers:
        return []
    (theirs, ours), causes = (tuple(state[layers[0]].shape) for state in (other, own)), []
    if theirs[0] != ours[0]:
        return [f"Its first layer has {theirs[0]} filters, that of the configuration {ours[0]} (width)."]
    if theirs[1] != ours[1]:
        causes.append(f"They are for {count(theirs[1], 'input channel')}, and the configuration is for {ours[1]}.")
    rest = [k for k in same_axes if k != layers[0]]
    pairs = {(a, b) for k in rest for a, b in zip(other[k].shape, own[k].shape, strict=True) if a != b}
    if len(pairs) == 1:  # all layers that differ do so in the same way
        given, needed = pairs.pop()
        causes.append(f"They are for {count(given, 'class', 'classes')}, and the configuration is for {needed}.")
    return causes
