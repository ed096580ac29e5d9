import xml.etree.ElementTree as ElementTree

import pytest
from comparison_helpers import make_done

from mednextv2.comparison.figure import draw_pretraining, draw_runs
from mednextv2.comparison.results import gather

SVG = "{http://www.w3.org/2000/svg}"


def circles(figure):
    return [(float(c.get("cx")), float(c.get("cy"))) for c in figure.iter(f"{SVG}circle")]


def texts(figure):
    return [element.text for element in figure.iter(f"{SVG}text")]


def test_runs_are_dots_at_their_dice_in_the_row_of_their_network(tmp_path):
    runs = [
        make_done(tmp_path, name, {"c1": [dice + 0.02 * seed]}, seed=seed)
        for name, dice in (("a", 0.80), ("b & <c>", 0.60))
        for seed in (0, 1, 2)
    ]
    figure = ElementTree.fromstring(draw_runs(gather(runs, {}), "data: <Dice>"))
    dots = circles(figure)
    rows = sorted({y for _, y in dots})
    assert len(dots) == 6
    assert len(rows) == 2
    xs = [sorted(x for x, y in dots if y == row) for row in rows]
    assert xs[0][1] - xs[0][0] == pytest.approx(xs[0][2] - xs[0][1], abs=0.2)
    assert xs[0][0] - xs[1][0] == pytest.approx(10 * (xs[0][1] - xs[0][0]), abs=1)  # 0.20 against 0.02
    assert {"data: <Dice>", "a", "b & <c>", "0.820 ± 0.020"} <= {*texts(figure)}
    width = float(figure.get("width"))
    assert all(0 < x < width for x, _ in dots)


def test_ticks_are_at_their_values(tmp_path):
    runs = [make_done(tmp_path, "a", {"c1": [dice]}, seed=seed) for seed, dice in enumerate((0.5, 0.7))]
    figure = ElementTree.fromstring(draw_runs(gather(runs, {}), "t"))
    ticks = {
        t.text: float(t.get("x"))
        for t in figure.iter(f"{SVG}text")
        if t.text[0] == "0" and t.get("text-anchor") == "middle"
    }
    (x, _), _ = sorted(circles(figure))
    assert ticks["0.5"] == pytest.approx(x, abs=0.2)


@pytest.mark.parametrize("dice", [0.0, 1.0, 0.5])
def test_a_single_run_is_drawn_too(dice, tmp_path):
    figure = ElementTree.fromstring(draw_runs(gather([make_done(tmp_path, "a", {"c": [dice]})], {}), "t"))
    assert len(circles(figure)) == 1


def test_no_run_makes_an_empty_figure():
    assert circles(ElementTree.fromstring(draw_runs([], "t"))) == []


def test_pretraining_is_above_the_line_where_it_helps(tmp_path):
    values = {"a": (0.6, 0.8), "b": (0.7, 0.7), "c": (0.9, 0.8)}
    runs = [
        make_done(tmp_path, name, {"c1": [dice]}, pretrained=file)
        for name, (scratch, tuned) in values.items()
        for dice, file in ((scratch, None), (tuned, "model.pt"))
    ]
    found = {r.entry.name: r for r in gather(runs, {})}
    pairs = [(found[name], found[f"{name}, fine-tuned"]) for name in values]
    figure = ElementTree.fromstring(draw_pretraining(pairs, "t"))
    a, b, c = circles(figure)
    line = next(p.get("d") for p in figure.iter(f"{SVG}path") if p.get("stroke-dasharray"))
    (left, bottom), (right, top) = ([float(n) for n in part.split()] for part in line[1:].split("L"))

    def height(x):
        return bottom + (x - left) / (right - left) * (top - bottom)

    assert a[1] < height(a[0]) - 5  # SVG counts downwards
    assert b[1] == pytest.approx(height(b[0]), abs=0.2)
    assert c[1] > height(c[0]) + 5
    assert a[0] < b[0] < c[0]
    assert next(p.text for p in figure.iter(f"{SVG}title")) == "a: 0.600 from scratch, 0.800 fine-tuned"


def test_several_weights_of_one_network_have_names_and_the_same_dice_from_scratch(tmp_path):
    runs = [make_done(tmp_path, "a", {"c": [0.6]})]
    runs += [
        make_done(tmp_path, "a", {"c": [d]}, pretrained=f"{s}.pt", start=s) for s, d in (("mae", 0.7), ("ct", 0.5))
    ]
    pairs = [(r.scratch, r) for r in gather(runs, {}) if r.scratch]
    figure = ElementTree.fromstring(draw_pretraining(pairs, "t"))
    (x1, y1), (x2, y2) = circles(figure)
    assert x1 == x2
    assert y1 < y2  # SVG counts downwards
    assert {"a, from mae", "a, from ct"} <= {*texts(figure)}
