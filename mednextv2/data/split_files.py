"""Splits that a file prescribes: nnU-Net's splits_final.json and MONAI's datalists."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mednextv2.errors import InputError
from mednextv2.images.volume import stem
from mednextv2.paths import expand
from mednextv2.text_files import read_json

#: The name of nnU-Net's file, which is used if the data set contains it.
NNUNET_NAME = "splits_final.json"


class Fold(NamedTuple):
    """The names of a fold's cases."""

    training: list[str]
    validation: list[str]


def read_split_file(path: str | os.PathLike, names: Sequence[str]) -> list[Fold]:
    """Read the folds that a file prescribes.

    Args:
        path: A JSON file: nnU-Net's list of `{"train": [...], "val": [...]}`; or a MONAI datalist, whose entries under
            `training` have a `fold`, or which also has a list under `validation`.
        names: The names of the data set's cases.

    Returns:
        The folds in order.

    Raises:
        InputError: If the file has neither format or names cases that the data set does not have, or if a fold has a
            case on both sides, or no case on one side.
    """
    path = expand(path)
    try:
        content = read_json(path, "give a JSON file of splits")
    except InputError as e:
        raise InputError(f"splits {e}") from e
    if isinstance(content, list):
        folds = [_nnunet_fold(path, number, entry) for number, entry in enumerate(content)]
    elif isinstance(content, dict):
        folds = _datalist_folds(path, content)
    else:
        folds = []
    if not folds:
        raise InputError(
            f'splits {path}: holds no folds. It should be a list of {{"train": [names], "val": [names]}} as nnU-Net\'s '
            'splits_final.json, or a MONAI datalist whose "training" entries have a "fold"'
        )
    for number, fold in enumerate(folds):
        _check(path, number, fold, {*names})
    return folds


def folds_of(numbers: dict[str, int], path: str | os.PathLike) -> list[Fold]:
    """Return the folds of a datalist: the validation cases of fold k are those with the number k.

    Args:
        numbers: The fold of each case, by name.
        path: The file that they are from, for messages.

    Raises:
        InputError: If the numbers do not count from 0: --fold 1 would then be another fold than that of number 1.
    """
    found = sorted({*numbers.values()})
    if found != [*range(len(found))]:
        raise InputError(
            f"splits {path}: the entries under training have the fold numbers {', '.join(map(str, found[:10]))}; "
            "number the folds from 0 without gaps, as --fold does"
        )
    return [
        Fold([n for n, k in numbers.items() if k != fold], [n for n, k in numbers.items() if k == fold])
        for fold in found
    ]


def _nnunet_fold(path: Path, number: int, entry: Any) -> Fold:
    training, validation = (entry.get("train"), entry.get("val")) if isinstance(entry, dict) else (None, None)
    if not isinstance(training, list) or not isinstance(validation, list) or not _are_texts(training + validation):
        raise InputError(f'splits {path}: fold {number} should be {{"train": [names], "val": [names]}}')
    return Fold(training, validation)


def _are_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _datalist_folds(path: Path, content: dict[str, Any]) -> list[Fold]:
    training, validation = content.get("training"), content.get("validation")
    if not isinstance(training, list) or not isinstance(validation, (list, type(None))):
        return []
    if validation:
        return [Fold([_name(path, e) for e in training], [_name(path, e) for e in validation])]
    numbers = {}
    for entry in training:
        number = entry.get("fold") if isinstance(entry, dict) else None
        if isinstance(number, bool) or not isinstance(number, int):
            return []
        numbers[_name(path, entry)] = number
    return folds_of(numbers, path)


def _name(path: Path, entry: Any) -> str:
    """Return the name of the case in an entry of a datalist, which gives a name or the file of its image."""
    if isinstance(entry, dict):
        image = entry.get("case", entry.get("image"))
        entry = image[0] if isinstance(image, list) and image else image
    if not isinstance(entry, str):
        raise InputError(f'splits {path}: an entry should be {{"image": file}}, but is {entry!r}')
    return re.sub(r"_0000$", "", stem(Path(entry.replace("\\", "/")).name))


def _check(path: Path, number: int, fold: Fold, names: set[str]) -> None:
    if unknown := sorted({*fold.training, *fold.validation} - names):
        raise InputError(
            f"splits {path}: fold {number} names {len(unknown)} cases that the data set does not have: "
            f"{', '.join(unknown[:5])}"
        )
    if both := sorted({*fold.training} & {*fold.validation}):
        raise InputError(
            f"splits {path}: fold {number} has {len(both)} cases in training and in validation: {', '.join(both[:5])}"
        )
    if not fold.training or not fold.validation:
        raise InputError(
            f"splits {path}: fold {number} has no case for {'validation' if fold.training else 'training'}"
        )
