import os
import stat
import zipfile

import pytest
from delivery_helpers import content, hand_made_zip, refused

from mednextv2.delivery.archive import check_path, unpack_archive, write_archive

FILES = {"configs/a.json": b"{}" * 500, "LICENSE": b"text", "models/model.pt": bytes(range(256)) * 50}


@pytest.fixture
def target(tmp_path):
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def test_what_is_written_is_unpacked(tmp_path, target):
    write_archive(tmp_path / "x.zip", "x", FILES)
    assert content(unpack_archive(tmp_path / "x.zip", "x", target, "here")) == FILES


def test_bytes_do_not_depend_on_time_order_or_modes(tmp_path):
    (tmp_path / "file").write_bytes(FILES["models/model.pt"])
    write_archive(tmp_path / "1.zip", "x", FILES)
    os.utime(tmp_path / "file", (0, 2e9))
    (tmp_path / "file").chmod(0o700)
    write_archive(tmp_path / "2.zip", "x", dict(reversed([*FILES.items()])) | {"models/model.pt": tmp_path / "file"})
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert archive.namelist() == ["x/LICENSE", "x/configs/a.json", "x/models/model.pt"]
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {stat.S_IFREG | 0o644}


def as_link(name):
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([("x/../../evil", "")], "no plain path"),
        ([("../evil", "")], "no plain path"),
        ([("/etc/evil", "")], "no plain path"),
        ([("x//evil", "")], "no plain path"),
        ([("x/a\\..\\evil", "")], "no plain path"),
        ([("C:/evil", "")], "no plain path"),
        ([("x/./a", "")], "no plain path"),
        ([("y/a", "")], "not in the folder x"),
        ([("a", "")], "not in the folder x"),
        ([(as_link("x/link"), "/etc/passwd")], "a link or a device"),
        ([("x/a", "1"), ("x/A", "2")], "stands twice"),
        ([("x/a", b"0" * 101 * 2**20)], "which no bundle does"),
    ],
)
def test_an_archive_that_would_do_harm_is_refused_whole(entries, words, tmp_path, target):
    hand_made_zip(tmp_path / "x.zip", [("x/good", "text"), *entries])
    message = refused(unpack_archive, tmp_path / "x.zip", "x", target, "https://host/x.zip")
    assert message.startswith("https://host/x.zip: refused, since")
    assert words in message
    assert list(target.iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_too_many_files_are_refused(tmp_path, target, monkeypatch):
    monkeypatch.setattr("mednextv2.delivery.archive._MOST", 10)
    hand_made_zip(tmp_path / "x.zip", [(f"x/{i}", "") for i in range(11)])
    assert "11 files" in refused(unpack_archive, tmp_path / "x.zip", "x", target, "here")


def test_an_encrypted_archive_is_refused(tmp_path, target):
    raw = bytearray(hand_made_zip(tmp_path / "x.zip", [("x/a", "text")]).read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory at its end
    (tmp_path / "x.zip").write_bytes(raw)
    assert "is encrypted" in refused(unpack_archive, tmp_path / "x.zip", "x", target, "here")


def test_an_archive_that_declares_less_than_it_holds_is_refused(tmp_path, target):
    raw = bytearray(hand_made_zip(tmp_path / "x.zip", [("x/a", "text" * 100)]).read_bytes())
    at = raw.index(b"PK\x01\x02") + 24  # the size when unpacked, in the directory at its end
    raw[at : at + 4] = (5).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(raw)
    assert "damaged" in refused(unpack_archive, tmp_path / "x.zip", "x", target, "here")


@pytest.mark.parametrize("part", [0.5, 0.99])
def test_a_truncated_archive_is_refused(part, tmp_path, target):
    write_archive(tmp_path / "x.zip", "x", FILES)
    raw = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(raw[: int(len(raw) * part)])
    message = refused(unpack_archive, tmp_path / "x.zip", "x", target, "https://host/x.zip")
    assert message.startswith("https://host/x.zip: is no ZIP archive, or a damaged or truncated one")


def test_damage_within_a_file_is_noticed(tmp_path, target):
    write_archive(tmp_path / "x.zip", "x", {"a": os.urandom(5000)})
    raw = bytearray((tmp_path / "x.zip").read_bytes())
    raw[2000] ^= 255
    (tmp_path / "x.zip").write_bytes(raw)
    assert "damaged" in refused(unpack_archive, tmp_path / "x.zip", "x", target, "here")


def test_a_disk_without_space_is_named_before_anything_is_written(tmp_path, target, monkeypatch):
    write_archive(tmp_path / "x.zip", "x", FILES)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    assert "make room" in refused(unpack_archive, tmp_path / "x.zip", "x", target, "here")
    assert list(target.iterdir()) == []


def test_paths_of_a_bundle_are_allowed():
    for name in ("configs/train.json", "mednextv2/ops/_a b.py", ".gitattributes", "x/"):
        check_path(name, "here")
