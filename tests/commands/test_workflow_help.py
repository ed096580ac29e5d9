"""The help of `mednextv2 run BUNDLE WORKFLOW`."""

from pathlib import Path

import pytest
from verb_helpers import call

from mednextv2.bundle.run import find_bundle, workflow_files
from mednextv2.commands.workflow_help import read_settings_text
from mednextv2.settings import RULES


@pytest.mark.parametrize("workflow", ["train", "evaluate", "inference", "multi_gpu_train"])
def test_every_setting_that_is_checked_is_listed(workflow, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "run", "mednextv2_hippocampus", workflow, "--help")
    assert (code, err) == (0, "")
    listed = [line.split()[0][2:] for line in out.splitlines() if line.startswith("  --")]
    files = workflow_files(find_bundle("mednextv2_hippocampus"), workflow)
    texts = [Path(file).read_text(encoding="utf-8") for file in files]
    there = [name for name in RULES if any(f"\n{name}:" in text for text in texts)]
    assert len(there) > 9
    assert {*there, "device", "dataset_dir", "output_dir"} <= {*listed}
    assert not {"imports", "run", "initialize", "trainer", "network_def"} & {*listed}
    assert len(listed) == len({*listed})


def test_a_workflow_that_is_not_there_ends_with_one_message(monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "run", "mednextv2_hippocampus", "trian", "--help")
    assert (code, out) == (2, "")
    assert "has no workflow 'trian'; it has evaluate, finetune, inference" in err


@pytest.mark.parametrize("words", [["--network", "swin_unetr"], ["--network=swin_unetr"]])
def test_the_settings_of_another_network_are_listed_with_it(words, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "run", "mednextv2_hippocampus", "train", *words, "--help")
    assert (code, err) == (0, "")
    assert "swin_unetr.yaml" in out
    assert "mednextv2 run mednextv2_hippocampus train --network swin_unetr --NAME VALUE" in out
    assert "  --network_filters 48\n      feature size, a multiple of 12\n" in out
    assert "--network_settings" not in out
    assert call(monkeypatch, capsys, "run", "mednextv2_hippocampus", "train", "--network", "swin", "--help")[0] == 2


def test_values_and_comments_are_told_apart():
    text = """a: 1
b: "x # y"   # a text, with a sign
c: $os.cpu_count()
d: {_target_: Compose}
e: null                     # e.g. 'none', or #3
device: "$torch.device('cpu')"
"""
    assert read_settings_text([text, "a: 2  # twice\n", "a: 3\n"]) == [
        ("a", "3", "twice"),
        ("b", '"x # y"', "a text, with a sign"),
        ("e", "null", "e.g. 'none', or #3"),
        ("device", "\"$torch.device('cpu')\"", ""),
    ]
