"""Hints for what users of other programs type."""

import re
from pathlib import Path

import pytest
from verb_helpers import call

from mednextv2.bundle.run import find_bundle, workflow_files
from mednextv2.commands import VERBS
from mednextv2.commands.arguments import read_arguments
from mednextv2.commands.peers import SETTINGS, hint_for
from mednextv2.commands.peers import VERBS as PEERS_VERBS


@pytest.mark.parametrize("word", PEERS_VERBS)
def test_a_verb_of_others_is_answered_with_ours(word, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, word, "data")
    assert code == 2
    assert err.startswith(f"error: {word}: mednextv2 has no such verb; ")
    ours = re.search(r"mednextv2 (--version|\w+)", err.split(";", 1)[1])
    assert ours
    assert ours[1] in (*VERBS, "--version")


@pytest.mark.parametrize("word", SETTINGS)
def test_an_option_of_others_is_answered_with_ours(word, monkeypatch, capsys):
    dash = "-" if len(word) == 1 else "--"
    code, _, err = call(monkeypatch, capsys, "run", "mednextv2_hippocampus", "train", dash + word, "1")
    assert code == 2
    assert err.startswith(f"error: {dash}{word}: run has no such option; ")


def test_the_advice_names_settings_that_exist():
    files = [
        file
        for workflow in ("train", "evaluate", "inference", "multi_gpu_train")
        for file in workflow_files(find_bundle("mednextv2_hippocampus"), workflow)
    ]
    text = "".join(Path(file).read_text(encoding="utf-8") for file in files)
    advised = {name for advice in SETTINGS.values() for name in re.findall(r"--(\w+)", advice)}
    assert len(advised) > 8
    assert {name for name in advised if f"\n{name}:" not in text} == {
        "dicom_seg", "probabilities", "report", "rtstruct"  # options of predict
    }  # fmt: skip
    assert read_arguments(VERBS["predict"], ["b", "i", "o", "--probabilities"])["probabilities"]


def test_words_that_nobody_uses_get_no_hint():
    assert hint_for("", "frobnicate") == ""
    assert hint_for("run", "frobnicate") == ""
    assert hint_for("check", "lr") == ""


@pytest.mark.parametrize("word", ["-f", "--fold"])
def test_predict_averages_folds_and_validates_none(word, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "predict", "mednextv2_hippocampus", "i", "o", word, "0")
    assert (code, err) == (2, f"error: {word}: predict has no such option; use --folds\n")
