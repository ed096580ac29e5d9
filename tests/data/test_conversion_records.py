"""Records of converted cases: digests of their files, by which a second run knows them."""

import pytest

from mednextv2.data.conversion_records import (
    FORM,
    RECORDS,
    UNFINISHED,
    digest,
    forget_case,
    is_complete,
    read_record,
    write_record,
)
from mednextv2.errors import InputError


def test_small_files_are_digested_as_a_whole(tmp_path):
    for size in (0, 1, 65_536, 65_537, 131_072):
        (tmp_path / "f").write_bytes(b"x" * size)
        assert digest(tmp_path / "f").startswith(f"{size} ")


def test_a_record_is_complete_as_long_as_its_files_are(tmp_path):
    (tmp_path / RECORDS).mkdir()
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    content = {"form": FORM, "files": {name: digest(tmp_path / name) for name in ("a", "b")}}
    write_record(tmp_path, "case", content)
    assert read_record(tmp_path, "case") == content
    assert is_complete(tmp_path, content)
    assert not is_complete(tmp_path, content | {"files": {"a": UNFINISHED}})
    (tmp_path / "b").write_text("c")
    assert not is_complete(tmp_path, content)
    (tmp_path / "b").unlink()
    assert not is_complete(tmp_path, content)
    forget_case(tmp_path, "case")
    assert [path.name for path in tmp_path.iterdir()] == [RECORDS]
    assert read_record(tmp_path, "case") is None


def test_records_of_another_form_count_as_none_and_damaged_ones_are_told(tmp_path):
    (tmp_path / RECORDS).mkdir()
    write_record(tmp_path, "case", {"form": FORM + 1, "files": {}})
    assert read_record(tmp_path, "case") is None
    (tmp_path / RECORDS / "case.json").write_text("{")
    with pytest.raises(InputError, match=r"case\.json.*delete it, so that the case is converted again"):
        read_record(tmp_path, "case")
