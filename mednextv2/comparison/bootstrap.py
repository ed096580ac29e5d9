"""How sure the difference between two networks is: a paired bootstrap over cases."""

from collections.abc import Sequence

import numpy as np

_CHUNK = 500  # samples that are drawn together, which bounds the memory


def paired_interval(
    differences: np.ndarray, groups: Sequence[str], samples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return an interval for the mean of differences between two networks on the same cases.

    Patients are drawn with replacement, with all of their cases, and the mean over the drawn cases is taken. The limits
    are percentiles of these means.

    Args:
        differences: The difference of each case, `(cases,)`.
        groups: The patient of each case.
        samples: How many times patients are drawn.
        level: The part of the means that the interval holds.
        seed: The seed of the random numbers.

    Returns:
        The limits; NaN if there are fewer than two patients.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3 (percentile interval).
    """
    names = sorted({*groups})
    if len(names) < 2:
        return float("nan"), float("nan")
    index = np.array([names.index(group) for group in groups])
    sums, counts = np.bincount(index, differences), np.bincount(index)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, samples, _CHUNK):
        drawn = rng.integers(0, len(names), (min(_CHUNK, samples - start), len(names)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
