"""What docs/comparing.md shows: the script for few labelled cases, and the options of its commands."""

import inspect
import json
import re
import shlex
from pathlib import Path

import pytest

from mednextv2.commands import VERBS
from mednextv2.commands.arguments import read_arguments
from mednextv2.data import kfold_indices

PAGE = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True) for line in re.findall(r"^mednextv2 .*", PAGE.replace("\\\n", " "), flags=re.M)
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c)[:60])
def test_commands_have_options_that_exist(command):
    verb = VERBS[command[1]]
    inspect.signature(verb).bind(**read_arguments(verb, command[2:]))


def test_the_script_chooses_ten_patients_with_all_of_their_images(tmp_path, monkeypatch):
    names = [f"patient{n:03}_frame{k:02}" for n in range(1, 31) for k in (1, 9)]
    for side in ("images", "labels"):
        (tmp_path / "DATASET_DIR" / side).mkdir(parents=True)
        for name in names:
            (tmp_path / "DATASET_DIR" / side / f"{name}.nii.gz").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    (script,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)
    exec(script, {})
    (few,) = json.loads((tmp_path / "few.json").read_text())
    training, validation = kfold_indices(30, 0)
    patients = {f"patient{n + 1:03}" for n in training}
    chosen = {name.split("_")[0] for name in few["train"]}
    assert len(chosen) == 10
    assert chosen < patients
    assert len(few["train"]) == 20
    assert {name.split("_")[0] for name in few["val"]} == {f"patient{n + 1:03}" for n in validation}
