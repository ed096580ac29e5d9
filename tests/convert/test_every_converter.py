"""What all converters have in common: their output can be used, is the same every time, and is resumed."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
from bundle_helpers import run_python
from converter_runs import ROOT, SCRIPTS, content, converted, description, load, names, passes_check, record, run
from source_builders import BUILDERS

from mednextv2.data import read_dataset, split_dataset

EVERY = pytest.mark.parametrize("name", BUILDERS)


def test_each_converter_has_a_builder_a_test_and_a_section():
    scripts = {path.stem for path in SCRIPTS.glob("*.py")}
    assert scripts == {*BUILDERS}
    assert {f"test_{name}.py" for name in scripts} <= {*names(ROOT / "tests" / "convert")}
    page = (ROOT / "docs" / "converting.md").read_text(encoding="utf-8")
    shown = [line.strip("`").split() for line in page.splitlines() if line.startswith("`python scripts/convert/")]
    assert [words[:4] for words in shown] == [_example(name)[:4] for name in BUILDERS]


def _example(name):
    """Return the words of the example in a converter's help."""
    (example,) = [line.split() for line in load(name).__doc__.splitlines() if line.startswith("    python ")]
    return example


@EVERY
def test_the_output_can_be_used_and_is_the_same_twice(name, tmp_path):
    target = converted(name, tmp_path)
    cases = passes_check(target)
    again = tmp_path / "again"
    assert run(name, _built(name, tmp_path / "source"), again)[0] == 0
    first = content(target)
    assert content(again) == first
    assert str(tmp_path).encode() not in b"".join(first.values())
    assert not [file for file in first if ".part-" in file or file.endswith(".in-use")]
    facts = load(name)
    labels = getattr(facts, "FACTS", None) or facts.facts({"modality": "ct", "task": 1})
    assert [*labels.labels] == [*range(1, len(labels.labels) + 1)]
    assert record(target)["labels"] == {str(value): text for value, text in labels.labels.items()}
    assert list(description(target)["channel_names"].values()) == list(labels.channels)
    assert {n for n, case in record(target)["cases"].items() if case["part"] == "training"} == {*cases}
    if (target / "splits_final.json").exists():
        assert split_dataset(read_dataset(target)).source.endswith("splits_final.json")


def _built(name, folder):
    inner = {
        "btcv": "RawData",
        "kits19": "kits19",
        "brats21": "BraTS2021_Training_Data",
        "oaizib_cm": "OAIZIB-CM",
        "ctspine1k": "CTSpine1K",
        "totalsegmentator": "Totalsegmentator_dataset_v201",
        "skm_tea": "skm-tea",
    }
    return folder / inner.get(name, "")  # fmt: skip


@EVERY
def test_a_second_run_skips_what_is_there_and_makes_the_rest_anew(name, tmp_path):
    target = converted(name, tmp_path)
    first = content(target)
    source = _built(name, tmp_path / "source")
    status, said = run(name, source, target)
    assert (status, content(target)) == (0, first)
    assert " 0 written" in said
    images = sorted((target / "imagesTr").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:100])  # as by a full disk of another program
    images[-1].unlink()
    times = {path: path.stat().st_mtime_ns for path in sorted((target / "labelsTr").iterdir())}
    status, said = run(name, source, target)
    assert (status, content(target)) == (0, first)
    written = len({path.name.rsplit("_", 1)[0] for path in (images[0], images[-1])})
    assert f" {written} written" in said
    kept = [path for path, time in times.items() if path.stat().st_mtime_ns == time]
    assert len(kept) == len(times) - written


@EVERY
def test_what_is_not_the_data_set_is_refused(name, tmp_path):
    (tmp_path / "wrong/photos").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "packed").mkdir()
    for file in (tmp_path / "packed/data.zip", tmp_path / "renamed"):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("imagesTr/a.nii.gz", b"")
    for folder, words in {
        "wrong": ["holds photos; give the "],
        "empty": ["holds nothing; give the "],
        "packed": ["holds data.zip, not unpacked; unpack it"],
        "renamed": ["is an archive (zip); unpack it"],
        "missing": ["there is no such folder"],
    }.items():
        status, said = run(name, tmp_path / folder, tmp_path / "target")
        assert status == 1
        assert said.startswith(f"error: {tmp_path / folder}: ")
        assert all(word in said for word in words), said
        assert not (tmp_path / "target").exists()


_COMMANDS = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as e:
        assert not e.code, words
"""


def test_each_runs_as_a_command_with_its_help_and_its_example(tmp_path):
    commands, examples = [], {}
    for name, build in BUILDERS.items():
        script = str(SCRIPTS / f"{name}.py")
        example = _example(name)
        assert example[:2] == ["python", f"scripts/convert/{name}.py"]
        examples[name] = build(tmp_path / name)
        commands += [[script, "--help"], [script, str(examples[name]), str(tmp_path / "out" / name), *example[4:]]]
        commands[-1] += ["--workers", "1"]
    done = run_python("-c", _COMMANDS, json.dumps(commands), PYTHONPATH=str(ROOT), timeout=1200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(BUILDERS)
    assert done.stdout.count("--defective {stop,exclude}") >= len(BUILDERS)
    assert names(tmp_path / "out") == sorted(BUILDERS)
    assert all((tmp_path / "out" / name / "dataset.json").is_file() for name in BUILDERS)
    assert "converting: 100%" in done.stderr


@pytest.mark.slow
@EVERY
def test_each_runs_in_parallel_in_a_process_of_its_own(name, tmp_path):
    target = converted(name, tmp_path)
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), str(_built(name, tmp_path / "source")), str(tmp_path / "b")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "b") == content(target)
