import errno

import pytest
from delivery_helpers import content, refused

from mednextv2.delivery.folders import put_in_place, writing_folder


def write(target, kept=None, error=None):
    with writing_folder(target, "output") as temporary:
        (temporary / "a").write_text("new")
        if error:
            raise error
        put_in_place(temporary, target, kept)


def test_a_folder_appears_when_it_is_complete(tmp_path):
    write(tmp_path / "new" / "x")
    assert content(tmp_path) == {"new/x/a": b"new"}


def test_the_folder_of_before_goes_or_is_kept(tmp_path):
    for kept in (None, tmp_path / "x_v0.1.0"):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / "a").write_text("old")
        write(tmp_path / "x", kept)
        assert content(tmp_path) == {"x/a": b"new"} | ({"x_v0.1.0/a": b"old"} if kept else {})


@pytest.mark.parametrize(
    "error", [KeyError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_after_an_error_all_is_as_before(error, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_text("old")
    if isinstance(error, OSError):
        assert f"{tmp_path / 'x'}: cannot be written (No space left on device)" in refused(
            write, tmp_path / "x", None, error
        )
    else:
        with pytest.raises(type(error)):
            write(tmp_path / "x", None, error)
    assert content(tmp_path) == {"x/a": b"old"}


def test_a_new_folder_that_cannot_be_renamed_leaves_the_old_one(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_text("old")
    for kept in (None, tmp_path / "kept"):
        with pytest.raises(FileNotFoundError):
            put_in_place(tmp_path / "missing", tmp_path / "x", kept)
    assert content(tmp_path) == {"x/a": b"old"}


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    (tmp_path / ".part-999999999-x").mkdir()
    write(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
