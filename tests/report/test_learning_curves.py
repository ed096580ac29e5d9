"""The figure with the learning curves of several trainings."""

import xml.etree.ElementTree as ElementTree

import pytest
from test_training_logs import FIRST, OLD, SECOND, make

from mednextv2.errors import InputError, UsageError
from mednextv2.report.learning_curves import draw_learning_curves, write_learning_curves
from mednextv2.report.training_logs import read_training

SVG = "{http://www.w3.org/2000/svg}"


def texts(figure):
    return [element.text for element in figure.iter(f"{SVG}text")]


def lines(figure):
    """The points of each line: first those of the Dice, then those of the loss."""
    return [
        [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
        for line in figure.iter(f"{SVG}polyline")
    ]


@pytest.fixture
def pair(tmp_path):
    return [make(tmp_path / "small then large", SECOND, FIRST), make(tmp_path / "large", FIRST.replace("0.2", "0.3"))]


@pytest.mark.parametrize(("over", "wanted"), [("steps", [10, 20, 28]), ("hours", [5.0, 11.5, 17.5])])
def test_the_axis_counts_all_steps_and_all_time_of_both_trainings(over, wanted, pair, tmp_path):
    file = write_learning_curves(pair, tmp_path / "a" / "curves.svg", over, ["both", "large"])
    figure = ElementTree.parse(file).getroot()
    both, large, loss, _ = lines(figure)
    xs = [x for x, _ in both]
    assert len(loss) == 4  # the validation has no value in one of the epochs
    left, scale = 64, 600 / (28 if over == "steps" else 17.5)
    assert xs == pytest.approx([left + scale * x for x in wanted], abs=0.1)
    assert [x for x, _ in large] == pytest.approx(xs[:2])
    first, second, third = (y for _, y in both)
    assert (first - second) / (first - third) == pytest.approx(0.1 / 0.3, abs=0.01)  # 0.1, 0.2 and 0.4
    joints = [(float(c.get("cx")), float(c.get("cy"))) for c in figure.iter(f"{SVG}circle")]
    assert joints[0] == pytest.approx(both[1])
    assert len(joints) == 2  # one in each panel
    shown = texts(figure)
    assert {"steps": "training steps", "hours": "hours of training"}[over] in shown
    assert "both, best 0.400 (the dot is the end of kernel 3)" in shown
    assert "large, best 0.300" in shown


def test_lines_have_colours_of_their_own(pair, tmp_path):
    more = [make(tmp_path / str(n), FIRST) for n in range(8)]
    figure = ElementTree.fromstring(draw_learning_curves([read_training(place) for place in [*pair, *more]]))
    styles = [(p.get("stroke"), p.get("stroke-dasharray")) for p in figure.iter(f"{SVG}polyline")]
    assert len({*styles[:10]}) == 10
    assert styles[:10] == styles[10:]


def test_names_are_no_markup(tmp_path):
    training = read_training(make(tmp_path / "a", FIRST), "<b> & 'c'")
    assert any("<b> & 'c'" in text for text in texts(ElementTree.fromstring(draw_learning_curves([training]))))


def test_a_training_without_validations_has_a_loss(tmp_path):
    text = "epoch,train_loss,steps,seconds\n1,0.9,10,5\n"
    figure = ElementTree.fromstring(draw_learning_curves([read_training(make(tmp_path / "a", text))]))
    assert "training loss" in texts(figure)
    assert not any("Dice" in text for text in texts(figure))
    assert len([*figure.iter(f"{SVG}circle")]) == 1  # a single epoch is a dot


def test_what_cannot_be_drawn_is_refused(pair, tmp_path):
    old = make(tmp_path / "old", OLD)
    with pytest.raises(InputError, match="old: its log has no steps, since a version before this one wrote it"):
        write_learning_curves([*pair, old], tmp_path / "a.svg")
    half = make(tmp_path / "half", "epoch,train_loss,steps\n1,0.9,10\n")
    with pytest.raises(InputError, match="half: its log has no seconds; give --over steps"):
        write_learning_curves([half], tmp_path / "a.svg", "hours")
    with pytest.raises(InputError, match=r"a\.png: the figure's file name should end in \.svg"):
        write_learning_curves(pair, tmp_path / "a.png")
    with pytest.raises(UsageError, match="--over epochs: should be one of steps, hours"):
        write_learning_curves(pair, tmp_path / "a.svg", "epochs")
    with pytest.raises(UsageError, match="--names: 1 name for 2 trainings; give one for each"):
        write_learning_curves(pair, tmp_path / "a.svg", names=["one"])
    assert not (tmp_path / "a.svg").exists()
