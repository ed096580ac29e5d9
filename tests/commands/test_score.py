"""The verb `score`."""

import shutil

import pytest
from verb_helpers import call


@pytest.mark.parametrize("names", [None, "mednextv2_hippocampus", "data"])
def test_perfect_masks_have_perfect_scores(phantom, tmp_path, monkeypatch, capsys, names):
    masks = tmp_path / "2024_01"
    shutil.copytree(phantom / "labelsTr", masks)
    options = [] if names is None else ["--names", phantom if names == "data" else names]
    code, out, err = call(monkeypatch, capsys, "score", masks, phantom / "labelsTr", *options)
    assert code == 0, err
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["anterior", "posterior", "mean"]
    assert all(line.split()[1:] == ["1.000", "1.000", "0.00"] for line in lines[1:4])
    assert lines[4] == f"written: {masks / 'scores'}"
    assert sorted(file.name for file in (masks / "scores").iterdir()) == ["cases.csv", "summary.csv"]


def test_with_images_the_report_follows(phantom, tmp_path, monkeypatch, capsys):
    words = (phantom / "labelsTr", phantom / "labelsTr", "--output", tmp_path / "o", "--images", phantom / "imagesTr")
    code, out, err = call(monkeypatch, capsys, "score", *words)
    assert code == 0, err
    assert out.endswith(f"mednextv2 report {tmp_path / 'o'}\n")
    code, out, err = call(monkeypatch, capsys, "report", tmp_path / "o")
    assert code == 0, err
    assert "anterior" in (tmp_path / "o" / "report.html").read_text(encoding="utf-8")


def test_names_that_are_nothing_are_refused(phantom, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "score", phantom / "labelsTr", phantom / "labelsTr", "--names", "nothing")
    assert code == 1
    assert "bundle nothing: no folder with configs" in err
