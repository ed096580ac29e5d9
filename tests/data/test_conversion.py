"""The engine of the converters: parallel as serial, resumed after a kill, and nothing that was there is lost."""

import json
import os
import signal
import subprocess
import sys
import time

import fatal_converter
import nibabel as nib
import numpy as np
import pytest
from converter_runs import ROOT, SCRIPTS, content, names, passes_check, record, run
from source_builders import KITS_AFFINE, image, kits19, labels, save

from mednextv2.data.conversion import describe, run_conversion
from mednextv2.data.conversion_cases import Converted, DatasetFacts, ExcludedError, SourceCase
from mednextv2.data.conversion_sources import Found
from mednextv2.errors import InputError
from mednextv2.locks import hold_folder, release_folder

FACTS = DatasetFacts("organs", "Organs", ("CT",), {1: "liver"}, "https://example.org", "CC0")
VOLUME = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def read_case(case, options):
    """Read a case whose file says what is wrong with it."""
    text = case.files[0].read_text()
    if text == "defect":
        raise InputError(f"{case.files[0]}: is damaged; copy it again")
    if text == "known":
        raise ExcludedError(f"{case.files[0]}: is of a cat")
    volume = VOLUME + len(text)
    return Converted([(volume, np.eye(4))], ((VOLUME > 3).astype(np.uint8), np.eye(4)), [f"a note on {text}"])


def source_of(tmp_path, **texts):
    """Write a file for each case; returns the folder and what was found in it."""
    folder = tmp_path / "source"
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder, Found(cases=[SourceCase(name, (folder / f"{name}.txt",)) for name in texts])


def convert(tmp_path, found, target="target", convert=read_case, facts=FACTS, **more):
    options = more.pop("options", {})
    return run_conversion(facts, found, convert, tmp_path / "source", tmp_path / target, options, **more)


def refused(tmp_path, found, *arguments, **more):
    with pytest.raises(InputError) as caught:
        convert(tmp_path, found, *arguments, **more)
    return str(caught.value)


