"""Cross-validation splits: those that a file prescribes, or nnU-Net's, so that scores can be compared."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mednextv2 import wording
from mednextv2.data.case_groups import describe_groups, group_cases
from mednextv2.data.cases import CollectedDataset, Collection, DatasetFolder, collected_name
from mednextv2.data.collection_sampling import add_chances
from mednextv2.data.split_files import NNUNET_NAME, Fold, folds_of, read_split_file
from mednextv2.errors import InputError
from mednextv2.label_scheme import is_whole

logger = logging.getLogger(__name__)

FOLDS = 5  # the number of folds of the cross-validation


def kfold_indices(count: int, fold: int | str, folds: int = FOLDS, seed: int = 12345) -> tuple[list[int], list[int]]:
    """Split `count` cases into training and validation indices.

    This gives the same result as scikit-learn's `KFold(folds, shuffle=True, random_state=seed)`, which nnU-Net applies
    to the sorted case names: one shuffle, then consecutive pieces whose sizes differ by at most one.

    Args:
        count: Number of cases.
        fold: The index of the piece for validation, from 0.
        folds: The number of pieces.
        seed: The seed of the shuffle.

    Returns:
        Sorted training indices and sorted validation indices.

    Raises:
        InputError: When there are fewer cases than folds, or the fold does not exist.
    """
    if not isinstance(fold, int) or not 0 <= fold < folds:
        raise InputError(f"fold {fold!r}: there are the folds 0 to {folds - 1}, or 'all' to train on every case")
    if count < folds:
        raise InputError(f"{wording.count(count, 'case')} cannot be split into {folds} folds; use --fold all")
    order = np.random.RandomState(seed).permutation(count)  # the legacy generator defines the split
    sizes = [count // folds + (i < count % folds) for i in range(folds)]
    start = sum(sizes[:fold])
    validation = sorted(order[start : start + sizes[fold]].tolist())
    chosen = set(validation)
    return [i for i in range(count) if i not in chosen], validation


class SplitCases(list):
    """The items of one side of a split, from which the split can be told: see :func:`mednextv2.data.choose_cases`.

    Attributes:
        split: The split.
    """

    def __init__(self, items: Iterable[dict[str, Any]], split: "Split") -> None:
        super().__init__(items)
        self.split = split


@dataclass(frozen=True)
class Split:
    """The cases of one fold.

    Attributes:
        training: The items for training: see :meth:`mednextv2.data.Case.as_item`.
        validation: The items for validation.
        fold: The number of the fold, or `"all"`; None if the cases were given without one.
        num_folds: How many folds there are.
        source: What decided the split, as a sentence.
        dataset: What is known about the data set that the cases belong to.
    """

    training: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    fold: int | str | None
    num_folds: int
    source: str
    dataset: DatasetFolder = field(compare=False)

    def __post_init__(self) -> None:
        for side in ("training", "validation"):
            object.__setattr__(self, side, SplitCases(getattr(self, side), self))

    @property
    def given(self) -> bool:
        """Whether another program, such as MONAI Label, gave the cases."""
        return self.fold is None

    def about(self) -> dict[str, Any]:
        """Return the record for weights that are trained on this split: plain values, with the names of the cases."""
        return {
            **({} if self.given else {"fold": self.fold, "num_folds": self.num_folds}),
            "split": self.source,
            "training": [item["case"] for item in self.training],
            "validation": [item["case"] for item in self.validation],
            **self._about_parts(),
        }

    def _about_parts(self) -> dict[str, Any]:
        """Return which cases of which data sets are trained on, under the names that they have there."""
        seen: dict[str, list[str]] = {}
        for item in self.training:
            if "dataset" in item:
                name = item["case"].removeprefix(collected_name(item["dataset"], ""))
                seen.setdefault(item["dataset"], []).append(name)
        overlaps = self.dataset.overlaps if isinstance(self.dataset, Collection) else {}
        found = {name: list(others) for name, others in overlaps.items() if name in seen}
        return ({"datasets": seen} if seen else {}) | ({"overlaps": found} if found else {})


def split_dataset(
    dataset: DatasetFolder,
    fold: int | str = 0,
    num_folds: int | None = None,
    splits: str | os.PathLike | None = None,
    group: str | None = None,
    trained: Mapping[str, Any] | None = None,
) -> Split:
    """Decide which cases are for training and which for validation, and log it.

    What decides is, in this order: `splits`; `num_folds` or `group`; the split that weights were trained with; the data
    set's own file, `splits_final.json` in its folder or a `fold` in the entries of its `dataset.json`; and otherwise
    nnU-Net's rule, with the images of a patient on one side. Each data set of a collection is split for itself.

    Args:
        dataset: The data set.
        fold: The fold whose cases are for validation, from 0; `"all"`: every case is in both lists.
        num_folds: The number of folds, by default 5. With fewer patients, each is a fold of its own.
        splits: A file of splits: see :func:`mednextv2.data.split_files.read_split_file`.
        group: A regular expression for the patient in a case's name: see
            :func:`mednextv2.data.case_groups.group_cases`.
        trained: The record in weights of the split with which they were trained: see :meth:`Split.about`.

    Raises:
        InputError: If there is no such fold, or the cases cannot be split.
    """
    cases = sorted(dataset.cases, key=lambda case: case.name)
    names = [case.name for case in cases]
    if fold == "all":
        found, source = [Fold(names, names)], "every case is used for training and for validation"
    elif splits is not None:
        found, source = read_split_file(splits, names), f"the folds are those of {splits}"
    elif num_folds is None and group is None and (recorded := _recorded(trained, fold, names)):
        found, source = recorded, "the folds are those that the weights were trained with"
    elif dataset.parts:
        found, source = _of_parts(dataset.parts, num_folds, group)
    else:
        found, source = _own(dataset, names, num_folds, group) or _by_rule(names, num_folds, group)
    index = 0 if fold == "all" else fold
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(found):
        shown = "" if dataset.parts else f" ({source})"  # which says a lot about each data set of a collection
        raise InputError(
            f"fold {fold!r}: there are the folds 0 to {len(found) - 1}{shown}, or all to train on every case"
        )
    chosen = found[index]
    items = {case.name: case.as_item() for case in cases}
    training, validation = ([items[name] for name in sorted(side)] for side in (chosen.training, chosen.validation))
    if isinstance(dataset, Collection):
        if not training or not validation:
            raise InputError(
                f"fold {fold}: no data set of {dataset.path} has a case for validation in it; choose another"
            )
        training, validation = (add_chances(side, dataset.sampling) for side in (training, validation))
    split = Split(
        training,
        validation,
        fold,
        1 if fold == "all" else len(found),
        source,
        dataset,
    )
    logger.info(
        "Split: %s. Fold %s: %s for training, %s for validation.", source, fold,
        wording.count(len(split.training), "case"), wording.count(len(split.validation), "case"),
    )  # fmt: skip
    return split


def describe_split(names: Sequence[str]) -> str:
    """Say in a sentence how the cases of a data set without a split of its own are split.

    Args:
        names: The names of the cases.
    """
    return _by_rule(sorted(names), None, None)[1]


def _recorded(trained: Mapping[str, Any] | None, fold: int | str, names: Sequence[str]) -> list[Fold]:
    """Return folds with that of the weights and the others empty; an empty list if it is of another data set."""
    if not trained or trained.get("fold") != fold:
        return []
    sides = Fold(list(trained.get("training", [])), list(trained.get("validation", [])))
    if not sides.validation or not {*sides.training, *sides.validation} <= {*names}:
        return []
    empty = Fold([], [])
    return [sides if number == fold else empty for number in range(int(trained.get("num_folds", FOLDS)))]


def _own(
    dataset: DatasetFolder, names: Sequence[str], num_folds: int | None, group: str | None
) -> tuple[list[Fold], str] | None:
    """Return the folds that a data set prescribes, unless others are wanted, and what says so."""
    if num_folds is not None or group is not None:
        return None
    if (dataset.path / NNUNET_NAME).is_file():
        own = dataset.path / NNUNET_NAME
        return read_split_file(own, names), f"the folds are those of {own}"
    if {*dataset.folds} == {*names}:
        own = dataset.path / "dataset.json"
        return folds_of(dict(dataset.folds), own), f"the folds are those of {own}"
    return None


def _of_parts(parts: Sequence[CollectedDataset], num_folds: int | None, group: str | None) -> tuple[list[Fold], str]:
    """Split each data set of a collection. One with fewer folds than others has no validation case in the last ones."""
    found, said = [], []
    for part in parts:
        names = sorted(case.name for case in part.cases)
        pattern = part.patients if group is None else group
        try:
            if own := _own(part, names, num_folds, pattern):
                folds, source = own
            elif len({*group_cases(names, pattern)}) < 2:
                folds, source = [], "the cases of one patient are only trained on"
            else:
                folds, source = _by_rule(names, num_folds, pattern)
        except InputError as e:
            setting = f"patients {part.patients}" if group is None and part.patients is not None else ""
            text = str(e).replace(f"group {pattern}", setting) if setting else str(e)  # as the collection file calls it
            raise InputError(f"data set {part.name}: {text}") from e
        found.append([Fold(*([collected_name(part.name, n) for n in side] for side in fold)) for fold in folds])
        found[-1].append(Fold([collected_name(part.name, name) for name in names], []))  # for folds that it lacks
        said.append(f"{part.name}: {source}")
    number = max(len(folds) for folds in found) - 1
    if not number:
        raise InputError("no data set of the collection has two patients, so it cannot be split; use --fold all")
    joined = []
    for fold in range(number):
        chosen = [folds[min(fold, len(folds) - 1)] for folds in found]
        joined.append(
            Fold([n for side in chosen for n in side.training], [n for side in chosen for n in side.validation])
        )
    alike = {text.partition(": ")[2] for text in said}
    return joined, f"each data set is split for itself; {alike.pop() if len(alike) == 1 else '; '.join(said)}"


def _by_rule(names: Sequence[str], num_folds: int | None, group: str | None) -> tuple[list[Fold], str]:
    groups = group_cases(names, group)
    patients = sorted({*groups})
    folds = FOLDS if num_folds is None else num_folds
    if not is_whole(folds) or folds < 2:
        raise InputError(
            f"num_folds {wording.brief(folds)}: should be a whole number from 2, such as 5; to train on every case, "
            "use --fold all"
        )
    if len(patients) < 2:
        raise InputError(f"{wording.count(len(names), 'case')} of one patient cannot be split; use --fold all")
    said = [sentence] if (sentence := describe_groups(names, groups)) else []
    if folds > len(patients):
        folds = len(patients)
        said.append(f"there are only {wording.count(folds, 'patient')}, so each is a fold of its own (leave-one-out)")
    else:
        said.append(f"{folds} folds by nnU-Net's rule")
    found = []
    for fold in range(folds):
        training, validation = ({patients[i] for i in side} for side in kfold_indices(len(patients), fold, folds))
        sides = ([n for n, g in zip(names, groups, strict=True) if g in side] for side in (training, validation))
        found.append(Fold(*sides))
    return found, "; ".join(said)
