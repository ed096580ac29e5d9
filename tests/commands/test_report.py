"""The verb `report`."""

import shutil

from verb_helpers import call


def test_label_maps_without_results_are_scored_first(phantom, tmp_path, monkeypatch, capsys):
    shutil.copytree(phantom / "labelsTr", tmp_path / "masks")
    words = ("--labels", phantom / "labelsTr", "--images", phantom / "imagesTr")
    code, out, err = call(monkeypatch, capsys, "report", tmp_path / "masks", *words)
    assert code == 0, err
    assert out == f"{tmp_path / 'masks' / 'scores' / 'report.html'}\n"
    assert "1.000" in (tmp_path / "masks" / "scores" / "report.html").read_text(encoding="utf-8")


def test_without_labels_the_results_are_asked_for(phantom, tmp_path, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "report", phantom / "labelsTr")
    assert code == 1
    assert "has no results.json" in err