def test_cases_are_written_described_and_summed_up(tmp_path):
    _, found = source_of(tmp_path, b="two", a="one", c="known", t="test")
    found.cases[-1] = SourceCase("t", found.cases[-1].files, "Ts")
    found.excluded["x"] = "is one too many"
    found.ignored = [tmp_path / "source/readme.txt"]
    found.notes = ["the voxel size was guessed"]
    found.split = [(["a"], ["b"]), (["b", "c"], ["a"])]
    summary = convert(tmp_path, found)
    target = tmp_path / "target"
    assert summary.written == ("a", "b", "t")
    assert {*summary.excluded} == {"c", "x"}
    assert passes_check(target) == ["a", "b"]
    assert names(target / "labelsTs") == ["t.nii.gz"]
    assert json.loads((target / "splits_final.json").read_text()) == [
        {"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}
    ]  # fmt: skip
    assert record(target)["excluded"] == {"c": "c.txt: is of a cat", "x": "is one too many"}
    assert record(target)["cases"]["b"]["notes"] == ["a note on two"]
    expected = """2 training cases, 1 test case: 3 written
2 cases excluded:
- c: c.txt: is of a cat
- x: is one too many
1 file or folder ignored: readme.txt
note: the voxel size was guessed
note (1 case): a note on one
note (1 case): a note on test
note (1 case): a note on two"""
    assert summary.text == expected
    assert str(tmp_path) not in summary.text


def test_defects_stop_at_the_end_and_what_was_written_is_skipped_by_the_next_run(tmp_path):
    folder, found = source_of(tmp_path, a="one", b="defect", c="two")
    message = refused(tmp_path, found)
    assert message.startswith(
        f"1 case of {folder} cannot be converted:\n- b: b.txt: is damaged; copy it again\n2 other cases can be used"
    )
    assert "--defective exclude" in message
    assert not (tmp_path / "target/dataset.json").exists()
    summary = convert(tmp_path, found, exclude_defective=True)
    assert (summary.written, summary.skipped) == ((), ("a", "c"))
    assert passes_check(tmp_path / "target") == ["a", "c"]
    (folder / "b.txt").write_text("mended")
    summary = convert(tmp_path, found)
    assert (summary.written, summary.skipped, dict(summary.excluded)) == (("b",), ("a", "c"), {})


def test_a_case_whose_source_changed_is_converted_again_or_removed(tmp_path):
    folder, found = source_of(tmp_path, a="one", b="two")
    convert(tmp_path, found)
    (folder / "b.txt").write_text("twelve")
    assert convert(tmp_path, found).written == ("b",)
    np.testing.assert_array_equal(nib.load(tmp_path / "target/imagesTr/b_0000.nii.gz").dataobj, VOLUME + 6)
    (folder / "b.txt").write_text("defect")
    convert(tmp_path, found, exclude_defective=True)
    assert names(tmp_path / "target/imagesTr") == ["a_0000.nii.gz"]  # and none of the old source
    assert names(tmp_path / "target/labelsTr") == ["a.nii.gz"]


def test_cases_of_one_reason_are_one_line(tmp_path):
    _, found = source_of(tmp_path, z="one")
    found.excluded = {f"case{n}": "is MR" for n in range(9)} | {"y": "is PET"}
    summary = convert(tmp_path, found)
    assert "10 cases excluded:\n- case0, case1, case2 and 6 more: is MR\n- y: is PET" in summary.text
    found.incomplete = {f"c{n:02d}": f"lacks file {n}" for n in range(60)}
    message = refused(tmp_path, found)
    assert message.startswith(f"60 cases of {tmp_path / 'source'} cannot be converted:\n- c00: lacks file 0\n")
    assert "- c09: lacks file 9\n- … and 50 more cases\n1 other case can be used. Mend these cases" in message


def test_a_run_that_was_killed_at_its_beginning_goes_on(tmp_path):
    _, found = source_of(tmp_path, a="one")
    (tmp_path / "target/.conversion").mkdir(parents=True)
    assert convert(tmp_path, found).written == ("a",)


def test_incomplete_cases_stop_before_anything_is_written(tmp_path):
    folder, found = source_of(tmp_path, a="one")
    found.incomplete = {"b": f"{folder}/b.txt: has no label map"}
    message = refused(tmp_path, found)
    assert message.startswith(
        f"1 case of {folder} cannot be converted:\n- b: b.txt: has no label map\n1 other case can"
    )
    assert "add --defective exclude" in message
    assert not (tmp_path / "target").exists()
    assert convert(tmp_path, found, exclude_defective=True).excluded == {"b": "b.txt: has no label map"}


def test_names_that_are_no_text_are_no_obstacle(tmp_path):
    def read(case, options):
        made = read_case(case, options)
        return Converted(made.images, made.label, ["a structure named \udcff\0"])

    _, found = source_of(tmp_path, a="one")
    found.ignored = [tmp_path / "source" / os.fsdecode(b"\xff.txt")]
    convert(tmp_path, found, convert=read)
    assert record(tmp_path / "target")["ignored"] == ["?.txt"]
    assert record(tmp_path / "target")["cases"]["a"]["notes"] == ["a structure named ??"]
    assert convert(tmp_path, found, convert=read).skipped == ("a",)


def test_targets_that_hold_something_else_are_refused_and_left_alone(tmp_path):
    folder, found = source_of(tmp_path, a="one", b="two")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("precious")
    assert "holds thesis.txt and no conversion; give a new folder" in refused(tmp_path, found, "mine")
    assert names(tmp_path / "mine") == ["thesis.txt"]
    convert(tmp_path, found)
    before = content(tmp_path / "target")
    assert "with other options (--task was not given and is now 2)" in refused(tmp_path, found, options={"task": 2})
    other = DatasetFacts("others", "Others", ("CT",), {1: "liver"}, "", "")
    assert "a conversion of another data set (organs, not others)" in refused(tmp_path, found, facts=other)
    fewer = Found(cases=found.cases[:1])
    assert "holds 1 case that would not be converted now (b)" in refused(tmp_path, fewer)
    assert "lie in each other" in refused(tmp_path, found, "source/target")
    assert "lie in each other" in refused(tmp_path, found, ".")
    assert content(tmp_path / "target") == before
    assert folder.is_dir()


def test_a_target_to_which_another_process_writes_is_refused(tmp_path):
    _, found = source_of(tmp_path, a="one")
    (tmp_path / "target").mkdir()
    code = (
        "import sys, time; from mednextv2.locks import hold_folder; hold_folder(sys.argv[1], 'x'); print(1, flush=True)"
    )
    command = [sys.executable, "-c", f"{code}; time.sleep(60)", str(tmp_path / "target")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as holder:
        holder.stdout.readline()
        try:
            assert f"process {holder.pid} " in refused(tmp_path, found)
        finally:
            holder.kill()
    assert convert(tmp_path, found).written == ("a",)
    hold_folder(tmp_path / "target", "target")  # was released
    release_folder(tmp_path / "target")


def test_two_cases_of_one_name_and_no_training_case_are_refused(tmp_path):
    folder, found = source_of(tmp_path, a="one")
    twice = Found(cases=[*found.cases, *found.cases])
    assert "several cases have the name a; remove the copies" in refused(tmp_path, twice)
    assert "has no complete training case" in refused(tmp_path, Found())
    (folder / "a.txt").write_text("defect")
    message = refused(tmp_path, found, "empty", exclude_defective=True)
    assert "no training case could be converted" in message
    assert "a.txt: is damaged" in message
    assert not (tmp_path / "empty/dataset.json").exists()


def test_descriptions_have_classes_or_regions():
    assert describe(FACTS, 3)["labels"] == {"background": 0, "liver": 1}
    facts = DatasetFacts("t", "T", ("MR",), {1: "a", 2: "b"}, "", "", {"whole": (1, 2), "core": (2,)}, (1, 2))
    found = describe(facts, 3)
    assert found["labels"] == {"background": 0, "whole": [1, 2], "core": 2}
    assert found["regions_class_order"] == [1, 2]


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_with_one_message_and_the_rest_goes_on(tmp_path):
    _, found = source_of(tmp_path, a="one", b="two", c="three")
    message = refused(tmp_path, found, convert=fatal_converter.convert, workers=2)
    assert message.startswith("workers: a process was killed, probably by the system for lack of memory; give fewer")
    assert not (tmp_path / "target/dataset.json").exists()
    summary = convert(tmp_path, found)
    assert {*summary.written, *summary.skipped} == {"a", "b", "c"}


def test_a_killed_run_in_parallel_goes_on_and_equals_a_serial_one(tmp_path):
    source = kits19(tmp_path / "source")
    for number in range(2, 45):
        noise = image(number, (40, 40, 32))
        save(source / f"data/case_{number:05d}/imaging.nii.gz", noise, KITS_AFFINE)
        save(source / f"data/case_{number:05d}/segmentation.nii.gz", labels((1, 2), noise.shape), KITS_AFFINE)
    command = [sys.executable, str(SCRIPTS / "kits19.py"), str(source), str(tmp_path / "killed"), "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, start_new_session=True) as process:
        while len(names(tmp_path / "killed/.conversion")) < 4 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/dataset.json").exists()
    deadline = time.monotonic() + 120  # on a busy machine
    while _has_processes(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _has_processes(process.pid)  # the workers have ended, too
    status, said = run("kits19", source, tmp_path / "killed")
    assert status == 0, said
    assert " skipped, since they were there already" in said
    assert " 0 written" not in said
    status, said = run("kits19", source, tmp_path / "serial")
    assert status == 0, said
    assert content(tmp_path / "killed") == content(tmp_path / "serial")


def _has_processes(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
