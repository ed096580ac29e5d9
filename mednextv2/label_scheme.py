"""The meaning of the voxel values of label maps: classes or overlapping regions, and an ignore label."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.utils import get_equivalent_dtype
from torch import Tensor

from mednextv2.errors import InputError
from mednextv2.wording import brief

# by axis, in the order of images here: from left to right, from posterior to anterior, from inferior to superior
_OPPOSITES = (
    {"left": "right", "l": "r", "lt": "rt", "lh": "rh", "sin": "dex", "sinister": "dexter"},
    {"anterior": "posterior", "ant": "post", "ventral": "dorsal", "front": "back"},
    {"superior": "inferior", "sup": "inf", "upper": "lower", "cranial": "caudal", "top": "bottom"},
)

#: Largest number of labels in a label map: values are int16 at most, in memory and in files.
MAX_LABELS = 2**15
#: Largest number of characters in the name of a label or a channel.
MAX_NAME = 200


def label_dtype(labels: int) -> np.dtype:
    """Return the data type of label maps, in memory and in files: uint8 up to 256 labels, int16 for more.

    Args:
        labels: The number of values, including 0 for the background.

    Raises:
        InputError: If there are more than `MAX_LABELS`.
    """
    if labels > MAX_LABELS:
        raise InputError(f"label maps have values up to {MAX_LABELS - 1}, not {labels - 1}; renumber the labels")
    return np.dtype(np.uint8 if labels <= 256 else np.int16)


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number; a truth value is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_name(value: Any) -> bool:
    """Return whether a value is a text that can name a label or a channel: one line, not empty, and not too long."""
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_NAME:
        return False
    return not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value)


class Region(NamedTuple):
    """A structure that consists of several label values and may overlap with others.

    Attributes:
        name: The name of the structure.
        values: The label values of which it consists.
        paint: The value that stands for it in a predicted label map.
    """

    name: str
    values: tuple[int, ...]
    paint: int


class LabelScheme:
    """The rules by which label maps become training targets, and outputs of the network become label maps.

    With classes, the network has one output for each label value, and the largest wins (softmax). With regions, it has
    one independent output for each region (sigmoid); regions with a probability above 0.5 are painted into the label
    map in their order, later ones over earlier ones.

    Args:
        labels: The names of the label values 0, 1, …, with the background first. The ignore label is not among them.
        regions: Mappings with the keys `name`, `values` and `paint`; empty for classes.
        ignore_label: The value of voxels that were not annotated, which count neither in the loss nor in a score. It
            follows the highest label.

    Raises:
        InputError: If values are out of range, or the ignore label is not the highest.

    Source:
        nnU-Net's region-based training and ignore label (documentation of nnU-Net v2).
    """

    def __init__(
        self,
        labels: Sequence[str],
        regions: Sequence[Mapping[str, Any]] = (),
        ignore_label: int | None = None,
    ) -> None:
        if not isinstance(labels, (list, tuple)):  # of a text, each letter would be a label
            raise InputError(f"labels {brief(labels)}: should be a list of names, such as [background, liver]")
        self.labels = [str(name) for name in labels]
        self.ignore_label = ignore_label
        if not regions and len(self.labels) < 2:
            raise InputError(f"labels {self.labels}: need the background and at least one class")
        if ignore_label is not None and (not is_whole(ignore_label) or ignore_label != len(self.labels)):
            raise InputError(
                f"ignore_label {brief(ignore_label)}: should be the value after the highest label, {len(self.labels)}"
            )
        self.regions = [self._region(entry) for entry in regions]

    def _region(self, entry: Mapping[str, Any]) -> Region:
        known = range(1, len(self.labels))
        if not isinstance(entry, Mapping) or set(entry) != {"name", "values", "paint"}:
            raise InputError(f"regions: {brief(entry)} should have name, values and paint")
        values = entry["values"] if isinstance(entry["values"], (list, tuple)) else [entry["values"]]
        if not is_name(entry["name"]):
            raise InputError(f"regions: the name {brief(entry['name'])} should be a text of one line; put it in quotes")
        wrong = [v for v in (*values, entry["paint"]) if not is_whole(v) or v not in known]
        if wrong or not values:
            raise InputError(
                f"regions: {entry['name']} is made of the values {brief(list(values))} and painted as "
                f"{brief(entry['paint'])}; values should be from 1 to {len(self.labels) - 1}"
            )
        return Region(entry["name"], tuple(values), entry["paint"])

    @property
    def declared(self) -> list[str]:
        """The names of all values that label maps may have, in order of value: the labels and the ignore label."""
        return self.labels + ["ignore"] * (self.ignore_label is not None)

    @property
    def legend(self) -> list[str]:
        """What weights record of the labels: the background, and the classes or regions in the order of the outputs."""
        return ["background", *self.foreground]

    @property
    def dtype(self) -> torch.dtype:
        """The data type of predicted label maps: see :func:`label_dtype`."""
        return get_equivalent_dtype(label_dtype(len(self.labels)), Tensor)

    @property
    def outputs(self) -> int:
        """The number of output channels of the network."""
        return len(self.regions) or len(self.labels)

    @property
    def foreground(self) -> list[str]:
        """The names of the structures that are scored: the classes without background, or the regions."""
        return [region.name for region in self.regions] or self.labels[1:]

    @property
    def members(self) -> list[tuple[int, ...]]:
        """The label values of which each structure in `foreground` consists."""
        return [region.values for region in self.regions] or [(value,) for value in range(1, len(self.labels))]

    def masks(self, label: Tensor, channel_axis: int = 0) -> Tensor:
        """Return the structures of `foreground` as channels.

        Args:
            label: Label maps of any number type, with one channel: `(1, ...)`, or `(B, 1, ...)`.
            channel_axis: The axis of the channel: 0 or 1.

        Returns:
            Boolean masks, `(N, ...)` or `(B, N, ...)`, in the order of `foreground`.
        """
        return torch.cat([self._is_in(label, values) for values in self.members], dim=channel_axis)

    @staticmethod
    def _is_in(label: Tensor, values: Sequence[int]) -> Tensor:
        inside = label == values[0]
        for value in values[1:]:
            inside |= label == value
        return inside

    def valid(self, label: Tensor) -> Tensor | None:
        """Return where voxels were annotated, with the shape of the label map, or None without an ignore label."""
        return None if self.ignore_label is None else label != self.ignore_label

    def decide(self, logits: Tensor, channel_axis: int = 0) -> Tensor:
        """Turn outputs of the network into label maps.

        Args:
            logits: Outputs, with `outputs` channels on one axis.
            channel_axis: The axis of the channels.

        Returns:
            Label maps of the scheme's `dtype`, with one channel on that axis.
        """
        if not self.regions:
            return logits.argmax(channel_axis, keepdim=True).to(self.dtype)
        painted = torch.zeros_like(logits.narrow(channel_axis, 0, 1), dtype=self.dtype)
        for channel, region in enumerate(self.regions):
            painted[logits.narrow(channel_axis, channel, 1) > 0] = region.paint  # sigmoid(x) > 0.5
        return painted


def opposite_pairs(names: Sequence[str], axis: int = 0) -> list[tuple[str, str]]:
    """Find names that differ only by opposite directions along an axis, such as `kidney_left` and `kidney_right`.

    Args:
        names: The names of labels.
        axis: The axis of a volume: 0 for left and right, 1 for anterior and posterior, 2 for superior and inferior
            (or upper and lower).

    Returns:
        Each name with its opposite; the left, anterior or superior one comes first.
    """
    by_words = {tuple(re.findall(r"[a-z]+|[0-9]+", name.lower())): name for name in names}
    pairs = []
    for words, name in by_words.items():
        other = tuple(_OPPOSITES[axis].get(word, word) for word in words)
        if other != words and other in by_words:
            pairs.append((name, by_words[other]))
    return pairs


def mirroring_warning(scheme: LabelScheme, mirror_axes: Sequence[int]) -> str | None:
    """Say which left and right structures mirroring would swap, or return None if it swaps none.

    A body that is mirrored from left to right still looks like a body, but one that is upside down does not: structures
    that are named after other directions can be told apart by what is around them, so that they cause no warning.

    Args:
        scheme: The label scheme, with the names of all structures.
        mirror_axes: The axes that are mirrored; 0 is the axis from left to right.
    """
    sides = opposite_pairs([*scheme.labels, *scheme.foreground])
    if not sides or 0 not in mirror_axes:
        return None
    return (
        f"mirror_axes {list(mirror_axes)}: axis 0 swaps left and right, and with them {' and '.join(sides[0])}, so the "
        "network cannot tell which is which"
    )


def declared_scheme(
    labels: Mapping[str, Any], regions_order: Sequence[int] = (), source: str = "labels"
) -> LabelScheme:
    """Read the labels of an nnU-Net or MSD `dataset.json`.

    Args:
        labels: The label values by name; a list of values is a region, and `ignore` is the ignore label.
        regions_order: nnU-Net's `regions_class_order`: the value that stands for each region in a mask.
        source: The file, for messages.

    Returns:
        The scheme. Values that only regions have are named after their number.

    Raises:
        InputError: If there are gaps between the values, no background, or regions without an order.
    """
    values = {str(name): _as_values(name, entry, source) for name, entry in labels.items()}
    ignore = values.pop("ignore", None)
    used = sorted({v for group in values.values() for v in group})
    if used and used == list(range(1, len(used) + 1)):
        raise InputError(f'{source}: the labels lack the background; add "background": 0 in dataset.json')
    if used != list(range(len(used))) or len(used) < 2:
        raise InputError(
            f"{source}: the label values are {_listed(used) or 'missing'}, but should be 0 (background), "
            "1, 2, … without gaps: renumber the labels in dataset.json and in the label maps"
        )
    ignored = None if ignore is None else ignore[0]
    if ignore is not None and (len(ignore) != 1 or ignored != len(used)):
        raise InputError(f"{source}: the label ignore should have the value after the highest label, {len(used)}")
    single = {group[0]: name for name, group in reversed(values.items()) if len(group) == 1}
    names = ["background"] + [single.get(v, f"label {v}") for v in used[1:]]
    regions = {name: group for name, group in values.items() if any(group)}
    if all(len(group) == 1 for group in regions.values()):
        return LabelScheme(names, ignore_label=ignored)
    if len(regions_order) != len(regions):
        raise InputError(
            f"{source}: has {len(regions)} regions ({', '.join(regions)}), so regions_class_order should have as many "
            f"values, the ones that stand for them in masks, but is {list(regions_order)}"
        )
    entries = [
        {"name": name, "values": list(group), "paint": paint}
        for (name, group), paint in zip(regions.items(), regions_order, strict=True)
    ]
    return LabelScheme(names, entries, ignored)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:20])) + (", …" if len(values) > 20 else "")


def _as_values(name: Any, entry: Any, source: str) -> list[int]:
    values = list(entry) if isinstance(entry, (list, tuple)) else [entry]
    if not values or not all(is_whole(v) and v >= 0 for v in values):
        raise InputError(
            f"{source}: the label {name} should be a whole number from 0 or a list of them, not {brief(entry)}"
        )
    return values
