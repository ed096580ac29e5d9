"""Reading of a data-set folder: the layouts of the Medical Segmentation Decathlon (MSD) and nnU-Net, and two folders.

Two folders with files of the same names need no `dataset.json`: `scan7.nii.gz` is the image in one and the label map in
the other.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mednextv2.data.cases import Case, DatasetFolder
from mednextv2.data.collection import read_collection
from mednextv2.data.collection_entries import is_collection
from mednextv2.data.dataset_json import about, channel_names, label_values, read_description
from mednextv2.data.two_folders import find_two_folders, read_two_folders, sorted_cases
from mednextv2.errors import InputError
from mednextv2.images.volume import CONVERSION, PICTURES, SUFFIXES, stem
from mednextv2.label_scheme import LabelScheme
from mednextv2.paths import expand
from mednextv2.wording import brief, count

logger = logging.getLogger(__name__)


def read_dataset(
    dataset_dir: str | os.PathLike,
    labels_dir: str | os.PathLike | None = None,
    scheme: LabelScheme | None = None,
) -> DatasetFolder:
    """Read which cases a data set has, without opening an image.

    Args:
        dataset_dir: The folder that contains `dataset.json`, `imagesTr` and `labelsTr`; or one with two folders of
            files of the same names, called `images` and `labels`, or `imagesTr` and `labelsTr`; or, with `labels_dir`,
            the folder of the images; or a collection file (.yaml) that lists several data sets.
        labels_dir: The folder of the label maps.
        scheme: The labels of the bundle, to which a collection translates those of its data sets; None: all structures
            that the collection names.

    Returns:
        The folder's channels, labels and cases. :func:`mednextv2.data.check_dataset` checks whether the files exist and
        fit together.

    Raises:
        InputError: When a folder or file is missing, cannot be parsed, or names no cases.
    """
    if isinstance(dataset_dir, (list, tuple)):
        raise InputError(f"dataset_dir {brief(list(map(str, dataset_dir)))}: should be one folder")
    folder = expand(dataset_dir)
    if is_collection(folder) and not folder.is_dir():
        if labels_dir is not None:
            raise InputError(
                f"labels_dir {labels_dir}: a collection says itself where labels are; leave --labels_dir out"
            )
        return read_collection(folder, _read_folder, scheme)
    return _read_folder(folder, labels_dir)


def _read_folder(folder: Path, labels_dir: str | os.PathLike | None = None) -> DatasetFolder:
    if not folder.is_dir():
        advice = "give the folder that holds it" if folder.is_file() else "give it with --dataset_dir"
        raise InputError(f"dataset_dir {folder}: there is no such folder; {advice}")
    pair = find_two_folders(folder, labels_dir)
    if pair:
        return read_two_folders(folder, *pair)
    description = read_description(folder)
    if isinstance(description.get("training"), list):
        channels = channel_names(description, folder / "dataset.json")
        found = [_msd_case(folder, entry, i, len(channels)) for i, entry in enumerate(description["training"])]
    else:
        found = _nnunet_cases(folder, description)
    if not found:
        raise InputError(
            f'{folder / "dataset.json"}: names no training cases. MSD folders list them under "training"; in nnU-Net '
            "folders they are the files in imagesTr and labelsTr, with the ending that file_ending says"
        )
    cases = sorted_cases(found, folder / "dataset.json")
    file = folder / "dataset.json"
    labels, names = label_values(description, file), tuple(channel_names(description, file))
    number = description.get("numTraining")
    declared = number if isinstance(number, int) and not isinstance(number, bool) else None
    texts, folds = about(description, file), _folds(found, description)
    return DatasetFolder(folder, names, labels, cases, _order(description, file), texts, folds, declared)


def read_scheme(folder: str | os.PathLike) -> LabelScheme | None:
    """Return what the `dataset.json` of a folder says about label values, without looking for cases.

    Raises:
        InputError: If the file is missing, cannot be parsed, or the declaration cannot be used.
    """
    folder = expand(folder)
    description, file = read_description(folder), folder / "dataset.json"
    return DatasetFolder(folder, (), label_values(description, file), (), _order(description, file)).scheme()


def check_description(dataset: DatasetFolder, scheme: LabelScheme, channels: Sequence[str]) -> None:
    """Raise an InputError when `dataset.json` names channels or labels other than the bundle's."""
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
    _compare_names(file, dataset.labels, scheme.declared)


def _compare_names(file: Path, labels: Mapping[str, Any], declared: Sequence[str]) -> None:
    """Refuse names that have another value in the bundle, and warn of names that the bundle does not have."""
    places = {_words(name): value for value, name in enumerate(declared)}
    values = {name: value for name, value in labels.items() if isinstance(value, int) and value > 0}
    moved = [f"{n} is {v} there and {places[_words(n)]} in the bundle" for n, v in values.items()
             if places.get(_words(n), v) != v]  # fmt: skip
    if moved:
        raise InputError(
            f"{file}: its labels have other values than the bundle's: {', '.join(moved)}. Give the data set for which "
            "the bundle was made, make a bundle for this one with mednextv2 plan, or renumber its labels"
        )
    if other := [f"{value} is {name} there and {declared[value]} in the bundle" for name, value in values.items()
                 if _words(name) not in places]:  # fmt: skip
        logger.warning(
            "%s: names its labels otherwise than the bundle: %s. Make sure that they mean the same; if not, the "
            "network learns, or is scored for, the wrong structures", file, ", ".join(other),
        )  # fmt: skip


def _words(name: str) -> tuple[str, ...]:
    """Return what counts in a name: its words in any order, without capital letters and punctuation."""
    return tuple(sorted(re.findall(r"\w+", name.casefold().replace("_", " "))))


def _order(description: dict[str, Any], file: Path) -> tuple[int, ...]:
    order = description.get("regions_class_order") or ()
    if not isinstance(order, (list, tuple)):
        raise InputError(f'{file}: "regions_class_order" should be a list, not {brief(order)}')
    return tuple(order)


def _msd_case(folder: Path, entry: Any, index: int, channels: int) -> Case:
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
    image, label = (_listed(folder, entry[key]) for key in ("image", "label"))
    return Case(stem(image), _channels_of(image, channels), str(label))


def _listed(folder: Path, text: str) -> Path:
    """Return a file that a list names; a list made on Windows separates folders with backslashes."""
    path = folder / text
    return folder / text.replace("\\", "/") if "\\" in text and not path.exists() else path


def _channels_of(image: Path, channels: int) -> tuple[str, ...]:
    """Return the files of a listed image: a list of nnU-Net says case.nii.gz for case_0000.nii.gz and so on."""
    if not image.name or image.exists():
        return (str(image),)
    ending = image.name[len(stem(image)) :]
    files = [image.with_name(f"{stem(image)}_{c:04d}{ending}") for c in range(max(channels, 1))]
    return tuple(map(str, files)) if files[0].exists() else (str(image),)


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
            f"{folder / 'dataset.json'}: file_ending {brief(ending)} is not one of {', '.join(SUFFIXES)}; convert "
            "the images" + (f": {CONVERSION}" if str(ending).lower() in PICTURES else "")
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
    # a case with an image but no label must not be dropped: the check of the data set reports that its label is missing
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
    return Case(name, tuple(str(_listed(folder, i)) for i in images), str(_listed(folder, label)))
