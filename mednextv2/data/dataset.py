"""Reading of a data-set folder: the layouts of the Medical Segmentation Decathlon (MSD) and of nnU-Net v2."""

import json
import os
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mednextv2.data.volume import SUFFIXES, stem
from mednextv2.errors import InputError


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
    """What `dataset.json` says.

    Attributes:
        path: The folder.
        channels: Names of the image channels, in order.
        labels: Name of each voxel value of the label maps; a region's several values are under the region's name.
        cases: The training cases, sorted by name.
    """

    path: Path
    channels: tuple[str, ...]
    labels: dict[str, Any]
    cases: tuple[Case, ...]

    @property
    def label_values(self) -> dict[int, str]:
        """Names by voxel value; a value that only a region has is under the region's name."""
        names: dict[int, str] = {}
        for name, entry in self.labels.items():
            for value in entry if isinstance(entry, list) else [entry]:
                if isinstance(value, int):
                    names.setdefault(value, str(name))
        return names


def read_dataset(dataset_dir: str | os.PathLike) -> DatasetFolder:
    """Read the `dataset.json` of an MSD or nnU-Net folder, without opening an image.

    Args:
        dataset_dir: The folder that holds `dataset.json`, `imagesTr` and `labelsTr`.

    Returns:
        The folder's channels, labels and cases. Whether the files exist and fit together is for
        :func:`mednextv2.data.check_dataset` to find out.

    Raises:
        InputError: When the folder or the file is missing, does not parse, or names no cases.
    """
    folder = Path(dataset_dir).expanduser()
    if not folder.is_dir():
        raise InputError(f"dataset_dir {folder}: there is no such folder; give it with --dataset_dir")
    description = _read_json(folder)
    if isinstance(description.get("training"), list):
        cases = [_msd_case(folder, entry, i) for i, entry in enumerate(description["training"])]
    else:
        cases = _nnunet_cases(folder, description)
    if not cases:
        raise InputError(
            f'{folder / "dataset.json"}: names no training cases. MSD folders list them under "training"; in nnU-Net '
            "folders they are the files in imagesTr and labelsTr"
        )
    cases.sort(key=lambda case: case.name)
    twice = sorted({a.name for a, b in pairwise(cases) if a.name == b.name})
    if twice:
        raise InputError(f"{folder / 'dataset.json'}: several cases have the same name: {', '.join(twice[:5])}")
    channels = description.get("channel_names", description.get("modality", {}))
    return DatasetFolder(folder, tuple(_by_number(channels, folder)), _labels(description), tuple(cases))


def _read_json(folder: Path) -> dict[str, Any]:
    file = folder / "dataset.json"
    if not file.is_file():
        inside = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise InputError(
            f"{folder}: has no dataset.json (it holds {inside}). Give the folder of an MSD task or of an nnU-Net data "
            "set: dataset.json, imagesTr, labelsTr"
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
