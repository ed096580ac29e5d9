"""Reading of a data-set folder: the layouts of the Medical Segmentation Decathlon (MSD) and nnU-Net, and two folders.

Two folders of equal names need no `dataset.json`: `scan7.nii.gz` in the one is the image, in the other the label map.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mednextv2.data.dataset_json import about, channel_names, label_values, read_description
from mednextv2.errors import InputError
from mednextv2.images.volume import SUFFIXES, stem
from mednextv2.label_scheme import LabelScheme, declared_scheme
from mednextv2.wording import brief, count


@dataclass(frozen=True)
class Case:
    """One patient's images and, where there is one, the label map.

    Attributes:
        name: The file name without folder, channel number and ending.
        images: One file a channel.
        label: The label map, or None.
    """

    name: str
    images: tuple[str, ...]
    label: str | None = None

    def as_item(self) -> dict[str, Any]:
        """Return the dict that MONAI's transforms expect: `image` (a path, or one a channel), `label`, `case`."""
        image = self.images[0] if len(self.images) == 1 else list(self.images)
        return {"image": image, "case": self.name} | ({"label": self.label} if self.label else {})


@dataclass(frozen=True)
class DatasetFolder:
    """What is known of a data set without opening an image.

    Attributes:
        path: The folder.
        channels: Names of the image channels, in order; empty when nothing names them.
        labels: Values by name; a region's are a list. Empty when nothing declares them.
        cases: The training cases, sorted by name.
        regions_order: nnU-Net's `regions_class_order`.
        about: Texts of `dataset.json` under `name`, `description`, `reference` and `licence`.
    """

    path: Path
    channels: tuple[str, ...]
    labels: dict[str, Any]
    cases: tuple[Case, ...]
    regions_order: tuple[int, ...] = ()
    about: dict[str, str] = field(default_factory=dict)

    @property
    def highest_label(self) -> int:
        """The highest value that the labels, regions or the ignore label declare; 0 where nothing does."""
        entries = [e if isinstance(e, (list, tuple)) else [e] for e in self.labels.values()]
        return max((v for entry in entries for v in entry if isinstance(v, int)), default=0)

    def scheme(self) -> LabelScheme | None:
        """Return what the label values mean, or None where nothing declares it.

        Raises:
            InputError: When the declaration cannot be used.
        """
        if not self.labels:
            return None
        return declared_scheme(self.labels, self.regions_order, str(self.path / "dataset.json"))


def read_dataset(dataset_dir: str | os.PathLike, labels_dir: str | os.PathLike | None = None) -> DatasetFolder:
    """Read which cases a data set has, without opening an image.

    Args:
        dataset_dir: The folder that holds `dataset.json`, `imagesTr` and `labelsTr`; or two folders of equal names,
            `images` and `labels` or again `imagesTr` and `labelsTr`; or, with `labels_dir`, the folder of the images.
        labels_dir: The folder of the label maps.

    Returns:
        The folder's channels, labels and cases. Whether the files exist and fit together is for
        :func:`mednextv2.data.check_dataset` to find out.

    Raises:
        InputError: When a folder or file is missing, does not parse, or names no cases.
    """
    folder = Path(dataset_dir).expanduser()
    if not folder.is_dir():
        advice = "give the folder that holds it" if folder.is_file() else "give it with --dataset_dir"
        raise InputError(f"dataset_dir {folder}: there is no such folder; {advice}")
    pair = _two_folders(folder, labels_dir)
    if pair:
        return _read_pair(folder, *pair)
    description = read_description(folder)
    if isinstance(description.get("training"), list):
        found = [_msd_case(folder, entry, i) for i, entry in enumerate(description["training"])]
    else:
        found = _nnunet_cases(folder, description)
    if not found:
        raise InputError(
            f'{folder / "dataset.json"}: names no training cases. MSD folders list them under "training"; in nnU-Net '
            "folders they are the files in imagesTr and labelsTr, with the ending that file_ending says"
        )
    cases = _sorted_cases(found, folder / "dataset.json")
    file = folder / "dataset.json"
    order = description.get("regions_class_order") or ()
    if not isinstance(order, (list, tuple)):
        raise InputError(f'{file}: "regions_class_order" should be a list, not {brief(order)}')
    channels, labels = channel_names(description, file), label_values(description, file)
    return DatasetFolder(folder, tuple(channels), labels, cases, tuple(order), about(description, file))


def check_description(dataset: DatasetFolder, scheme: LabelScheme, channels: Sequence[str]) -> None:
    """Raise an InputError when `dataset.json` names other channels than the bundle has, or other labels."""
    file = dataset.path / "dataset.json"
    if dataset.channels and len(dataset.channels) != len(channels):
        raise InputError(
            f"{file}: names {count(len(dataset.channels), 'image channel')} ({', '.join(dataset.channels)}), "
            f"the bundle {len(channels)} ({', '.join(channels)})"
        )
    if dataset.highest_label >= len(scheme.declared):
        raise InputError(
            f"{file}: declares labels up to {dataset.highest_label} ({', '.join(map(str, dataset.labels))}), "
            f"the bundle 0 to {len(scheme.declared) - 1} ({', '.join(scheme.declared)})"
        )


def _sorted_cases(cases: list[Case], source: Path) -> tuple[Case, ...]:
    for name in (case.name for case in cases):
        if name in ("", ".", "..") or re.search(r"[/\\]", name):
            raise InputError(f"{source}: the case {brief(name)} has no name that a file can have; rename it")
    cases = sorted(cases, key=lambda case: case.name)
    twice = sorted({a.name for a, b in pairwise(cases) if a.name == b.name})
    if twice:
        raise InputError(
            f"{source}: several cases have the same name: {', '.join(twice[:5])}; rename their files, since results "
            "are stored under the names"
        )
    return tuple(cases)


