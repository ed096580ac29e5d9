"""Preparations that were interrupted, and stored files that are damaged, mixed or stale."""

import errno
import logging
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from prepared_helpers import SHAPE, Loading, files, item, make_store

from mednextv2.errors import InputError


def test_case_whose_preprocessing_failed_is_done_by_the_next_call(tmp_path):
    items, transform = [item(tmp_path, name) for name in "abc"], Loading()
    transform.fails = {"b"}
    with pytest.raises(RuntimeError, match="the power went off"):
        make_store(tmp_path, transform).prepare(items)
    assert "a.case.json" in files(tmp_path)
    assert not [name for name in files(tmp_path) if name.startswith("b.")]
    done, transform.calls, transform.fails = {n[0] for n in files(tmp_path)}, [], set()
    cases = make_store(tmp_path, transform).prepare(items)
    assert transform.calls == [name for name in "abc" if name not in done]
    assert all(np.array_equal(c.label, np.load(i["label"])) for c, i in zip(cases, items, strict=True))


def test_failed_renewal_of_a_case_leaves_it_not_done(tmp_path):
    items, transform = [item(tmp_path, "a")], Loading()
    make_store(tmp_path, transform).prepare(items)
    os.utime(items[0]["image"], ns=(0, 0))
    transform.fails = {"a"}
    with pytest.raises(RuntimeError):
        make_store(tmp_path, transform).prepare(items)
    assert "a.case.json" not in files(tmp_path)
    transform.fails = set()
    make_store(tmp_path, transform).prepare(items)
    assert transform.calls == ["a", "a", "a"]


@pytest.mark.parametrize("part", ["image.npy", "label.npy", "positions.npy", "case.json"])
def test_kill_while_a_part_is_written_leaves_the_case_not_done(tmp_path, monkeypatch, part):
    items, transform, whole = [item(tmp_path, "a")], Loading(), os.replace

    def killed(source, target):
        if str(target).endswith(part):
            raise KeyboardInterrupt
        return whole(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda self, target: killed(self, target))
        with pytest.raises(KeyboardInterrupt):
            make_store(tmp_path, transform).prepare(items)
    assert "a.case.json" not in files(tmp_path)
    assert not [name for name in files(tmp_path) if name.startswith(".")]
    (case,) = make_store(tmp_path, transform).prepare(items)
    assert transform.calls == ["a", "a"]
    assert np.array_equal(case.label, np.load(items[0]["label"]))


@pytest.mark.parametrize("text", [None, "", "{", "{}", "[]", "3"])
def test_case_with_a_missing_or_damaged_description_is_prepared_anew(tmp_path, text):
    items, transform = [item(tmp_path, "a")], Loading()
    (case,) = make_store(tmp_path, transform).prepare(items)
    if text is None:
        case.file("case.json").unlink()
    else:
        case.file("case.json").write_text(text)
    (case,) = make_store(tmp_path, transform).prepare(items)
    assert transform.calls == ["a", "a"]
    assert sum(case.counts) == np.count_nonzero(case.label)


