"""The verb `phantom`."""

import pytest
from verb_helpers import call


def test_phantom_never_writes_into_a_data_set(tmp_path, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "phantom", tmp_path / "p", "--cases", 2)
    assert (code, out.strip()) == (0, str(tmp_path / "p"))
    before = (tmp_path / "p" / "dataset.json").read_bytes()
    code, _, err = call(monkeypatch, capsys, "phantom", tmp_path / "p", "--cases", 1)
    assert code == 1
    assert "holds a data set already" in err
    assert (tmp_path / "p" / "dataset.json").read_bytes() == before


@pytest.mark.parametrize("cases", [0, -2])
def test_phantom_of_no_cases_is_refused(tmp_path, monkeypatch, capsys, cases):
    code, _, err = call(monkeypatch, capsys, "phantom", tmp_path / "p", "--cases", cases)
    assert code == 1
    assert "cases" in err
    assert not (tmp_path / "p").exists()


def test_phantom_of_a_bundle_has_its_labels_and_channels_and_is_sound(tmp_path, monkeypatch, capsys):
    code, _, _ = call(monkeypatch, capsys, "phantom", tmp_path / "p", "--bundle", "mednextv2_brats21", "--cases", 2)
    assert code == 0
    code, out, _ = call(monkeypatch, capsys, "check", tmp_path / "p")
    assert code == 0
    assert "2 cases, no defects" in out
    assert "channels: T1, T1ce, T2, FLAIR" in out
    assert "region whole_tumour" in out


def test_phantom_of_a_bundle_that_is_not_there_is_refused(tmp_path, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "phantom", tmp_path / "p", "--bundle", "mednextv2_none")
    assert code == 1
    assert "mednextv2_none: no folder with configs" in err
    assert not (tmp_path / "p").exists()