def _two_folders(folder: Path, labels_dir: str | os.PathLike | None) -> tuple[Path, Path] | None:
    if labels_dir is not None:
        labels = Path(labels_dir).expanduser()
        if not labels.is_dir():
            raise InputError(f"labels_dir {labels}: there is no such folder; give it with --labels_dir")
        return folder, labels
    if not (folder / "dataset.json").exists():
        for images, masks in (("images", "labels"), ("imagesTr", "labelsTr")):
            if (folder / images).is_dir() and (folder / masks).is_dir():
                return folder / images, folder / masks
    return None


def _read_pair(folder: Path, images: Path, labels: Path) -> DatasetFolder:
    """Pair images with label maps of the same name; with `_0000`, `_0001`, … behind it they are channels."""
    label_files = {stem(f): f for f in _volumes(labels)}
    parts = []
    for file in _volumes(images):
        name = stem(file)
        number = None if name in label_files else re.fullmatch(r"(.+)_(\d{4})", name)
        parts.append((file, number[1] if number else name, int(number[2]) if number else None))
    # patients may be numbered, too: that a number is a channel's, a label map of the name without it must show
    channelled = not label_files or any(number is not None and name in label_files for _, name, number in parts)
    groups: dict[str, dict[int, Path]] = {}
    for file, name, index in parts:
        group = groups.setdefault(name if channelled else stem(file), {})
        channel = (index or 0) if channelled else 0
        if channel in group:
            raise InputError(f"{images}: {group[channel].name} and {file.name} are the same image; remove one")
        group[channel] = file
    if not groups:
        raise InputError(f"{images}: holds no images ({', '.join(SUFFIXES)})")
    channels = max(max(group) for group in groups.values()) + 1
    cases = []
    for name in sorted(groups.keys() | label_files.keys()):  # what has no partner is for the check to report
        group = groups.get(name, {})
        ending = next(iter(group.values()), Path("_.nii.gz"))
        suffix = ending.name[len(stem(ending)) :]
        files = [
            group.get(c, images / (f"{name}_{c:04d}{suffix}" if channels > 1 else name + suffix))
            for c in range(channels)
        ]
        cases.append(Case(name, tuple(map(str, files)), str(label_files.get(name, labels / f"{name}.nii.gz"))))
    return DatasetFolder(
        folder, tuple(f"channel {c}" for c in range(channels)) if channels > 1 else (), {}, _sorted_cases(cases, images)
    )


def _volumes(folder: Path) -> list[Path]:
    """List the image files of a folder; two of them with one name are refused, as `a.nii` and `a.nii.gz`."""
    files = sorted(f for f in folder.iterdir() if f.name.lower().endswith(SUFFIXES) and not f.name.startswith("."))
    for a, b in pairwise(sorted(files, key=stem)):
        if stem(a) == stem(b):
            raise InputError(f"{folder}: {a.name} and {b.name} are the same case; remove one")
    return files


def _msd_case(folder: Path, entry: Any, index: int) -> Case:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("image"), str)
        or not entry["image"]
        or not isinstance(entry.get("label"), str)
    ):
        raise InputError(
            f'{folder / "dataset.json"}: entry {index} of "training" should be '
            f'{{"image": "./imagesTr/…", "label": "./labelsTr/…"}}, but is {brief(entry)}'
        )
    image, label = (str(folder / entry[key]) for key in ("image", "label"))
    return Case(stem(image), (image,), label)


def _nnunet_cases(folder: Path, description: dict[str, Any]) -> list[Case]:
    ending = description.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not ending.endswith(SUFFIXES):
        raise InputError(
            f"{folder / 'dataset.json'}: file_ending {brief(ending)} is not one of {', '.join(SUFFIXES)}; convert "
            "the images"
        )
    listed = description.get("dataset")
    if isinstance(listed, dict):  # nnU-Net's explicit form
        return [_listed_case(folder, name, entry) for name, entry in listed.items()]
    channels = len(channel_names(description, folder / "dataset.json")) or 1
    if "channel_names" not in description and "modality" in description and "labels" not in description:
        raise InputError(
            f'{folder / "dataset.json"}: has neither "training", the cases of an MSD task, nor "labels" and '
            '"channel_names", which an nnU-Net data set has'
        )
    images, labels = folder / "imagesTr", folder / "labelsTr"
    for needed in (images, labels):
        if not needed.is_dir():
            raise InputError(f"{needed}: there is no such folder; an nnU-Net data set has imagesTr and labelsTr")
    names = {stem(f.name) for f in labels.iterdir() if f.name.endswith(ending) and not f.name.startswith(".")}
    # a case with an image but no label must not vanish: the check of the data set reports its missing label
    names |= {
        re.sub(r"_\d{4}$", "", stem(f.name))
        for f in images.iterdir()
        if f.name.endswith(ending) and not f.name.startswith(".")
    }
    return [
        Case(
            name,
            tuple(str(images / f"{name}_{c:04d}{ending}") for c in range(channels)),
            str(labels / f"{name}{ending}"),
        )
        for name in sorted(names)
    ]


def _listed_case(folder: Path, name: str, entry: Any) -> Case:
    images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
    if not isinstance(images, list) or not all(isinstance(i, str) for i in images) or not isinstance(label, str):
        raise InputError(
            f'{folder / "dataset.json"}: entry {name} of "dataset" should be '
            f'{{"images": ["imagesTr/…", …], "label": "labelsTr/…"}}, but is {brief(entry)}'
        )
    return Case(name, tuple(str(folder / i) for i in images), str(folder / label))
