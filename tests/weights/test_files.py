"""Checkpoint files: read without running code from them, and written whole or not at all."""

import os
import stat
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from mednextv2.errors import InputError
from mednextv2.weights import load_file
from mednextv2.weights.files import save_file


class Attack:
    """Run a command when unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_threads_that_read_at_the_same_time_all_may(tmp_path):
    save_file({"loss": np.arange(3.0)}, tmp_path / "log.pt")
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(load_file, [tmp_path / "log.pt"] * 100))
    assert all(np.array_equal(each["loss"], np.arange(3.0)) for each in read)


def test_what_pytorch_may_read_elsewhere_stays(tmp_path):
    """A program's own list of harmless types, of which ours have some, too."""
    save_file({"loss": np.float64(0.5)}, tmp_path / "log.pt")
    before = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([np.dtype]):
        assert load_file(tmp_path / "log.pt") == {"loss": 0.5}
        assert set(torch.serialization.get_safe_globals()) == {*before, np.dtype}
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_numpy_numbers_and_arrays_are_harmless_inside_load_file_only(tmp_path):
    content = {"loss": np.float64(0.5), "dice": [np.float32(0.25)], "array": np.arange(6).reshape(2, 3)}
    torch.save(content, tmp_path / "numbers.pt")
    loaded = load_file(tmp_path / "numbers.pt")
    assert (loaded["loss"], loaded["dice"]) == (0.5, [0.25])
    np.testing.assert_array_equal(loaded["array"], content["array"])
    with pytest.raises(Exception, match="weights_only"):  # nothing is allowed for good
        torch.load(tmp_path / "numbers.pt", weights_only=True)


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numpy_content_is_read_whichever_numpy_wrote_it(tmp_path, core):
    """NumPy 1 names its functions after `numpy.core`, NumPy 2 after `numpy._core`."""
    torch.save({"loss": np.float64(0.5), "array": np.arange(3)}, tmp_path / "own.pt")
    with zipfile.ZipFile(tmp_path / "own.pt") as own, zipfile.ZipFile(tmp_path / "other.pt", "w") as other:
        for member in own.infolist():
            content = own.read(member).replace(b"numpy._core.", b"numpy.core.")
            other.writestr(member.filename, content.replace(b"numpy.core.", f"numpy.{core}.".encode()))
        assert f"numpy.{core}.multiarray".encode() in other.read(f"{Path(own.namelist()[0]).parts[0]}/data.pkl")
    loaded = load_file(tmp_path / "other.pt")
    assert (loaded["loss"], loaded["array"].tolist()) == (0.5, [0, 1, 2])


def test_a_saved_file_is_read_back_and_replaces_the_old_one(tmp_path):
    for value in (1.0, 2.0):
        save_file({"a": torch.full((3,), value)}, tmp_path / "model.pt")
        assert torch.equal(load_file(tmp_path / "model.pt")["a"], torch.full((3,), value))
        assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_a_failure_in_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    with pytest.raises(Exception, match="pickle"):
        save_file({"a": torch.zeros(3), "lock": threading.Lock()}, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_a_failure_in_writing_a_new_file_leaves_nothing(tmp_path):
    with pytest.raises(Exception, match="pickle"):
        save_file(threading.Lock(), tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    save_file({"a": torch.ones(3)}, tmp_path / "model.pt")

    def write_a_part(content, file):
        file.write(b"half of the file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", write_a_part)
    with pytest.raises(KeyboardInterrupt):
        save_file({"a": torch.zeros(3)}, tmp_path / "model.pt")
    assert torch.equal(load_file(tmp_path / "model.pt")["a"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_a_reader_never_sees_a_part(tmp_path, monkeypatch):
    path, seen, save = tmp_path / "model.pt", [], torch.save
    save_file({"a": torch.ones(3)}, path)

    def look_after_writing(content, file):
        save(content, file)
        file.flush()
        seen.append(load_file(path)["a"])

    monkeypatch.setattr(torch, "save", look_after_writing)
    save_file({"a": torch.zeros(3)}, path)
    assert torch.equal(seen[0], torch.ones(3))
    assert torch.equal(load_file(path)["a"], torch.zeros(3))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o027, 0o640)])
def test_permissions_follow_the_umask(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        save_file({"a": torch.ones(3)}, tmp_path / "model.pt")
        assert os.umask(umask) == umask  # left as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.pt").stat().st_mode) == mode


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(path):
    with pytest.raises(InputError) as caught:
        load_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "weights_only=False" not in message  # PyTorch's advice
    return message


@pytest.mark.parametrize("place", [lambda attack: attack, lambda attack: {"a": torch.ones(2), "b": [attack]}])
def test_code_in_a_file_is_named_and_not_run(tmp_path, place):
    torch.save(place(Attack(f"touch '{tmp_path / 'sentinel'}'")), tmp_path / "evil.pt")
    message = refused(tmp_path / "evil.pt")
    assert f"refused, since reading it would run code that it names ({os.system.__module__}.system)" in message
    assert "torch.save(network.state_dict(), path)" in message
    assert not (tmp_path / "sentinel").exists()


def test_what_is_not_there_or_a_folder_is_told(tmp_path):
    assert "there is no such checkpoint file" in refused(tmp_path / "none.pt")
    assert "is a folder, and holds no file of weights" in refused(tmp_path)
    (tmp_path / "fold_0").mkdir()
    for name in ("checkpoint_latest.pt", "model.pt"):
        save_file({}, tmp_path / "fold_0" / name)
    told = refused(tmp_path)
    assert f"give the file of weights in it, such as {tmp_path / 'fold_0' / 'model.pt'}" in told
    assert "(it holds fold_0/checkpoint_latest.pt, fold_0/model.pt)" in told


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_file_is_told_in_one_line(tmp_path, share):
    torch.save({"a": torch.randn(1000)}, tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: int(share * len(whole))])
    message = refused(tmp_path / "model.pt")
    assert "not a PyTorch checkpoint, or a damaged one" in message
    assert len(message.splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        save_file({"a": torch.ones(1)}, tmp_path / "file" / "model.pt")
    with pytest.raises(InputError, match="cannot be written"):
        save_file({"a": torch.ones(1)}, tmp_path / "none" / "model.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_lacking_permission_is_no_damage(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path / "model.pt"))

    save_file({"a": torch.ones(1)}, tmp_path / "model.pt")
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(InputError, match=r"model\.pt: this user may not read or write it"):
        load_file(tmp_path / "model.pt")
