"""Axes of charts: where values are, and which are written."""

import itertools
import math

import pytest

from mednextv2.report.axis import Axis


def test_ticks_are_round_and_inside():
    assert Axis(0.8, 1, 0, 100).ticks() == [0.8, 0.85, 0.9, 0.95, 1]
    assert Axis(0, 3, 0, 100).ticks() == [0, 1, 2, 3]
    assert Axis(0, 340, 0, 100, log=True).ticks() == [0, 1, 3, 10, 30, 100, 300]


@pytest.mark.parametrize(("value", "place"), [(0, 100), (2.5, 125), (10, 200), (-10, 0), (11, 210)])
def test_places_are_in_proportion_to_values(value, place):
    assert Axis(0, 10, 100, 200).at(value) == pytest.approx(place)
    assert Axis(0, 10, 200, 100).at(value) == pytest.approx(300 - place)  # upwards, y falls


@pytest.mark.parametrize(("value", "place"), [(0, 30), (9, 40), (99, 50)])
def test_places_on_a_logarithmic_axis_are_those_of_one_more(value, place):
    assert Axis(0, 99, 30, 50, log=True).at(value) == pytest.approx(place)  # 1, 10 and 100


@pytest.mark.parametrize("seed", range(50))
def test_ticks_are_equal_round_steps_that_fill_the_axis(seed):
    low, extent = math.sin(seed) * 10 ** (seed % 5), 10 ** (seed / 10 - 2)
    ticks = Axis(low, low + extent, 0, 1).ticks()
    (step,) = {round(b - a, 9) for a, b in itertools.pairwise(ticks)}
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - m) for m in (1, 2, 2.5, 5)) < 1e-6
    assert 2 <= len(ticks) <= 6
    assert low - 1e-6 * extent <= ticks[0] < low + step
    assert low + extent - step < ticks[-1] <= low + extent * (1 + 1e-6)
    assert all(abs(tick / step - round(tick / step)) < 1e-5 for tick in ticks)


def test_zero_is_written_as_zero_and_small_steps_without_noise():
    assert Axis(-1, 1, 0, 1).ticks() == [-1, -0.5, 0, 0.5, 1]
    assert Axis(0, 0.3, 0, 1).ticks() == [0, 0.1, 0.2, 0.3]  # not 0.30000000000000004
    assert Axis(0, 0.5, 0, 1, log=True).ticks() == [0]
