"""What a data set is in memory: its cases, and what is known about it without opening an image."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mednextv2.data.partial_labels import STRUCTURES
from mednextv2.images.volume import VirtualVolume
from mednextv2.label_scheme import LabelScheme, declared_scheme


@dataclass(frozen=True)
class Case:
    """One patient's images and, if there is one, the label map.

    Attributes:
        name: The file name without folder, channel number and ending.
        images: One file for each channel.
        label: The label map, or None. In a collection of data sets, it is made from files when it is read.
    """

    name: str
    images: tuple[str, ...]
    label: str | VirtualVolume | None = None

    def as_item(self) -> dict[str, Any]:
        """Return the dict that MONAI's transforms expect: `image` (one path, or one per channel), `label`, `case`."""
        image = self.images[0] if len(self.images) == 1 else list(self.images)
        return {"image": image, "case": self.name} | ({"label": self.label} if self.label else {})


@dataclass(frozen=True)
class DatasetFolder:
    """What is known about a data set without opening an image.

    Attributes:
        path: The folder.
        channels: Names of the image channels, in order; empty when nothing names them.
        labels: Label values by name; a region has a list of them. Empty when nothing declares them.
        cases: The training cases, sorted by name.
        regions_order: nnU-Net's `regions_class_order`.
        declared_cases: The number of cases according to `dataset.json` (`numTraining`), or None.
        folds: The fold of each case by name, if the entries of `dataset.json` have a `fold` as in MONAI's datalists.
        about: The texts in `dataset.json` under `name`, `description`, `reference` and `licence`.
        parts: The data sets of a collection; empty for a data set.
    """

    path: Path
    channels: tuple[str, ...]
    labels: dict[str, Any]
    cases: tuple[Case, ...]
    regions_order: tuple[int, ...] = ()
    about: dict[str, str] = field(default_factory=dict)
    folds: dict[str, int] = field(default_factory=dict)
    declared_cases: int | None = None
    parts: tuple["CollectedDataset", ...] = ()

    @property
    def highest_label(self) -> int:
        """The highest value of the declared labels, regions and ignore label; 0 if none is declared."""
        entries = [e if isinstance(e, (list, tuple)) else [e] for e in self.labels.values()]
        return max((v for entry in entries for v in entry if isinstance(v, int)), default=0)

    def scheme(self) -> LabelScheme | None:
        """Return what the label values mean, or None if nothing declares it.

        Raises:
            InputError: When the declaration cannot be used.
        """
        if not self.labels:
            return None
        return declared_scheme(self.labels, self.regions_order, str(self.path / "dataset.json"))


@dataclass(frozen=True)
class CollectedCase(Case):
    """A case of a collection of data sets, whose name begins with that of its data set.

    Attributes:
        dataset: The name of the data set.
        structures: Whether the data set annotates each structure of `LabelScheme.foreground`.
    """

    dataset: str = ""
    structures: tuple[bool, ...] = ()

    def as_item(self) -> dict[str, Any]:
        """Return the dict that MONAI's transforms expect, with `dataset` and `structures`."""
        return {**super().as_item(), "dataset": self.dataset, STRUCTURES: np.array(self.structures)}


def collected_name(dataset: str, case: str) -> str:
    """Return the name of a data set's case in a collection."""
    return f"{dataset}.{case}"


@dataclass(frozen=True)
class CollectedDataset(DatasetFolder):
    """One of the data sets of a collection; its cases have the names that they have there.

    Attributes:
        name: Its name.
        patients: A regular expression for the patient in the name of a case; None: patients are recognised.
    """

    name: str = ""
    patients: str | None = None


@dataclass(frozen=True)
class Collection(DatasetFolder):
    """Data sets that are trained on together, as a collection file lists them; `path` is that file.

    Attributes:
        label_scheme: The meaning of the values of the joined label maps.
        sampling: How often each data set is drawn: see :func:`mednextv2.data.collection_sampling.add_chances`.
        overlaps: For a data set, the names of others of which it has images.
    """

    label_scheme: LabelScheme | None = None
    sampling: str | Mapping[str, float] = "square_root"
    overlaps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def scheme(self) -> LabelScheme | None:
        """Return the meaning of the values of the joined label maps."""
        return self.label_scheme
