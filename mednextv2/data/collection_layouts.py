"""The cases of the data sets of a collection: their images, and the files of their label maps."""

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mednextv2.data.cases import Case, DatasetFolder
from mednextv2.data.collection_entries import DatasetEntry
from mednextv2.data.collection_labels import LabelRule
from mednextv2.data.joined_labels import JoinedLabels, LabelPart
from mednextv2.errors import InputError
from mednextv2.images.volume import stem
from mednextv2.text_files import read_text

_CHANNEL = "_0000.nii.gz"


def find_cases(entry: DatasetEntry, read_folder: Callable[[Path], DatasetFolder]) -> DatasetFolder:
    """Return what is known of a data set without opening an image; its label maps are still files of the data set.

    Args:
        entry: The data set.
        read_folder: Reads a folder in one of the layouts of :func:`mednextv2.data.read_dataset`.

    Raises:
        InputError: If it has no case.
    """
    if entry.cases is not None:
        cases = [_listed_case(entry, given) for given in entry.cases]
    elif entry.layout == "dataset":
        try:
            return read_folder(entry.root)
        except InputError as e:
            raise InputError(f"{entry.where}: {e}") from e
    else:
        cases = (_cads if entry.layout == "cads" else _totalsegmentator)(entry)
    return DatasetFolder(entry.root, (), {}, tuple(sorted(cases, key=lambda case: case.name)))


def join_labels(entry: DatasetEntry, case: Case, rule: LabelRule) -> JoinedLabels:
    """Return the label map of a case, which is joined from its files when it is read."""
    if entry.layout == "dataset" or entry.cases is not None:
        files = [str(case.label)] * len(rule.parts)
    elif entry.layout == "cads":
        folder = entry.root / "segmentations" / case.name
        files = [str(folder / f"{case.name}_part_{rule_of.part}.nii.gz") for rule_of in rule.parts]
    else:
        folder = entry.root / case.name / "segmentations"
        files = [str(folder / f"{rule_of.part}.nii.gz") for rule_of in rule.parts]
    parts = [LabelPart(file, part.values, entry.strict) for file, part in zip(files, rule.parts, strict=True)]
    return JoinedLabels(tuple(parts), rule.values, entry.may_be_empty)


def _listed_case(entry: DatasetEntry, given: Mapping[str, Any]) -> Case:
    images = given["image"] if isinstance(given["image"], list) else [given["image"]]
    files = [str(entry.root / os.path.expandvars(file)) for file in images]
    return Case(given.get("name") or stem(files[0]), tuple(files), str(entry.root / os.path.expandvars(given["label"])))


def _cads(entry: DatasetEntry) -> list[Case]:
    """Return the cases of one source of CADS as it is at Hugging Face: images/ID_0000.nii.gz, segmentations/ID/…."""
    folder = entry.root / "images"
    names = [name[: -len(_CHANNEL)] for name in _listdir(folder) if name.endswith(_CHANNEL) and name[0] != "."]
    if not names:
        raise InputError(
            f"{entry.where}: {folder}: has no images ID{_CHANNEL}, as a source of CADS has them; give the folder of a "
            "source as root, such as 0001_visceral_gc, or another layout"
        )
    return [Case(name, (str(folder / f"{name}{_CHANNEL}"),)) for name in names]


def _totalsegmentator(entry: DatasetEntry) -> list[Case]:
    """Return the cases of TotalSegmentator as it is released; the test cases of meta.csv are left out."""
    names = [name for name in _listdir(entry.root) if (entry.root / name / "ct.nii.gz").is_file()]
    if not names:
        raise InputError(
            f"{entry.where}: {entry.root}: has no folders with ct.nii.gz, such as s0000; give the unpacked folder of "
            "TotalSegmentator as root, or another layout"
        )
    meta = entry.root / "meta.csv"
    test = {name for name, part in read_meta(meta).items() if part == "test"} if meta.is_file() else {*()}
    return [Case(name, (str(entry.root / name / "ct.nii.gz"),)) for name in names if name not in test]


def read_meta(file: Path) -> dict[str, str]:
    """Return the part of each case in TotalSegmentator's meta.csv: train, val or test.

    Raises:
        InputError: If the file is another one.
    """
    rows = list(csv.DictReader(read_text(file, advice="copy it from the same archive").splitlines(), delimiter=";"))
    splits = {row.get("image_id") or "": row.get("split") or "" for row in rows}
    if not splits or "" in splits or {*splits.values()} - {"train", "val", "test"}:
        raise InputError(
            f"{file}: should have the columns image_id and split (train, val or test), separated by semicolons; copy "
            "it from the same archive"
        )
    return splits


def _listdir(folder: Path) -> Sequence[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []
