"""The page about masked autoencoding."""

import base64
import json

import numpy as np
import pytest
from report_helpers import read_page
from verb_helpers import call_verb

from mednextv2.errors import InputError
from mednextv2.report import write_report
from mednextv2.training.reconstruction_pictures import PictureList

LOG = """epoch,learning_rate,train_loss,val_loss,val_explained
1,0.0005,1.2,0.9,0.1
2,0.001,1.0,,
3,0.0008,0.8,0.7,0.3
4,0.0003,0.7,0.75,0.25
"""
TABLE = "case,patches,mean_squared_error,explained\na,4,0.5,0.4\nb,4,0.25,0.8\n"


def draw(folder, entries, title="a bundle"):
    """Write pictures, each of which is of another grey; returns the folder."""
    pictures, kept = PictureList(folder, title), []
    for number, entry in enumerate(entries):
        grey = np.full((4, 6), number, np.uint8)
        pictures.add(f"p{number}", grey, {"error": 0.5, "explained": 0.25, **entry}, kept)
        kept = pictures.entries()
    return folder


@pytest.fixture
def training(tmp_path):
    entries = [{"epoch": epoch, "case": case} for epoch in (1, 3, 4) for case in ("a", "b")]
    (tmp_path / "training_log.csv").write_text(LOG)
    return draw(tmp_path, entries)


def test_a_training_is_shown_with_curves_and_the_last_pictures(training):
    page = read_page(write_report(training))
    assert (page.open, page.unbalanced) == ([], [])
    assert page.of("h1") == ["a bundle"]
    assert page.of("h2") == ["Training", "Reconstructions in epoch 4", "The first of these in earlier epochs"]
    assert page.of("h3") == ["Loss", "Learning rate", "a", "b", "a, epoch 1", "a, epoch 3"]
    assert dict(zip(page.of("dt"), page.of("dd"), strict=True)) == {
        "Lowest validation loss": "0.700", "Explained there": "0.300", "Its epoch": "3",
    }  # fmt: skip
    assert "4 epochs" in page.of("p")[0]
    assert page.of("figcaption")[0] == "mean squared error 0.500, explained 0.250"
    images = [a["src"] for a in page.all("img", **{"class": "reconstruction"})]
    files = [training / "pictures" / f"p{n}.png" for n in (4, 5, 0, 2)]
    assert images == ["data:image/png;base64," + base64.b64encode(f.read_bytes()).decode() for f in files]
    lines = [a["class"] for a in page.all("polyline")]
    assert lines == ["second", "first", "first"]  # training behind validation, and the learning rate


def test_many_epochs_are_thinned_out(tmp_path):
    page = read_page(write_report(draw(tmp_path, [{"epoch": epoch, "case": "a"} for epoch in range(1, 31)])))
    assert page.of("h3")[1:] == [f"a, epoch {epoch}" for epoch in (1, 7, 12, 18, 23, 29)]


def test_an_evaluation_is_shown_with_its_table(tmp_path):
    (tmp_path / "cases.csv").write_text(TABLE)
    code, out, _ = call_verb("report", draw(tmp_path, [{"case": "a"}]), "--output", tmp_path / "page.html")
    assert (code, out.strip()) == (0, str(tmp_path / "page.html"))
    page = read_page(tmp_path / "page.html")
    assert page.of("h2") == ["Reconstructions", "All images"]
    assert page.tables[0][1:] == [
        ["a", "4", "0.5000", "0.4000"], ["b", "4", "0.2500", "0.8000"], ["mean", "", "0.3750", "0.6000"],
    ]  # fmt: skip


def test_names_are_text_wherever_they_are_shown(tmp_path):
    planted = "<script>alert('a')</script> {{ 7*7 }}"
    page = read_page(write_report(draw(tmp_path, [{"epoch": e, "case": planted} for e in (1, 2)], planted)))
    assert len(page.all("script")) == 1
    assert page.of("h1") == [planted]
    assert page.of("h3") == [planted, f"{planted}, epoch 1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "should have a title and a list of pictures"),
        ({"title": "a", "pictures": [{"case": "a"}]}, "should name a case, a picture and its error"),
        ({"title": "a", "pictures": [{"case": "a", "file": "../x.png", "error": 1, "explained": 0}]}, "should name"),
        ({"title": "a", "pictures": [{"case": "a", "file": "no.png", "error": 1, "explained": 0}]}, "cannot be read"),
        ({"title": "a", "pictures": [{"case": "a", "file": "pictures.json", "error": 1, "explained": 0}]}, "is no PNG"),
    ],
)
def test_a_damaged_list_is_named(tmp_path, content, message):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "pictures.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("text", ["case,patches\na,1\n", "case,patches,mean_squared_error,explained\na,1,x,2\n"])
def test_a_damaged_table_is_named(tmp_path, text):
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(InputError, match=r"cases\.csv: cannot be read as the table of an evaluation"):
        write_report(draw(tmp_path, [{"case": "a"}]))
