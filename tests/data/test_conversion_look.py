"""A short look through the cases: files that look damaged come first, and time is limited."""

import gzip

import numpy as np
import pytest
from converter_runs import truncate
from source_builders import AFFINE, image, labels, save

from mednextv2.data import conversion_look
from mednextv2.data.conversion_cases import Converted, DatasetFacts, Job, SourceCase
from mednextv2.data.conversion_look import look_through, looks_defective
from mednextv2.data.conversion_sources import read_labels

FACTS = DatasetFacts("organs", "Organs", ("CT",), {1: "liver"}, "", "")


def pair(folder, name="a"):
    return (
        save(folder / f"{name}_ct.nii.gz", image()),
        save(folder / f"{name}_mask.nii.gz", labels((1,))),
    )


def test_sound_files_do_not_look_defective(tmp_path):
    other = tmp_path / "a.txt"
    other.write_text("x")
    assert not looks_defective((*pair(tmp_path), save(tmp_path / "b.nii", image()), other))


@pytest.mark.parametrize(
    "change",
    [
        lambda ct, mask: truncate(ct),
        lambda ct, mask: ct.write_bytes(ct.read_bytes()[:-3]),
        lambda ct, mask: ct.write_bytes(b""),
        lambda ct, mask: ct.write_bytes(gzip.compress(b"text")),
        lambda ct, mask: mask.unlink(),
        lambda ct, mask: save(mask, labels((1,), (8, 7, 5))),
        lambda ct, mask: save(mask, labels((1,)), AFFINE * 2),
    ],
)
def test_files_that_are_cut_off_missing_or_do_not_fit_look_defective(change, tmp_path):
    files = pair(tmp_path)
    change(*files)
    assert looks_defective(files)


def test_a_file_without_compression_is_cut_off_and_any_other_is_empty(tmp_path):
    truncate(save(tmp_path / "a.nii", image()))
    (tmp_path / "b.png").touch()
    assert looks_defective((tmp_path / "a.nii",))
    assert looks_defective((tmp_path / "b.png",))


def read(case, options):
    return Converted(case.files[:1], read_labels(case.files[1], {1: 1}))


def jobs_of(folder, *names):
    return [
        Job(SourceCase(name, pair(folder / "source", name)), FACTS, read, {}, folder / "source", folder / "target")
        for name in names
    ]


def test_all_defects_of_a_small_data_set_are_found_and_nothing_is_written(tmp_path):
    jobs = jobs_of(tmp_path, "a", "b", "c", "d")
    truncate(jobs[3].case.files[0])
    save(jobs[1].case.files[1], labels((1, 2)))
    found, unread = look_through(jobs)
    assert [outcome.name for outcome in found] == ["d", "b"]  # the one that looked damaged first
    assert found[1].defect.startswith("b_mask.nii.gz: has the label values 2")
    assert unread == 0
    assert not (tmp_path / "target").exists()


def test_cases_for_which_there_is_no_time_are_counted(tmp_path, monkeypatch):
    jobs = jobs_of(tmp_path, "a", "b", "c", "d")
    truncate(jobs[2].case.files[0])
    clock = iter(np.arange(100.0))
    monkeypatch.setattr(conversion_look.time, "monotonic", lambda: next(clock))
    found, unread = look_through(jobs, seconds=7)  # the first half is for looking at files
    assert [outcome.name for outcome in found] == ["c"]
    assert unread == 1
