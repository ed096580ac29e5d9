"""`mednextv2 compare`: what it hands over; the comparison itself is in tests/comparison."""

from types import SimpleNamespace

import pytest
from verb_helpers import call_verb

from mednextv2.comparison import compare


def stand_in(monkeypatch, complete=True):
    asked = []
    result = SimpleNamespace(complete=complete, entry=SimpleNamespace(name="v1_s"))

    def compare_networks(*arguments):
        asked.append(arguments)
        return SimpleNamespace(results=[result], files=["out/comparison.csv"], text="the table")

    monkeypatch.setattr(compare, "compare_networks", compare_networks)
    return asked


def test_options_are_handed_over(monkeypatch, tmp_path):
    asked = stand_in(monkeypatch)
    options = [
        "--minutes",
        "1.5",
        "--seeds",
        "0,3",
        "--folds",
        "1",
        "--bundle",
        "b",
        "--batch_size",
        "2",
        "--memory",
        "8",
    ]
    code, out, err = call_verb("compare", tmp_path, "v1_s,v2_tiny", *options, "--labels_dir", "labels")
    assert (code, err) == (0, "")
    assert out == "the table\nwritten: out/comparison.csv\n"
    ((request, folder, bundle, memory),) = asked
    assert (request.dataset_dir, request.labels_dir) == (str(tmp_path), "labels")
    assert [e.network for e in request.entries] == ["v1_s", "v2_tiny"]
    assert (request.seeds, request.folds, request.epochs, request.minutes) == ([0, 3], [1], None, 1.5)
    assert request.settings == {"batch_size": 2}
    assert (bundle, memory) == ("b", 8.0)
    assert folder.parts[-2:] == ("comparisons", tmp_path.name)


def test_networks_can_be_an_option(monkeypatch, tmp_path):
    asked = stand_in(monkeypatch)
    assert call_verb("compare", tmp_path, "--networks", "v1_s", "--epochs", 1)[0] == 0
    assert asked[0][0].entries[0].network == "v1_s"


def test_an_incomplete_comparison_ends_with_status_1_and_one_line(monkeypatch, tmp_path):
    stand_in(monkeypatch, complete=False)
    code, out, err = call_verb("compare", tmp_path, "v1_s", "--epochs", 1, "--output", tmp_path)
    assert code == 1
    assert "the table" in out
    assert err == (
        f"error: 1 network of 1 could not be compared (v1_s); {tmp_path / 'comparison.md'} says why, and the same "
        "command tries again\n"
    )


def test_ctrl_c_ends_with_one_sentence(monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt("stopped by Ctrl-C; the same command goes on")

    monkeypatch.setattr(compare, "compare_networks", stop)
    code, _, err = call_verb("compare", tmp_path, "v1_s", "--epochs", 1)
    assert (code, err) == (130, "stopped by Ctrl-C; the same command goes on\n")


@pytest.mark.parametrize("networks", ["v2_tinyy", "segresnett"])
def test_an_unknown_network_is_refused_at_once(networks, tmp_path):
    code, _, err = call_verb("compare", tmp_path, networks, "--epochs", 1)
    assert code == 2
    assert f"there is no network {networks}; did you mean {networks[:-1]}" in err