def test_no_temporary_files_are_left(tmp_path):
    make_store(tmp_path).prepare([item(tmp_path, "a")])
    assert files(tmp_path) == ["a.case.json", "a.image.npy", "a.label.npy", "a.positions.npy"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_named_with_the_file(tmp_path, monkeypatch, code):
    def full(*given, **named):
        raise OSError(code, os.strerror(code))

    items = [item(tmp_path, "a")]
    monkeypatch.setattr("mednextv2.data.prepared_store.np.save", full)
    with pytest.raises(InputError, match="cannot be written") as caught:
        make_store(tmp_path).prepare(items)
    assert ".image.npy" in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert files(tmp_path) == []


def test_folder_that_cannot_be_written_is_named_with_its_setting(tmp_path):
    (tmp_path / "prepared").write_text("a file")  # read-only folders do not stop the superuser
    with pytest.raises(InputError, match=r"prepared_dir .*cannot be written .*--prepared_dir"):
        make_store(tmp_path).prepare([item(tmp_path, "a")])


# --- damaged, mixed and stale ----------------------------------------------------------------------------------------


def touch_like(file, content):
    """Exchange a file's content without changing the times that anybody can set."""
    status = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("part", ["image.npy", "label.npy", "positions.npy"])
@pytest.mark.parametrize("change", ["cut", "zeros", "empty", "gone", "one bit"])
def test_damaged_parts_are_noticed_and_prepared_anew(tmp_path, caplog, part, change):
    items, transform = [item(tmp_path, name) for name in "ab"], Loading()
    case, _ = make_store(tmp_path, transform).prepare(items)
    file = case.file(part)
    raw = file.read_bytes()
    middle = len(raw) // 2
    changed = {
        "cut": raw[:middle], "zeros": raw[:128] + bytes(len(raw) - 128), "empty": b"",
        "one bit": raw[:middle] + bytes([raw[middle] ^ 16]) + raw[middle + 1 :],
    }  # fmt: skip
    file.unlink() if change == "gone" else touch_like(file, changed[change])
    transform.calls = []
    make_store(tmp_path, transform).prepare(items)
    assert transform.calls == ["a"]
    assert file.read_bytes() == raw
    assert f"case a: its prepared files ({part}) were damaged, and are prepared anew" in caplog.text


def test_parts_that_were_touched_and_are_whole_are_kept(tmp_path, caplog):
    items, transform = [item(tmp_path, "a")], Loading()
    (case,) = make_store(tmp_path, transform).prepare(items)
    os.utime(case.file("image.npy"), ns=(0, 0))
    make_store(tmp_path, transform).prepare(items)
    assert transform.calls == ["a"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_cases_of_one_name_in_two_data_sets_do_not_meet(tmp_path):
    folders = [tmp_path / name for name in "xy"]
    items = []
    for seed, folder in enumerate(folders):
        folder.mkdir()
        items.append(item(folder, "a", seed=seed))
    cases = [make_store(tmp_path).prepare([entry])[0] for entry in (*items, *items)]
    assert cases[0].file("image.npy") == cases[2].file("image.npy") != cases[1].file("image.npy")
    for case, entry in zip(cases, items * 2, strict=True):
        assert np.array_equal(case.image, np.load(entry["image"]).astype(np.float16))


def test_a_source_that_was_exchanged_under_its_old_time_is_prepared_anew(tmp_path):
    entry, transform = item(tmp_path, "a"), Loading()
    make_store(tmp_path, transform).prepare([entry])
    other = np.load(entry["image"])[::-1]
    np.save(tmp_path / "other.npy", other)
    touch_like(Path(entry["image"]), (tmp_path / "other.npy").read_bytes())
    (case,) = make_store(tmp_path, transform).prepare([entry])
    assert np.array_equal(case.image, other.astype(np.float16))


@pytest.mark.parametrize("value", [7, 1.5, np.nan, -1])
def test_values_that_the_task_does_not_have_are_refused(tmp_path, value):
    label = np.zeros(SHAPE, np.float32)
    label[0, 0, 0] = value
    nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / "l.nii.gz")
    entry = {**item(tmp_path, "a"), "label": str(tmp_path / "l.nii.gz")}
    with pytest.raises(InputError, match=r"l\.nii\.gz: has voxel values"):
        make_store(tmp_path).prepare([entry])
    assert files(tmp_path) == []


def test_leftovers_of_a_killed_preparation_are_removed(tmp_path):
    store = make_store(tmp_path)
    store.folder.mkdir(parents=True)
    (store.folder / ".part-999999999-a.image.npy").touch()
    store.prepare([item(tmp_path, "a")])
    assert not list(store.folder.glob(".part-*"))


def test_what_is_no_file_where_a_case_s_facts_are_is_neither_waited_for_nor_read(tmp_path):
    items, transform = [item(tmp_path, "a")], Loading()
    (case,) = make_store(tmp_path, transform).prepare(items)
    facts = case.file("case.json")
    facts.unlink()
    os.mkfifo(facts)
    make_store(tmp_path, transform).prepare(items)
    facts.unlink()
    facts.symlink_to("/dev/zero")
    make_store(tmp_path, transform).prepare(items)
    assert transform.calls == ["a", "a", "a"]
    facts.unlink()
    facts.mkdir()
    with pytest.raises(InputError, match=r"prepared_dir .*case\.json: cannot be removed .*; delete the folder above"):
        make_store(tmp_path, transform).prepare(items)
