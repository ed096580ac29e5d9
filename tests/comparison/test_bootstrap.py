from inspect import signature

import numpy as np
import pytest
from scipy.stats import bootstrap

from mednextv2.comparison.bootstrap import paired_interval

RNG = np.random.default_rng(7)
SEED = {"rng" if "rng" in signature(bootstrap).parameters else "random_state": 3}  # SciPy 1.15 renamed it


@pytest.mark.parametrize("cases", [8, 40])
def test_it_is_the_percentile_interval_of_scipy(cases):
    differences = RNG.normal(0.03, 0.1, cases)
    peer = bootstrap((differences,), np.mean, n_resamples=20_000, method="percentile", **SEED).confidence_interval
    found = paired_interval(differences, [str(n) for n in range(cases)], samples=20_000)
    width = peer.high - peer.low
    assert found == pytest.approx(tuple(peer), abs=0.03 * width)


def test_patients_are_drawn_with_all_of_their_cases():
    """SciPy draws patients, each with the sum and the number of its cases."""
    groups = np.repeat(np.arange(12), RNG.integers(1, 5, 12))
    differences = RNG.normal(0.02, 0.05, len(groups)) + RNG.normal(0, 0.1, 12)[groups]
    sums, counts = np.bincount(groups, differences), np.bincount(groups)
    peer = bootstrap(
        (sums, counts), lambda s, c, axis=-1: s.sum(axis) / c.sum(axis), paired=True, vectorized=True,
        n_resamples=20_000, method="percentile", **SEED,
    ).confidence_interval  # fmt: skip
    found = paired_interval(differences, [f"patient{g}" for g in groups], samples=20_000)
    width = peer.high - peer.low
    assert found == pytest.approx(tuple(peer), abs=0.03 * width)
    alone = paired_interval(differences, [str(n) for n in range(len(groups))], samples=20_000)
    assert width > 1.2 * (alone[1] - alone[0])  # cases of a patient are alike: fewer facts than cases


def test_the_level_is_the_part_of_the_means_inside():
    differences = RNG.normal(0, 1, 30)
    names = [str(n) for n in range(30)]
    narrow, wide = (paired_interval(differences, names, level=level) for level in (0.5, 0.95))
    error = differences.std() / np.sqrt(30)  # of the mean: the normal distribution's quantiles are 0.674 and 1.96
    assert narrow == pytest.approx(
        (differences.mean() - 0.674 * error, differences.mean() + 0.674 * error), abs=0.1 * error
    )
    assert wide == pytest.approx(
        (differences.mean() - 1.96 * error, differences.mean() + 1.96 * error), abs=0.2 * error
    )


def test_one_patient_has_no_interval():
    assert np.isnan(paired_interval(np.array([0.1, 0.2]), ["a", "a"])).all()


def test_it_is_the_same_again():
    assert paired_interval(np.arange(5.0), list("abcde")) == paired_interval(np.arange(5.0), list("abcde"))
