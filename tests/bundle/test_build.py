import json
import shutil

import pytest
import yaml
from bundle_helpers import BUNDLES, ROOT

from mednextv2.bundle import build_bundle, write_bundle
from mednextv2.bundle.build import _recipe
from mednextv2.errors import InputError

TASKS = sorted(BUNDLES.glob("*/task.yaml"))


def test_every_bundle_has_a_task_and_there_is_one():
    assert [t.parent for t in TASKS] == sorted(p for p in BUNDLES.iterdir() if p.is_dir())
    assert len(TASKS) == 1


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.parent.name)
def test_committed_files_equal_a_fresh_build(task):
    built = build_bundle(task)
    assert len(built) == 9
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


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("batch_size: 9", "batchsize: 9", "missing facts: batch_size; unknown facts: batchsize"),
        ("patch_size: [48, 64, 48]", "patch_size: [48, 60, 48]", "multiple of 16"),
        ("variant: v2_tiny", "variant: v3", "v3"),
        ("spacing: [1.0, 1.0, 1.0]", "spacing: [1.0, 1.0]", "different numbers of axes"),
        ("labels: [background, ", "labels: [", "background"),
        ("version: 0.1.0", "version: 0.2.0", "changelog"),
        ("\n---", "\n", "two YAML documents"),
        ("channels: [T1w]", "channels: [T1w", "not valid YAML"),
        ("channels: [T1w]", "channels: T1w", "channels should be a list of names, not 'T1w'"),
        ("labels: [background, anterior, posterior]", "labels: {}", "labels should be a list"),
        ("labels: [background, anterior, posterior]", "labels: [background]", "at least one class"),
        ("labels: [background, anterior, posterior]", "labels: []", "labels should be a list of names"),
        ("[background, anterior, posterior]", "[background, anterior, 'no #1']", "into 'no #1': names hold no #"),
        ("dataset_name: Task04", "dataset_name: $Task04", "reads more than a name into '.Task04"),
        ("spacing: [1.0, 1.0, 1.0]", "spacing: 1.0", "spacing should be millimetres"),
        ("spacing: [1.0, 1.0, 1.0]", "spacing: [1.0, 0, 1.0]", "spacing should be millimetres"),
        ("patch_size: [48, 64, 48]", "patch_size: 48", "patch_size should be a list"),
        ("patch_size: [48, 64, 48]", "patch_size: [48]", "patch_size"),
        ("batch_size: 9", "batch_size: 0", "batch_size should be a whole number from 1, not 0"),
        ("batch_size: 9", "batch_size: true", "batch_size should be a whole number from 1"),
        ("batch_size: 9", "batch_size: '9'", "batch_size should be a whole number from 1, not '9'"),
        ("variant: v2_tiny", "variant: [v2_tiny]", "variant should be a text"),
        ("mirror_axes: [0]", "mirror_axes: [3]", "mirror_axes should be a list of axes"),
        ("mirror_axes: [0]", "mirror_axes: 0", "mirror_axes should be a list of axes"),
        ("batch_dice: false", "batch_dice: 0", "batch_dice should be True or False, not 0"),
        ("{scheme: zscore, inside_mask: false}", "{scheme: zscores}", "zscores"),
        ("{scheme: zscore, inside_mask: false}", "{scheme: ct, lower: 0}", "upper"),
        ("{scheme: zscore, inside_mask: false}", "{scheme: zscore, mask: false}", "mask"),
        ("{scheme: zscore, inside_mask: false}", "zscore", "zscore"),
        (
            "- {scheme: zscore, inside_mask: false}",
            "- {scheme: none}\n- {scheme: none}",
            "1 channel, but .* 2 entries",
        ),
        ("channels: [T1w]", "channels: [T1w, T2w]", "2 channels, but normalization has 1 entry"),
        ("regions: []", "regions: [{name: a, values: [1, 3], paint: 1}]", "values should be from 1 to 2"),
        ("regions: []", "regions: [{name: a, values: [1], paint: 0}]", "painted as 0"),
        ("regions: []", "regions: [{name: a, values: []  , paint: 1}]", "values should be from 1 to 2"),
        ("regions: []", "regions: [{name: a, values: [1]}]", "should have name, values and paint"),
        ("regions: []", "regions: [whole]", "should have name, values and paint"),
        ("ignore_label: null", "ignore_label: 2", "should be the value after the highest label, 3"),
        ("ignore_label: null", "ignore_label: 4", "should be the value after the highest label, 3"),
        ("ignore_label: null", "", "missing facts: ignore_label"),
        ("regions: []", "regions: []\nextra: 1", "task.yaml: unknown facts: extra"),
        ("modality: MR", "modalities: MR", "missing facts: modality; unknown facts: modalities"),
        ("changelog:\n  0.1.0: first version", "changelog: first", "changelog should have a text for each version"),
    ],
)
def test_impossible_facts_are_refused(tmp_path, old, new, words):
    text = (BUNDLES / "mednextv2_hippocampus" / "task.yaml").read_text()
    assert old in text
    folder = tmp_path / "mednextv2_x"
    folder.mkdir()
    (folder / "task.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=words) as error:
        build_bundle(folder / "task.yaml")
    assert str(folder / "task.yaml") in str(error.value)


def test_all_impossible_facts_are_named_at_once(tmp_path):
    text = (BUNDLES / "mednextv2_hippocampus" / "task.yaml").read_text()
    for old, new in (("ignore_label: null", "ignore_label: 1"), ("variant: v2_tiny", "variant: v3"), ("48]", "47]")):
        text = text.replace(old, new, 1)
    folder = tmp_path / "mednextv2_x"
    folder.mkdir()
    (folder / "task.yaml").write_text(text)
    with pytest.raises(InputError, match=r"ignore_label 1.*patch_size \[48, 64, 47\].*variant v3"):
        build_bundle(folder / "task.yaml")


def test_regions_and_an_ignore_label_are_accepted(tmp_path):
    text = (BUNDLES / "mednextv2_hippocampus" / "task.yaml").read_text()
    text = text.replace("regions: []", "regions: [{name: all, values: [1, 2], paint: 1}]", 1)
    folder = tmp_path / "mednextv2_x"
    folder.mkdir()
    (folder / "task.yaml").write_text(text.replace("ignore_label: null", "ignore_label: 3", 1))
    metadata = json.loads(build_bundle(folder / "task.yaml")["configs/metadata.json"])
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert (output["num_channels"], output["channel_def"]) == (1, {"0": "all"})


def test_names_that_monai_would_cut_are_refused(tmp_path):
    folder = tmp_path / "mednext_v2_x"
    folder.mkdir()
    shutil.copy(BUNDLES / "mednextv2_hippocampus" / "task.yaml", folder)
    with pytest.raises(InputError, match="_v"):
        build_bundle(folder / "task.yaml")


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.parent.name)
def test_versions_of_the_metadata_are_the_tested_ones(task):
    metadata = json.loads((task.parent / "configs" / "metadata.json").read_text())
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = dict(line.split(";")[0].strip().split("==") for line in lines if "==" in line)
    constraints = {k.lower().replace("_", "-"): v for k, v in constraints.items()}
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
