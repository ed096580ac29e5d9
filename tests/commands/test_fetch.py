"""`mednextv2 fetch`: the folder that it names, and what it refuses; nothing here needs a network."""

import pytest
from delivery_helpers import NAME, release
from verb_helpers import call


@pytest.fixture
def hosts():
    import release_hosts

    with release_hosts.serving() as found:
        yield found


def test_the_folder_of_a_task_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "Task99_Own").mkdir()
    (tmp_path / "Task99_Own" / "dataset.json").write_text("{}")
    found = call(monkeypatch, capsys, "fetch", "Task99_Own", tmp_path)
    assert found == (0, f"{tmp_path / 'Task99_Own'}\n", "")


def test_a_folder_whose_name_is_a_number_is_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2024" / "7").mkdir(parents=True)
    (tmp_path / "2024" / "7" / "dataset.json").write_text("{}")
    assert call(monkeypatch, capsys, "fetch", "7", "2024") == (0, "2024/7\n", "")


def test_a_task_that_does_not_exist_ends_in_one_message_and_no_folder(tmp_path, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "fetch", "Task04_Hippocampous", tmp_path / "data")
    assert (code, out) == (1, "")
    assert err.startswith("error: Task04_Hippocampous: ")
    assert "Task04_Hippocampus" in err
    assert not (tmp_path / "data").exists()


def test_a_bundle_is_listed_fetched_and_found_again(tmp_path, monkeypatch, capsys, hosts):
    source = release(hosts, tmp_path / "release", "0.1.0", "0.2.0")
    where = (NAME, tmp_path / "bundles", "--source", source)
    assert call(monkeypatch, capsys, "fetch", *where, "--list") == (0, "0.1.0\n0.2.0\n", "")
    folder = tmp_path / "bundles" / NAME
    found = call(monkeypatch, capsys, "fetch", *where, "--version", "0.1.0")
    assert found == (0, f"{folder}: version 0.1.0, verified\n", "")
    assert call(monkeypatch, capsys, "fetch", *where)[1].endswith("verified; before, it was version 0.1.0\n")
    assert call(monkeypatch, capsys, "fetch", *where)[1].endswith("is as it was packed\n")


def test_a_bundle_without_a_source_is_refused(tmp_path, monkeypatch, capsys):
    for more in ((), ("--version", "0.1.0"), ("--list",)):
        code, out, err = call(monkeypatch, capsys, "fetch", NAME, tmp_path, *more)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {NAME}: where is this bundle? Give --source")
