"""Cases that another program gives to a training in the place of a data set's folder, as MONAI Label does."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mednextv2.data.cases import Case, DatasetFolder
from mednextv2.data.splits import Split, SplitCases
from mednextv2.errors import InputError
from mednextv2.images.volume import stem
from mednextv2.text_files import read_json
from mednextv2.wording import brief

#: What MONAI Label knows about a folder of images, beside them.
_DATASTORE = "datastore_v2.json"
_SOURCE = "the cases were given to the training in lists, as MONAI Label gives them"


def choose_cases(
    training: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()
) -> Split:
    """Return the split that the lists of a training come from, or make one of lists that another program gave.

    MONAI Label replaces `train#dataset#data` and `validate#dataset#data` of a bundle by lists of the images whose
    labels were submitted. Nothing of the bundle's own data set is read then.

    Args:
        training: The items for training. Each item has an `image` (a file, or one for each channel) and a `label`.
        validation: The items for validation; if there are none, those for training are used.
        labels: The names of the label values, with which the names of submitted segments are compared.

    Raises:
        InputError: If a list is given without a case, or with an entry that is no case, or if 3D Slicer submitted the
            segment of a structure with the value of another one.
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
    _check_segments(list(everything.values()), labels)
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


def _check_segments(cases: Sequence[Case], labels: Sequence[str]) -> None:
    """Raise an InputError if the segments of a submitted mask have other values than their names have in the bundle.

    3D Slicer numbers segments in their order, so one that was deleted shifts all others. MONAI Label keeps the names.
    """
    values = {name.casefold(): value for value, name in enumerate(labels)}
    stores: dict[Path, dict[str, list[str]]] = {}
    for case in cases:
        file = Path(str(case.label)).resolve()
        folder = file.parents[2] if len(file.parents) > 2 else file.parent  # of labels/final/case.nii.gz
        if folder not in stores:
            stores[folder] = _submitted_segments(folder / _DATASTORE)
        for value, name in enumerate(stores[folder].get(file.name, []), start=1):
            wanted = values.get(name.casefold(), value)
            if wanted != value:
                raise InputError(
                    f"{file}: the segment {name} was submitted with the value {value}, and is {wanted} "
                    f"in this bundle; submit the mask again with the segments {', '.join(labels[1:])} in this order, "
                    "also those that are empty"
                )


def _submitted_segments(datastore: Path) -> dict[str, list[str]]:
    """Return the names of the segments in each submitted mask, in the order of their values."""
    found: dict[str, list[str]] = {}
    try:
        for entry in read_json(datastore)["objects"].values():
            for submitted in entry["labels"].values():
                info = submitted["info"]
                if "label_info" in info:
                    found[info["name"]] = [str(segment["name"]) for segment in info["label_info"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # no such file, or of another version
        return found
    return found
