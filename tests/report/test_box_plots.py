"""Box plots: what is drawn, and where."""

import re

import numpy as np
import pytest

from mednextv2.report.axis import WIDTH
from mednextv2.report.box_plots import box_plots
from mednextv2.report.rendering import environment


def test_box_has_the_quartiles():
    values = np.array([[0.5], [0.6], [0.7], [0.8], [0.9], [0.0]])
    charts = environment().get_template("charts.svg.j2").module
    svg = charts.box_plots(box_plots("Dice", ["x"], list("abcdef"), values, score=True))
    a, b = (float(v) for v in re.search(r'class="box" x="([\d.]+)".*? width="([\d.]+)"', svg).groups())
    axis = [float(v) for v in re.findall(r'class="grid" d="M([\d.]+) ', svg)]
    first, third = np.percentile(values, (25, 75))
    scale = (axis[-1] - axis[0]) / 1.0  # from 0 to 1
    assert (a, b) == (pytest.approx(axis[0] + first * scale, abs=0.1), pytest.approx((third - first) * scale, abs=0.1))


def value_at(chart, place):
    """Read a value off the axis, linearly between the first and the last line of the grid."""
    (a, low), (b, high) = chart.ticks[0], chart.ticks[-1]
    return low + (place - a) / (b - a) * (high - low)


def names(count):
    return [f"case {n}" for n in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_boxes_and_whiskers_are_those_of_matplotlib(seed):
    cbook = pytest.importorskip("matplotlib.cbook")
    values = np.random.default_rng(seed).normal(5, 1, (40, 2)).clip(0.1)
    values[0], values[1] = 0.2, 9.5  # beyond the whiskers
    chart = box_plots("HD95", ["a", "b"], names(40), values, "mm")
    for row, wanted in zip(chart.rows, cbook.boxplot_stats(values, whis=1.5), strict=True):
        found = [value_at(chart, v) for v in (row.box.low, row.box.first, row.box.median, row.box.third, row.box.high)]
        assert found == pytest.approx([wanted[k] for k in ("whislo", "q1", "med", "q3", "whishi")])
        assert [value_at(chart, dot.x) for dot in row.dots] == pytest.approx(values[:, chart.rows.index(row)])
        assert [dot.case for dot in row.dots] == names(40)


def test_infinite_values_have_a_line_of_their_own_and_nan_is_left_out():
    values = np.array([[1.0, np.inf], [3.0, np.nan], [np.inf, np.nan], [2.0, 1.5]])
    chart = box_plots("HD95", ["a", "b"], names(4), values, "mm")
    first, second = chart.rows
    assert value_at(chart, first.box.median) == pytest.approx(2)
    assert second.box is None  # of a single finite value
    assert [(dot.case, dot.value) for dot in second.dots] == [("case 0", "∞"), ("case 3", "1.500")]
    assert first.dots[2].x == second.dots[0].x == chart.infinite
    assert max(place for place, _ in chart.ticks) < chart.infinite < chart.width
    assert box_plots("HD95", ["a"], names(4), np.array([[1.0], [2], [3], [4]])).infinite is None


def test_a_score_ends_at_1_and_a_distance_begins_at_0():
    dice = box_plots("Dice", ["a"], names(3), np.array([[0.73], [0.9], [0.95]]), score=True)
    assert (dice.ticks[0][1], dice.ticks[-1][1]) == (0.7, 1)
    good = box_plots("Dice", ["a"], names(3), np.array([[0.97], [0.98], [0.99]]), score=True)
    assert (good.ticks[0][1], good.ticks[-1][1]) == (0.9, 1)
    assert box_plots("HD95", ["a"], names(2), np.array([[4.0], [8.0]])).ticks[0][1] == 0


def test_a_distance_far_out_makes_the_axis_logarithmic():
    values = np.array([[1.0], [1.0], [1.0], [99.0]])
    chart = box_plots("HD95", ["a"], names(4), values)
    assert chart.log
    place = dict((tick, place) for place, tick in chart.ticks)
    # 1 + value is 1, 2, 100: so far along, of the line from 0 to 99
    dots = [dot.x for dot in chart.rows[0].dots]
    share = np.log(2) / np.log(100)
    assert dots[0] == pytest.approx(place[0] + share * (dots[3] - place[0]))
    assert dots[0] == pytest.approx(place[1])
    assert not box_plots("HD95", ["a"], names(4), values.clip(max=12)).log


def test_equal_values_stay_apart_within_their_row():
    chart = box_plots("Dice", ["a", "b"], names(50), np.full((50, 2), 0.8), score=True)
    for row in chart.rows:
        heights = np.sort([dot.y for dot in row.dots])
        assert np.diff(heights).min() > 0.1
        assert row.y - chart.row_height / 2 < heights[0] < row.y < heights[-1] < row.y + chart.row_height / 2
    assert chart.top < chart.rows[0].y < chart.rows[1].y < chart.bottom < chart.height


@pytest.mark.parametrize("score", [True, False])
def test_of_very_many_cases_the_worst_alone_have_tooltips(score):
    values = np.random.default_rng(0).permutation(2000).reshape(-1, 1) / 2000
    chart = box_plots("x", ["a"], names(2000), values, score=score)
    (row,) = chart.rows
    worst = np.argsort(values[:, 0])[:5] if score else np.argsort(-values[:, 0])[:5]
    assert [dot.case for dot in row.dots] == [f"case {i}" for i in worst]
    assert len(re.findall(r"M\d+ \d+h0", row.cloud)) == 2000
    few = box_plots("x", ["a"], names(1500), values[:1500], score=score).rows[0]
    assert (len(few.dots), few.cloud) == (1500, "")


def test_long_names_lose_their_middle_and_many_structures_an_axis_at_the_end_alone():
    chart = box_plots("Dice", ["abcdefghijklmno", "abcdefghijklmnop"], names(1), np.ones((1, 2)), score=True)
    assert [row.short for row in chart.rows] == ["abcdefghijklmno", "abcdefg…jklmnop"]
    assert chart.rows[1].label == "abcdefghijklmnop"
    for count, many in ((24, False), (25, True)):
        chart = box_plots("Dice", names(count), ["a"], np.ones((1, count)), score=True)
        assert (chart.many, len(chart.rows), chart.width) == (many, count, WIDTH)


def test_no_values_at_all_draw_an_empty_chart():
    for score in (True, False):
        (row,) = box_plots("x", ["a"], names(2), np.full((2, 1), np.nan), score=score).rows
        assert (row.box, row.dots, row.cloud) == (None, [], "")
