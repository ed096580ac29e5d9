"""The report of the check of a GPU, in a folder that has one already."""

import json
import sys
from pathlib import Path

import pytest

from mednextv2.errors import InputError

if not sys.platform.startswith("linux"):
    pytest.skip("Triton is for Linux", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import gpu_check_report
from gpu_check_helpers import read_stages

ENVIRONMENT = {"GPU": "some", "torch": "2.11", "clocks.sm": "345 MHz"}


def found(stage, started="now", environment=ENVIRONMENT, **more):
    empty = {"columns": ["a"], "rows": [[1.0]], "notes": [], "well": True, "status": "done", "error": None}
    own = {"stage": stage, "seconds": 1.0, "started": started, "environment": environment}
    return {**empty, **own, "variant": "v2_tiny", "patch": 32, **more}


def report_of(folder, *stages, environment=ENVIRONMENT):
    """Write a report as a run does; returns what it says about an earlier one."""
    report = gpu_check_report.Report(folder, False)
    said = report.take_over(environment)
    for stage in stages:
        report.add(stage)
    return said


def test_stages_of_an_earlier_run_stay_unless_they_are_run_again(tmp_path):
    assert report_of(tmp_path, *(found(name, "then") for name in ("environment", "steps", "training"))) is None
    later = {**ENVIRONMENT, "clocks.sm": "1980 MHz"}
    again = [found(name, "now", later, variant="v2_small") for name in ("environment", "steps", "tests")]
    missing = found("training", "now", later, status="left out", rows=[])
    assert report_of(tmp_path, *again, missing, environment=later) is None
    stages = read_stages(tmp_path)
    assert [(name, s["started"], s["variant"]) for name, s in stages.items()] == [
        ("environment", "now", "v2_small"), ("tests", "now", "v2_small"), ("steps", "now", "v2_small"),
        ("training", "then", "v2_tiny"),
    ]  # fmt: skip
    assert stages["training"]["rows"] == [[1.0]]
    page = (tmp_path / "gpu_check.md").read_text("utf-8")
    assert "| training | done | 1 | v2_tiny, 32³ | then |" in page
    note = "This stage is of an earlier run, then, when the GPU had clocks.sm 345 MHz (now 1980 MHz)."
    assert page.count("of an earlier run") == page.count(note) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"gpu_check.json", "gpu_check.md"}


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({**ENVIRONMENT, "GPU": "another"}, "is of another machine or version (GPU: some there, another here)"),
        ({**ENVIRONMENT, "torch": "2.13"}, "is of another machine or version (torch: 2.11 there, 2.13 here)"),
        ({**ENVIRONMENT, "triton": "3.9"}, "is of another machine or version (triton: None there, 3.9 here)"),
        ({"a": 1, "b": 2}, "(GPU: some there, None here; torch: 2.11 there, None here; a: None there, 1 here; …)"),
        ({}, "cannot be compared with this machine"),
    ],
)
def test_a_report_of_another_machine_or_version_is_kept_under_another_name(environment, reason, tmp_path):
    for number in (1, 2):
        report_of(tmp_path, found("environment", "then"), found("steps", "then"))
        said = report_of(tmp_path, found("environment", environment=environment), environment=environment)
        assert said.startswith(f"The report of an earlier run in {tmp_path} ")
        assert reason in said
        names = f"gpu_check-earlier-{number}.json and gpu_check-earlier-{number}.md"
        assert said.endswith(f"; it is kept as {names}.")
        assert list(read_stages(tmp_path)) == ["environment"]
        assert list(read_stages(tmp_path, f"gpu_check-earlier-{number}")) == ["environment", "steps"]
        for ending in (".json", ".md"):
            (tmp_path / "gpu_check").with_suffix(ending).unlink()


WHOLE = {"dry": False, "stages": [found("steps")]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is damaged"), ("[]", "is damaged"), ("{}", "is damaged"), ("\udcff", "is damaged"),
        (json.dumps(WHOLE)[:-9], "is damaged"),
        (json.dumps({**WHOLE, "stages": [found("stpes")]}), "is damaged"),
        (json.dumps({**WHOLE, "stages": [found("steps", environment=3)]}), "is damaged"),
        (json.dumps({**WHOLE, "stages": [found("steps", rows=[3])]}), "is damaged"),
        (json.dumps({**WHOLE, "stages": [{k: v for k, v in found("steps").items() if k != "started"}]}), "is damaged"),
        (json.dumps({**WHOLE, "stages": [found("steps", environment={})]}), "does not tell from which machine it is"),
        (None, "has no gpu_check.json beside it"),
    ],
)  # fmt: skip
def test_a_damaged_report_is_kept_under_another_name(text, reason, tmp_path):
    name = "gpu_check.json" if text is not None else "gpu_check.md"
    content = (text or "").encode("utf-8", "surrogateescape")
    (tmp_path / name).write_bytes(content)
    said = report_of(tmp_path, found("environment"))
    assert f" {reason}" in said
    other = f"gpu_check-earlier-1{Path(name).suffix}"
    assert said.endswith(f"it is kept as {other}.")
    assert (tmp_path / other).read_bytes() == content
    assert list(read_stages(tmp_path)) == ["environment"]


def test_a_report_that_cannot_be_read_is_a_mistake(tmp_path):
    (tmp_path / "gpu_check.json").mkdir()
    with pytest.raises(InputError, match=r"gpu_check.json: cannot be read or renamed \(Is a directory\)"):
        report_of(tmp_path, found("environment"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.00"), (12.345, "12.3"), (123.4, "123"), (1234.5, "1234"), (7, "7"), ("a|b", "a\\|b"),
     ("/home/me/x/run.py: bad", "run.py: bad"), (0.000123456, "0.000123")],
)  # fmt: skip
def test_cells(value, text):
    assert gpu_check_report.format_cell(value) == text
