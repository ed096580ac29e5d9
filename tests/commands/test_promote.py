import pytest

from mednextv2.commands.promote import promote


@pytest.mark.parametrize("kept", [None, "models/replaced_2026-01-01_000000"])
def test_the_places_of_new_and_old_weights_are_printed(kept, monkeypatch, capsys):
    calls = []

    def stand_in(*arguments):
        calls.append(arguments)
        return ["models/model.pt", "models/model_1.pt"], kept

    monkeypatch.setattr("mednextv2.bundle.promotion.promote_training", stand_in)
    promote("b", folds=[0, 1], experiment="wide")
    assert calls == [("b", [0, 1], "wide", None)]
    out = capsys.readouterr().out
    assert "own weights are now: models/model.pt, models/model_1.pt" in out
    assert ("kept in models/replaced_2026-01-01_000000" in out) == bool(kept)
