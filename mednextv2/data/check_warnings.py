"""What the check of a whole data set finds besides defects: its labels, and possible mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mednextv2.data.cases import DatasetFolder
from mednextv2.data.check import CaseReport
from mednextv2.errors import InputError
from mednextv2.images.volume import NO_ORIENTATION, SUFFIXES, has_orientation
from mednextv2.wording import count


def found_labels(dataset: DatasetFolder, reports: Sequence[CaseReport]) -> list[str]:
    """Name the labels after their values, for folders that declare no labels.

    Args:
        dataset: The data set.
        reports: The reports on all its cases.

    Returns:
        The names in the order of the values, the background first.

    Raises:
        InputError: When there are gaps between the values, or no value but 0.
    """
    values = sorted({value for report in reports for value in report.values})
    if values == [0]:
        raise InputError(
            f"{dataset.path}: none of the {count(len(reports), 'case')} has a voxel above 0 in its label map"
        )
    if values[-1] != len(values) - 1 and values != list(range(1, len(values) + 1)):
        missing = sorted(set(range(1, values[-1])) - set(values))
        raise InputError(
            f"{dataset.path}: the label maps have the values {_first(values, 20)}, with gaps ({_first(missing, 5)}). "
            'Number the labels 1, 2, … without gaps, or declare them in a dataset.json with "labels"'
        )
    return ["background", *(f"label {v}" for v in range(1, values[-1] + 1))]


def dataset_warnings(dataset: DatasetFolder, reports: Sequence[CaseReport], labels: Sequence[str]) -> list[str]:
    """Describe what is not a defect but may be a mistake, in one sentence each.

    Args:
        dataset: The data set.
        reports: The reports on all its cases.
        labels: The label names in the order of their values.
    """
    warnings = []
    if missing := missing_classes(reports, labels):
        warnings.append(f"no label map has a voxel of {', '.join(missing)}")
    if len(reports) < 2:
        warnings.append(f"{count(len(reports), 'case')} cannot be split into folds; train with --fold all")
    if dataset.declared_cases not in (None, len(dataset.cases)):
        warnings.append(
            f"dataset.json says that there are {count(dataset.declared_cases or 0, 'case')} (numTraining), but "
            f"{len(dataset.cases)} are there; was the data set copied as a whole?"
        )
    without = [
        Path(f).name for case in dataset.cases for f in (*case.images, case.label) if f and not has_orientation(f)
    ]
    if without:
        warnings.append(
            f"{count(len(without), 'file')} without an orientation ({NO_ORIENTATION}), so that "
            f"left and right may be exchanged: {_first(without, 5)}"
        )
    used = {Path(file).resolve() for case in dataset.cases for file in case.images}
    folders = sorted({file.parent for file in used})
    there = [f for folder in folders for f in sorted(folder.glob("[!.]*")) if f.name.lower().endswith(SUFFIXES)]
    if left := [f.name for f in there if f.resolve() not in used]:
        warnings.append(f"no case uses {count(len(left), 'image file')}: {_first(left, 5)}")
    return warnings


def _first(values: Sequence[Any], number: int) -> str:
    return ", ".join([*map(str, values[:number]), *["…"] * (len(values) > number)])


def missing_classes(reports: Sequence[CaseReport], labels: Sequence[str]) -> list[str]:
    """Return the names of the labels that occur in no label map.

    Args:
        reports: The reports on all cases.
        labels: The label names in the order of their values.
    """
    present = {value for report in reports for value in report.values}
    return [name for value, name in enumerate(labels) if value and value not in present]
