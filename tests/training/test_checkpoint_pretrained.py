"""What a training saves about the weights that it started from, and the formats in which it saves its own."""

import copy
import csv

import pytest
from checkpoint_helpers import STEPS, KilledError, Run, load, names, same
from ignite.engine import Events

from mednextv2.errors import InputError
from mednextv2.weights import load_file, read_about
from mednextv2.weights.provenance import trained_cases


def test_what_became_of_each_tensor_is_saved_beside_the_checkpoint_and_counted_in_the_record(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    Run(tmp_path / "old").run()
    start = {"pretrained": tmp_path / "old" / "model.pt", "about": {"dataset": "D"}}
    with pytest.raises(KilledError):
        Run(tmp_path / "new", kill_at=STEPS + 1, **start).run()
    report = tmp_path / "new" / "pretrained_report.csv"
    rows = list(csv.DictReader(report.open(encoding="utf-8")))
    state = load(tmp_path / "old" / "model.pt")
    assert [(row["tensor"], row["status"]) for row in rows] == [(name, "loaded") for name in state]
    assert rows[0]["shape"] == "×".join(map(str, next(iter(state.values())).shape))
    before = report.read_bytes()
    Run(tmp_path / "new", **start).run()  # which goes on, and loads nothing
    assert report.read_bytes() == before
    for name in ("model.pt", "checkpoint_latest.pt"):
        recorded = read_about(tmp_path / "new" / name)["pretrained"]["report"]
        assert recorded["tensors"] == {"loaded": len(state), "adapted": 0, "newly initialised": 0, "not used": 0}
    Run(tmp_path / "new", resume=False, **start).run()
    assert (tmp_path / "new" / "pretrained_report.previous-1.csv").read_bytes() == before


def test_the_best_weights_are_saved_as_safetensors_too_if_asked_for(tmp_path):
    Run(tmp_path, save_safetensors=True, about={"dataset": "D"}).run()
    found = load_file(tmp_path / "model.safetensors")
    assert same(found, load(tmp_path / "model.pt"))
    assert read_about(tmp_path / "model.safetensors") == read_about(tmp_path / "model.pt") != {}
    Run(tmp_path, resume=False, save_safetensors=True).run()
    assert same(load_file(tmp_path / "model.previous-1.safetensors"), found)


def first_weights(run):
    """The weights that the training starts from."""
    seen = []
    run.trainer.add_event_handler(Events.EPOCH_STARTED, lambda _: seen.append(copy.deepcopy(run.network.state_dict())))
    run.run()
    return seen[0]


@pytest.mark.parametrize("name", ["model.pt", "checkpoint_latest.pt"])
def test_training_starts_from_pretrained_weights(tmp_path, name):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    Run(tmp_path / "old", (0.1, 0.2, 0.3, 0.4)).run()
    run = Run(tmp_path / "new", pretrained=tmp_path / "old" / name)
    assert not same(run.network.state_dict(), load(tmp_path / "old" / "model.pt"))
    assert same(first_weights(run), load(tmp_path / "old" / "model.pt"))
    assert run.steps[0] == 1
    files = ["checkpoint_latest.pt", "checkpoint_previous.pt", "model.pt", "pretrained_report.csv", "training_log.csv"]
    assert names(tmp_path / "new") == files


def test_pretrained_weights_of_the_same_folder_are_kept(tmp_path):
    Run(tmp_path, (0.1, 0.2, 0.3, 0.4)).run()
    (tmp_path / "checkpoint_latest.pt").unlink()
    before = load(tmp_path / "model.pt")
    assert same(first_weights(Run(tmp_path, pretrained=tmp_path / "model.pt")), before)
    assert same(load(tmp_path / "model.previous-1.pt"), before)


def test_resumed_training_does_not_start_from_pretrained_weights_again(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    Run(tmp_path / "old").run()
    settings = {"pretrained": tmp_path / "old" / "model.pt"}
    with pytest.raises(KilledError):
        Run(tmp_path / "new", kill_at=2 * STEPS + 1, **settings).run()
    expected = load(tmp_path / "new" / "checkpoint_latest.pt")["model"]
    assert same(first_weights(Run(tmp_path / "new", **settings)), expected)


def test_pretrained_weights_of_another_network_are_refused(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    Run(tmp_path / "old", features=6).run()
    with pytest.raises(InputError) as caught:
        Run(tmp_path / "new", pretrained=tmp_path / "old" / "model.pt").run()
    assert str(caught.value).startswith(f"{tmp_path / 'old' / 'model.pt'}: the weights are of another network.")
    assert names(tmp_path / "new") == []


def test_what_pretrained_weights_have_seen_stays_recorded(tmp_path):
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    about = {"dataset": "D", "training": ["a"], "network": "mednext"}
    Run(tmp_path / "first", about=about).run()
    start = {"pretrained": tmp_path / "first" / "checkpoint_latest.pt", "about": {**about, "training": ["b"]}}
    with pytest.raises(KilledError):
        Run(tmp_path / "second", kill_at=STEPS + 1, **start).run()
    resumed = Run(tmp_path / "second", about={**about, "training": ["b"]})  # which does not name the file again
    resumed.run()
    for name in ("model.pt", "checkpoint_latest.pt"):
        recorded = read_about(tmp_path / "second" / name)
        assert recorded["training"] == ["b"]
        assert recorded["pretrained"]["training"] == ["a"]
        assert recorded["pretrained"]["file"] == "checkpoint_latest.pt"
        assert trained_cases([tmp_path / "second" / name]) == {"a", "b"}
    Run(tmp_path / "third", pretrained=tmp_path / "second" / "model.pt", about=about).run()
    assert read_about(tmp_path / "third" / "model.pt")["pretrained"]["pretrained"]["training"] == ["a"]


def test_weights_that_were_not_pretrained_record_nothing_of_it(tmp_path):
    Run(tmp_path, about={"dataset": "D", "training": ["a"]}).run()
    assert "pretrained" not in read_about(tmp_path / "model.pt")


def test_missing_pretrained_weights_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no\.pt: there is no such checkpoint file"):
        Run(tmp_path, pretrained=tmp_path / "no.pt").run()
