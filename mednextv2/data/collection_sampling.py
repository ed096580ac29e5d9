"""How often each case of a collection is drawn: first a data set, then one of its cases."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mednextv2.errors import InputError


def add_chances(items: Sequence[Mapping[str, Any]], sampling: str | Mapping[str, float]) -> list[dict[str, Any]]:
    """Return items with the probability with which each is drawn, under `chance`.

    A data set with `n` of these cases is drawn with a probability proportional to `n ** 0.5` (`square_root`), to `n`
    (`proportional`), to 1 (`uniform`), or to a weight of its own; then each of its cases is as probable as the others.

    Args:
        items: Items with the name of their `dataset`.
        sampling: The rule, or the weight of each data set.

    Raises:
        InputError: If all data sets that have one of these cases have the weight 0.
    """
    numbers = Counter(item["dataset"] for item in items)
    exponents = {"square_root": 0.5, "proportional": 1.0, "uniform": 0.0}
    if isinstance(sampling, str):
        weights = {name: number ** exponents[sampling] for name, number in numbers.items()}
    else:
        weights = {name: sampling[name] for name in numbers}
    total = sum(weights.values())
    if items and not total:
        raise InputError(f"sampling: the data sets {', '.join(numbers)} have the weight 0, and no other has a case")
    return [{**item, "chance": weights[item["dataset"]] / total / numbers[item["dataset"]]} for item in items]
