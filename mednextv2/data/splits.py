"""Cross-validation splits by nnU-Net's rule, so that folds are comparable with its results."""

from collections.abc import Sequence

import numpy as np

from mednextv2 import wording
from mednextv2.data.dataset import Case
from mednextv2.errors import InputError

FOLDS = 5  # of the cross-validation


def kfold_indices(count: int, fold: int | str, folds: int = FOLDS, seed: int = 12345) -> tuple[list[int], list[int]]:
    """Split `count` cases into training and validation indices.

    The same as scikit-learn's `KFold(folds, shuffle=True, random_state=seed)`, which nnU-Net uses on the sorted case
    names: one shuffle, then consecutive pieces whose sizes differ by at most one.

    Args:
        count: Number of cases.
        fold: Which piece is for validation, from 0.
        folds: Number of pieces.
        seed: Of the shuffle.

    Returns:
        Sorted training indices and sorted validation indices.

    Raises:
        InputError: When there are fewer cases than folds, or no such fold.
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


def split_cases(
    cases: Sequence[Case], fold: int | str, folds: int = FOLDS, seed: int = 12345
) -> tuple[list[dict], list[dict]]:
    """Split cases into the lists of dicts that MONAI's data sets take.

    Args:
        cases: The cases; they are sorted by name first.
        fold: Which piece is for validation, or `"all"`: every case is in both lists.
        folds: Number of pieces.
        seed: Of the shuffle.

    Returns:
        Training items and validation items: see :meth:`Case.as_item`.
    """
    items = [case.as_item() for case in sorted(cases, key=lambda case: case.name)]
    if fold == "all":
        return items, items
    training, validation = kfold_indices(len(items), fold, folds, seed)
    return [items[i] for i in training], [items[i] for i in validation]
