"""Reading of a data-set folder: the layouts of the Medical Segmentation Decathlon (MSD) and nnU-Net, and two folders.

Two folders of equal names need no `dataset.json`: `scan7.nii.gz` in the one is the image, in the other the label map.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mednextv2.errors import InputError
from mednextv2.images.volume import SUFFIXES, stem
from mednextv2.label_scheme import LabelScheme, declared_scheme
from mednextv2.wording import count


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
        folds: The fold of each case by name, where the entries of `dataset.json` have a `fold`, as MONAI's datalists.
        about: Texts of `dataset.json` under `name`, `description`, `reference` and `licence`.
    """

    path: Path
    channels: tuple[str, ...]
    labels: dict[str, Any]
    cases: tuple[Case, ...]
    regions_order: tuple[int, ...] = ()
    about: dict[str, str] = field(default_factory=dict)
    folds: dict[str, int] = field(default_factory=dict)

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
    description = _read_json(folder)
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
    channels = description.get("channel_names", description.get("modality", {}))
    order = description.get("regions_class_order") or ()
    if not isinstance(order, (list, tuple)):
        raise InputError(f'{folder / "dataset.json"}: "regions_class_order" should be a list, not {order!r}')
    texts: dict[str, str] = {
        key: str(description[key]) for key in ("name", "description", "reference", "licence") if key in description
    }
    texts.setdefault("licence", str(description.get("license", "")))
    labels, names = _labels(description), tuple(_by_number(channels, folder))
    return DatasetFolder(folder, names, labels, cases, tuple(order), texts, _folds(found, description))


def read_description(folder: str | os.PathLike) -> LabelScheme | None:
    """Return what the `dataset.json` of a folder says of label values, without looking for cases.

    Raises:
        InputError: If the file is missing, does not parse, or the declaration cannot be used.
    """
    folder = Path(folder).expanduser()
    description = _read_json(folder)
    order = description.get("regions_class_order") or ()
    return DatasetFolder(folder, (), _labels(description), (), tuple(order)).scheme()


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


def _read_json(folder: Path) -> dict[str, Any]:
    file = folder / "dataset.json"
    if not file.is_file():
        inside = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise InputError(
            f"{folder}: has no dataset.json (it holds {inside}). Give the folder of an MSD task or of an nnU-Net data "
            "set: dataset.json, imagesTr, labelsTr; or one with two folders of equal file names: images, labels"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise InputError(f"{file}: is not valid JSON: {e}") from e
    if not isinstance(content, dict):
        raise InputError(f"{file}: should hold one JSON object, but holds a {type(content).__name__}")
    return content


def _msd_case(folder: Path, entry: Any, index: int) -> Case:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("image"), str)
        or not isinstance(entry.get("label"), str)
    ):
        raise InputError(
            f'{folder / "dataset.json"}: entry {index} of "training" should be '
            f'{{"image": "./imagesTr/…", "label": "./labelsTr/…"}}, but is {entry!r}'
        )
    image, label = (str(folder / entry[key]) for key in ("image", "label"))
    return Case(stem(image), (image,), label)


def _folds(cases: Sequence[Case], description: dict[str, Any]) -> dict[str, int]:
    entries = description.get("training")
    if not isinstance(entries, list):
        return {}
    found = {case.name: entry.get("fold") for case, entry in zip(cases, entries, strict=True)}
    return {name: fold for name, fold in found.items() if isinstance(fold, int) and not isinstance(fold, bool)}


def _nnunet_cases(folder: Path, description: dict[str, Any]) -> list[Case]:
    ending = description.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not ending.endswith(SUFFIXES):
        raise InputError(
            f"{folder / 'dataset.json'}: file_ending {ending!r} is not one of {', '.join(SUFFIXES)}; convert the images"
        )
    listed = description.get("dataset")
    if isinstance(listed, dict):  # nnU-Net's explicit form
        return [_listed_case(folder, name, entry) for name, entry in listed.items()]
    channels = len(_by_number(description.get("channel_names", description.get("modality", {})), folder)) or 1
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
            f'{{"images": ["imagesTr/…", …], "label": "labelsTr/…"}}, but is {entry!r}'
        )
    return Case(name, tuple(str(folder / i) for i in images), str(folder / label))


def _by_number(channels: Any, folder: Path) -> list[str]:
    if not isinstance(channels, dict) or not all(str(k).isdigit() for k in channels):
        raise InputError(
            f'{folder / "dataset.json"}: "channel_names" (MSD: "modality") should map numbers to names, '
            f'such as {{"0": "T1"}}, but is {channels!r}'
        )
    return [str(channels[k]) for k in sorted(channels, key=int)]


def _labels(description: dict[str, Any]) -> dict[str, Any]:
    labels = description.get("labels", {})
    if not isinstance(labels, dict):
        return {}
    if all(str(k).isdigit() for k in labels):  # MSD: value to name
        return {str(name): int(value) for value, name in labels.items()}
    return dict(labels)  # nnU-Net: name to value, or to a region's values
