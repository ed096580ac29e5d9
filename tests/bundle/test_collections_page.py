"""The page about collections: its file is read, its keys are all keys, and its commands work."""

import re
import shlex
import shutil

import pytest
import yaml
from bundle_helpers import BUNDLES, ROOT
from collection_runs import make_parts
from dataset_helpers import run_verbs

from mednextv2.data import make_task_phantom
from mednextv2.data.collection_entries import _KEYS, LAYOUTS, SAMPLING, read_collection_file
from mednextv2.label_scheme import LabelScheme

PAGE = (ROOT / "docs" / "collections.md").read_text(encoding="utf-8")
CT = [{"scheme": "ct", "lower": -1024.0, "upper": 276.0, "mean": -370.0, "std": 436.0}]


def test_the_first_file_is_a_collection_of_four_lines_each(tmp_path, monkeypatch):
    text = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]
    monkeypatch.setenv("MEDNEXTV2_DATA", str(tmp_path))
    for name in ("Task04_Hippocampus", "acdc"):
        (tmp_path / name).mkdir()
    (tmp_path / "c.yaml").write_text(text)
    found = read_collection_file(tmp_path / "c.yaml")
    assert [entry.name for entry in found.entries] == ["Task04_Hippocampus", "ACDC"]
    assert all(len(entry) <= 4 for entry in yaml.safe_load(text)["datasets"])


def test_every_key_and_every_choice_is_described():
    rows = re.findall(r"^\| `(\w+)`(?: \(default\))? \|", PAGE, re.MULTILINE)
    assert {*_KEYS, *SAMPLING} <= {*rows}
    assert all(f"`{name}`" in PAGE for name in (*LAYOUTS, "sampling", "overlaps", "datasets", "keep", "error"))


@pytest.mark.slow
def test_the_commands_work(tmp_path):
    """On phantoms, with small networks, and with copies of the bundles that the commands name."""
    parts = make_parts(tmp_path)
    shutil.copy(parts, tmp_path / "my_collection.yaml")
    names = ("mednextv2_pretrain_ct", "mednextv2_btcv")
    for name in names:
        shutil.copytree(BUNDLES / name, tmp_path / "bundles" / name, ignore=shutil.ignore_patterns("output", "models"))
    labels = ["background", *(f"l{n}" for n in range(1, 14))]
    make_task_phantom(tmp_path / "Dataset017_BTCV", LabelScheme(labels), ["CT"], [1.5] * 3, CT, [24] * 3, cases=5)
    shutil.copytree(tmp_path / "first" / "imagesTr", tmp_path / "IMAGES")
    small = ["--variant", "v2_tiny", "--patch_size", "[16,16,16]"]
    step = [
        "--epochs",
        "1",
        "--iterations_per_epoch",
        "1",
        "--val_iterations",
        "1",
        "--num_workers",
        "0",
        "--warmup_epochs",
        "0",
    ]
    more = {"pretrain": [*small, *step], "train": [*small, *step], "finetune": [*small, *step], "evaluate": small,
            "predict": small, "plan": small}  # fmt: skip
    commands = []
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)[1:]
            words = [f"bundles/{word}" if word in names else word for word in words]
            commands.append(words + more.get(words[2] if words[0] == "run" else words[0], []))
    result = run_verbs(commands, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len([*(tmp_path / "MASKS").glob("*_seg.nii.gz")]) == 5
    assert (tmp_path / "bundles" / "mednextv2_mine" / "models" / "fold_0" / "model.pt").is_file()
    assert (tmp_path / "bundles" / "mednextv2_btcv" / "models" / "finetune" / "fold_0" / "model.pt").is_file()
