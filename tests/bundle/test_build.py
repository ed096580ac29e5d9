import json
import shutil

import pytest
import yaml
from bundle_helpers import BUNDLES, ROOT
from dependency_helpers import read_tested

from mednextv2.bundle import build_bundle, write_bundle
from mednextv2.bundle.build import _recipe

TASKS = sorted(BUNDLES.glob("*/task.yaml"))


def test_every_bundle_has_a_task_and_there_are_fourteen():
    assert [t.parent for t in TASKS] == sorted(p for p in BUNDLES.iterdir() if p.is_dir())
    assert len(TASKS) == 14


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.parent.name)
def test_committed_files_equal_a_fresh_build(task):
    built = build_bundle(task)
    special = {"mednextv2_pretrain_ct": 13, "mednextv2_pretrain_mae": 8}
    assert len(built) == special.get(task.parent.name, 10)
    assert {name: (task.parent / name).read_text(encoding="utf-8") for name in built} == built


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.parent.name)
def test_nothing_but_built_files_and_the_task_is_in_a_bundle(task):
    made_by_users = {"models", "output"}
    files = {
        str(f.relative_to(task.parent))
        for f in task.parent.rglob("*")
        if f.is_file() and f.relative_to(task.parent).parts[0] not in made_by_users
    }
    assert files == {*build_bundle(task), "task.yaml"}


def test_evaluation_and_inference_have_nothing_of_their_own_that_is_the_same():
    ours, theirs = (yaml.safe_load(_recipe(f"{name}.yaml")) for name in ("evaluate", "inference"))
    assert {name for name in ours if name in theirs and ours[name] == theirs[name]} == set()


def test_licence_of_a_bundle_is_that_of_the_project():
    assert (ROOT / "LICENSE").read_text() == (ROOT / "mednextv2" / "recipes" / "LICENSE").read_text()


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.parent.name)
def test_text_survives_monais_parser(task):
    """MONAI rewrites `#` in strings and interprets a leading `%`; keys that stand twice only warn."""
    for name, text in build_bundle(task).items():
        if not name.endswith(".yaml"):
            continue
        for value in _strings(yaml.load(text, Loader=_UniqueKeys)):
            assert "#" not in value
            assert not value.startswith("%")
            assert not value.startswith("$#")


def test_build_writes_only_what_changed(tmp_path):
    folder = tmp_path / "mednextv2_copy"
    shutil.copytree(BUNDLES / "mednextv2_hippocampus", folder, ignore=shutil.ignore_patterns("models", "output"))
    task = folder / "task.yaml"
    changed = set(write_bundle(task))  # the name in headers and README is another
    assert "configs/train.yaml" in changed
    assert "configs/multi_gpu_train.yaml" not in changed
    assert write_bundle(task, check=True) == []
    task.write_text(task.read_text().replace("batch_size: 9", "batch_size: 3"))
    assert "configs/train.yaml" in write_bundle(task, check=True)
    assert "batch_size: 9" in (folder / "configs" / "train.yaml").read_text()  # checking wrote nothing


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.parent.name)
def test_versions_of_the_metadata_are_the_tested_ones(task):
    metadata = json.loads((task.parent / "configs" / "metadata.json").read_text())
    constraints = read_tested("3.10")  # the oldest Python has the oldest versions, which all others can install
    pairs = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    for package, key in pairs.items():
        assert metadata[key] == constraints[package], package
    for package, version in metadata["required_packages_version"].items():
        if package != "mednextv2":
            assert version == constraints[package], package


class _UniqueKeys(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(k, deep=deep) for k, _ in node.value]
        assert len(keys) == len(set(keys)), f"keys twice: {keys}"
        return super().construct_mapping(node, deep=deep)


def _strings(node):
    if isinstance(node, dict):
        for value in node.values():
            yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)
    elif isinstance(node, str):
        yield node
