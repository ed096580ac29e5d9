"""The verb `run`."""

import pytest
from verb_helpers import call

from mednextv2.locks import NAME


def test_settings_reach_the_workflow_as_the_values_they_spell(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr("mednextv2.bundle.run_bundle", lambda *words, **settings: seen.update(words=words, **settings))
    words = ("run", "b", "train", "--fold", "1", "--dataset_dir", "2024_01", "--amp", "--spacing", "[1,1,2]")
    assert call(monkeypatch, capsys, *words)[0] == 0
    assert seen == {"words": ("b", "train"), "fold": 1, "dataset_dir": "2024_01", "amp": True, "spacing": [1, 1, 2]}


@pytest.mark.parametrize(
    ("workflow", "advice"),
    [("train", "; the same command goes on after the last whole epoch"), ("finetune+multi_gpu_train", "; the same"),
     ("evaluate", ""), ("inference", "")],
)  # fmt: skip
def test_ctrl_c_in_a_training_says_how_to_go_on(workflow, advice, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mednextv2.bundle.run_bundle", stop)
    code, _, err = call(monkeypatch, capsys, "run", "b", workflow)
    assert (code, err.startswith(f"stopped by Ctrl-C{advice}")) == (130, True)
    assert ("goes on" in err) is bool(advice)


@pytest.mark.parametrize(
    ("workflow", "rank", "held"),
    [("train", None, True), ("finetune", "0", True), ("multi_gpu_train", "1", False), ("inference", None, False)],
)
def test_a_training_holds_its_output_folder_before_anything_slow(workflow, rank, held, tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("mednextv2.bundle.run_bundle", lambda *_, **__: seen.append((tmp_path / "new" / NAME).exists()))
    if rank:
        monkeypatch.setenv("RANK", rank)
    assert call(monkeypatch, capsys, "run", "b", workflow, "--output_dir", str(tmp_path / "new"))[0] == 0
    assert seen == [held]
    assert not (tmp_path / "new").exists()
