"""The verb `run`."""

from verb_helpers import call


def test_settings_reach_the_workflow_as_the_values_they_spell(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr("mednextv2.bundle.run_bundle", lambda *words, **settings: seen.update(words=words, **settings))
    words = ("run", "b", "train", "--fold", "1", "--dataset_dir", "2024_01", "--amp", "--spacing", "[1,1,2]")
    assert call(monkeypatch, capsys, *words)[0] == 0
    assert seen == {"words": ("b", "train"), "fold": 1, "dataset_dir": "2024_01", "amp": True, "spacing": [1, 1, 2]}
