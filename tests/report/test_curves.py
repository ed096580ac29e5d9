"""Curves over epochs: what is drawn, and where."""

import numpy as np
import pytest

from mednextv2.report.curves import curves

NAN = np.nan


def places(chart, name):
    return next(line.points for line in chart.lines if line.name == name)


def read_off(marks, place):
    """Return the value at a place, linearly between the first and the last of marks `(place, value)`."""
    (a, low), (b, high) = marks[0], marks[-1]
    return low + (place - a) / (b - a) * (high - low)


def test_points_lie_at_their_epochs_and_values():
    epochs, loss, dice = np.arange(1.0, 7), np.array([0.9, 0.6, 0.5, 0.45, 0.4, 0.1]), np.linspace(0, 1, 6)
    chart = curves("Loss and Dice", epochs, [("loss", loss), ("Dice", dice)])
    assert [line.name for line in chart.lines] == ["loss", "Dice"]
    for name, values in (("loss", loss), ("Dice", dice)):
        points = places(chart, name)
        assert [read_off(chart.epochs, x) for x, _ in points] == pytest.approx(epochs)
        assert [read_off(chart.values, y) for _, y in points] == pytest.approx(values)
    assert (points[0][0], points[-1][0]) == (chart.left, chart.right)
    assert points[0][1] > points[-1][1]  # the larger value is higher up


def test_all_values_are_inside_with_a_margin():
    chart = curves("x", np.array([1.0, 2.0]), [("a", np.array([-3.0, 7.0]))])
    (_, low), (_, high) = places(chart, "a")
    # a twentieth of the extent of 10 above and below: 10.5 / 11 and 0.5 / 11 of the height
    top, bottom = 8, chart.height - 34
    assert low == pytest.approx(bottom - 0.5 / 11 * (bottom - top))
    assert high == pytest.approx(bottom - 10.5 / 11 * (bottom - top))
    assert all(top <= place <= bottom for place, _ in chart.values)


def test_epochs_without_a_value_are_left_out():
    chart = curves("x", np.arange(1.0, 5), [("a", np.array([1, 2, 3, 4.0])), ("b", np.array([NAN, 2, NAN, 4]))])
    assert [read_off(chart.epochs, x) for x, _ in places(chart, "b")] == pytest.approx([2, 4])
    assert places(chart, "b") == [places(chart, "a")[1], places(chart, "a")[3]]


def test_infinite_losses_do_not_move_the_axis():
    usual = curves("x", np.arange(1.0, 4), [("a", np.array([1, 2, 3.0]))])
    burst = curves("x", np.arange(1.0, 5), [("a", np.array([1, 2, 3.0, np.inf]))])
    assert burst.values == usual.values
    assert len(places(burst, "a")) == 3


@pytest.mark.parametrize("value", [0.0, 5.0, -2.0])
def test_one_epoch_is_a_point_in_the_middle_of_the_height(value):
    chart = curves("x", np.array([1.0]), [("a", np.array([value]))])
    ((x, y),) = places(chart, "a")
    assert x == chart.left
    assert y == pytest.approx((8 + chart.height - 34) / 2)


def test_no_value_at_all_is_an_empty_chart():
    chart = curves("x", np.array([1.0, 2.0]), [("a", np.array([NAN, NAN]))])
    assert places(chart, "a") == []
    assert [value for _, value in chart.values] == [0, 0.25, 0.5, 0.75, 1]


def test_epochs_are_written_as_whole_numbers():
    for last in (2, 3, 7, 1000):
        chart = curves("x", np.arange(1.0, last + 1), [("a", np.ones(last))])
        assert all(value == int(value) for _, value in chart.epochs)
        assert chart.epochs
