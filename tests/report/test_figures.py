"""Cases as a report shows them: what is said about them, and what their slices consist of."""

import base64

import numpy as np
import pytest

from mednextv2.images.png import encode_png
from mednextv2.report import Results
from mednextv2.report.figures import case_figure
from mednextv2.report.score_reading import Scores
from mednextv2.report.views import CaseViews, View

LABELS = ["liver", "tumour", "vein"]
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
BOX = "M0 0h1v1h-1z"


def view(plane="axial", prediction=None, reference=None):
    return View(plane, "RLAP", 7, GREY, (0.8, 2.5), prediction or {}, reference or {})


def results():
    cases = [{"case": name, "image": f"/{name}.nii.gz", "prediction": f"/{name}_seg.nii.gz"} for name in "ab"]
    return Results("prediction", "T", LABELS, [[1], [2], [3]], cases)


def scores(**values):
    return Scores(["a", "b"], LABELS, {name: np.array(rows) for name, rows in values.items()})


EVALUATED = scores(dice=[[1, 1, 1], [0.5, np.nan, 0.8]], volume_ml=[[1, 1, 1], [2, 2, 2]])


def test_a_case_of_an_evaluation_has_its_own_scores():
    views = CaseViews("b", (view(prediction={0: BOX}, reference={0: BOX, 1: BOX}),), error_size=1.2345)
    figure = case_figure("Worst case", views, results(), EVALUATED)
    assert (figure.heading, figure.name, figure.compared) == ("Worst case", "b", True)
    assert figure.facts == ["mean Dice 0.650", "largest connected error 1.23 ml"]  # of 0.5 and 0.8
    assert [(e.structure, e.label, e.score) for e in figure.legend] == [
        (0, "liver", "Dice 0.500"),
        (1, "tumour", "Dice –"),
    ]


def test_without_an_error_nothing_is_said_about_one():
    figure = case_figure("Best case", CaseViews("a", (view(),)), results(), EVALUATED)
    assert figure.facts == ["mean Dice 1.000"]


def test_a_case_of_a_prediction_has_volumes():
    views = CaseViews("a", (view(prediction={2: BOX}), view("coronal", prediction={0: BOX, 2: BOX})))
    figure = case_figure("", views, results(), scores(volume_ml=[[0.012345, 5, 123.4], [9, 9, 9]]))
    assert (figure.facts, figure.compared) == ([], False)
    assert [(e.label, e.score) for e in figure.legend] == [("liver", "0.0123 ml"), ("vein", "123 ml")]


def test_a_slice_has_its_size_in_millimetres_and_its_grey_values():
    (found,) = case_figure("", CaseViews("a", (view("sagittal"),)), results(), EVALUATED).slices
    assert (found.plane, found.position, found.sides) == ("sagittal", 7, "RLAP")
    assert (found.width, found.height) == (pytest.approx(4 * 0.8), pytest.approx(3 * 2.5))
    assert found.pixel == (0.8, 2.5)
    head, data = found.image.split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == encode_png(GREY)


def test_outlines_of_the_reference_lie_below_those_of_the_prediction():
    views = CaseViews("a", (view(prediction={1: "M1 1h1v1h-1z"}, reference={0: BOX, 1: BOX}),))
    (found,) = case_figure("", views, results(), EVALUATED).slices
    assert [(o.kind, o.structure, o.label, o.path) for o in found.outlines] == [
        ("reference", 0, "liver", BOX),
        ("reference", 1, "tumour", BOX),
        ("prediction", 1, "tumour", "M1 1h1v1h-1z"),
    ]


def test_a_case_that_has_no_scores_is_refused():
    with pytest.raises(ValueError, match="'c'"):
        case_figure("", CaseViews("c", (view(),)), results(), EVALUATED)
