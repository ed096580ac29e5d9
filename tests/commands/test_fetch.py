"""`mednextv2 fetch`: the folder that it names, and what it refuses; nothing here needs a network."""

from verb_helpers import call


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
