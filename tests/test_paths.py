"""Folders that results go to, of which none is left behind empty, and temporary files."""

import os
import subprocess

import pytest

from mednextv2 import paths
from mednextv2.errors import InputError
from mednextv2.paths import expand, new_folder, try_folder


def test_trying_a_folder_leaves_no_new_one(tmp_path):
    (tmp_path / "there").mkdir()
    try_folder(tmp_path / "there" / "a" / "b", "output_dir")
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    try_folder(tmp_path / "there", "output_dir")
    assert (tmp_path / "there").is_dir()


def test_a_folder_that_cannot_be_made_is_refused_by_its_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output_dir .*file/out: cannot be written .*--output_dir"):
        try_folder(tmp_path / "file" / "out", "output_dir")
    name = "x" * 300  # made as far as names are short enough
    with pytest.raises(InputError, match="cannot be written"):
        try_folder(tmp_path / "a" / "b" / name, "output_dir")
    assert list(tmp_path.rglob("*")) == [tmp_path / "file"]


def make_and_fail(folder, error, file=None):
    with new_folder(folder, "output") as made:
        assert made.is_dir()
        if file:
            (made / file).write_text("")
        raise error


def test_a_new_folder_goes_when_nothing_came_into_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make_and_fail(tmp_path / "a" / "b", KeyboardInterrupt)
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="late"):
        make_and_fail(tmp_path / "a" / "b", ValueError("late"), "mask")
    assert (tmp_path / "a" / "b" / "mask").exists()
    with new_folder(tmp_path / "c", "output"):
        pass
    assert (tmp_path / "c").is_dir()


def test_leftovers_of_processes_that_are_gone_are_removed(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    here, there = paths._host(), "0" * 8
    gone = [f".part-{ended.pid}-model.pt", f".part-{ended.pid}.{here}-model.pt", f".part-{ended.pid}.{there}-old.pt"]
    stay = [
        f".part-{os.getpid()}.{here}-model.pt",
        f".part-{ended.pid}.{there}-new.pt",
        ".part-x",
        "model.pt",
        ".part-1-a",
    ]
    for name in (*gone, *stay):
        (tmp_path / name).touch()
    os.utime(tmp_path / gone[2], (0, 0))
    (tmp_path / f".part-{ended.pid}.{here}-data" / "imagesTr").mkdir(parents=True)
    paths.remove_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(stay)  # process 1 is alive


def test_a_path_that_can_be_no_path_is_refused_and_others_may_be_missing(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / ("x" * 300), "x/" * 3000, tmp_path / "circle", "~no.such.user/x", "a\0b"):
        with pytest.raises(InputError, match=r"cannot be used as a path .*; give another one"):
            expand(path)
    for path in (tmp_path / "missing", tmp_path / "file" / "x", tmp_path, ""):
        assert os.fspath(expand(path)) == (os.fspath(path) or ".")


def test_home_is_put_for_its_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/a") == tmp_path / "a"
