"""Cases that another program gives to a training in the place of a data set's folder, as MONAI Label does."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mednextv2.data.cases import Case, DatasetFolder
from mednextv2.data.splits import Split, SplitCases
from mednextv2.errors import InputError
from mednextv2.images.volume import stem
from mednextv2.wording import brief

_SOURCE = "the cases were given to the training in lists, as MONAI Label gives them"


def choose_cases(training: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]) -> Split:
    """Return the split that the lists of a training come from, or make one of lists that another program gave.

    MONAI Label replaces `train#dataset#data` and `validate#dataset#data` of a bundle by lists of the images whose
    labels were submitted. Nothing of the bundle's own data set is read then.

    Args:
        training: The items for training. Each item has an `image` (a file, or one for each channel) and a `label`.
        validation: The items for validation; if there are none, those for training are used.

    Raises:
        InputError: If a list is given without a case, or with an entry that is no case.
    """
    if isinstance(training, SplitCases) and isinstance(validation, SplitCases):
        return training.split
    cases = [_as_case(item, "train::dataset::data") for item in training]
    others = [_as_case(item, "validate::dataset::data") for item in validation]
    if not cases:
        raise InputError(
            "train::dataset::data: lists no case to train on; in MONAI Label, submit labels of at least two images "
            "first, or choose a smaller val_split"
        )
    everything = {(case.images, case.label): case for case in [*cases, *others]}
    folder = os.path.commonpath([os.path.abspath(os.path.dirname(str(case.label))) for case in everything.values()])
    dataset = DatasetFolder(Path(folder), (), {}, tuple(everything.values()))
    first, second = ([case.as_item() for case in side] for side in (cases, others or cases))
    return Split(first, second, fold=None, num_folds=1, source=_SOURCE, dataset=dataset)


def _as_case(item: Any, name: str) -> Case:
    image, label = (item.get("image"), item.get("label")) if isinstance(item, Mapping) else (None, None)
    images = tuple(image) if isinstance(image, (list, tuple)) else (image,)
    if not images or not all(isinstance(path, (str, os.PathLike)) and str(path) for path in [*images, label]):
        raise InputError(
            f'{name}: has the entry {brief(item)}, where a case should be, such as {{"image": "case.nii.gz", "label": '
            '"labels/case.nii.gz"}'
        )
    return Case(str(item.get("case") or stem(images[0])), tuple(map(str, images)), str(label))
