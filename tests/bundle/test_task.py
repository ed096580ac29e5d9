"""Reading of a task.yaml, and the facts that it refuses."""

import json
import re
import shutil

import pytest
import yaml
from bundle_helpers import BUNDLES
from monai.bundle import ConfigParser

from mednextv2.bundle import build_bundle
from mednextv2.bundle.task import MEASURED_FACTS, OPTIONAL_FACTS, PUBLIC_FACTS, WORKFLOW_FACTS, is_rewritten, read_task
from mednextv2.errors import InputError


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


# --- what is read ----------------------------------------------------------------------------------------------------


def write(folder, *changes):
    """Write the task of the hippocampus with other facts."""
    text = (BUNDLES / "mednextv2_hippocampus" / "task.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    folder.mkdir(exist_ok=True)
    (folder / "task.yaml").write_text(text)
    return folder / "task.yaml"


def test_facts_are_those_of_the_two_documents(tmp_path):
    path = write(tmp_path / "mednextv2_x")
    workflow, public = yaml.safe_load_all(path.read_text())
    task = read_task(path)
    assert task.name == "mednextv2_x"
    assert (task.workflow, task.public) == (workflow, public)
    assert set(workflow) == set(WORKFLOW_FACTS)
    assert set(public) == {*PUBLIC_FACTS, *MEASURED_FACTS}
    assert path.read_text().startswith(task.text)  # with its comments
    assert "#" in task.text
    assert yaml.safe_load(task.text) == workflow


def test_the_name_is_that_of_the_folder_from_within_it(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path / "mednextv2_x").parent)
    assert read_task("task.yaml").name == "mednextv2_x"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"task\.yaml: there is no such file"):
        read_task(tmp_path / "task.yaml")


@pytest.mark.parametrize("text", ["", "a: 1", "- a\n---\nb: 1", "a: 1\n---\n- b", "a: 1\n---\n"])
def test_a_file_that_is_not_two_mappings_is_refused(tmp_path, text):
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(InputError, match="should be two YAML documents with a line --- between them"):
        read_task(tmp_path / "task.yaml")


def test_the_scheme_is_that_of_the_facts(tmp_path):
    regions = "regions: [{name: all, values: [1, 2], paint: 1}, {name: back, values: [2], paint: 2}]"
    scheme = read_task(write(tmp_path / "mednextv2_x", ("regions: []", regions), ("label: null", "label: 3"))).scheme()
    assert scheme.labels == ["background", "anterior", "posterior"]
    assert scheme.members == [(1, 2), (2,)]
    assert scheme.ignore_label == 3


SIDES = ("[background, anterior, posterior]", "[background, lung_left, lung_right]")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([], None),
        ([SIDES], "Without it: mirror_axes: []"),
        ([SIDES, ("mirror_axes: [0]", "mirror_axes: [0, 2]")], "Without it: mirror_axes: [2]"),
        ([SIDES, ("mirror_axes: [0]", "mirror_axes: [1, 2]")], None),
    ],
)
def test_mirroring_of_left_and_right_is_warned_of(tmp_path, changes, words):
    warnings = read_task(write(tmp_path / "mednextv2_x", *changes)).warnings()
    assert len(warnings) == (words is not None)
    if words:
        assert warnings[0].endswith(words)
        assert "lung_left and lung_right" in warnings[0]


@pytest.mark.parametrize("name", ["a#b", "$a", "@a", "%a", "#"])
def test_names_that_monais_parser_reads_more_into_are_known(name):
    assert is_rewritten(name)


@pytest.mark.parametrize("name", ["liver", "a$b", "b@", "50 %", "", "left lung"])
def test_other_names_come_out_of_monais_parser_as_they_went_in(name):
    assert not is_rewritten(name)
    assert ConfigParser({"labels": [name]}).get_parsed_content("labels") == [name]


def test_facts_about_published_data_may_be_given_or_left_out(tmp_path):
    given = {
        "weights": "Of fold 1.", "weights_license": "MIT", "data_access": "Ask.", "converter": "btcv",
        "official_split": "None.", "data_traps": ["a"], "assumptions": ["b"],
        "reference_scores": [dict.fromkeys(("method", "score", "source", "comparable"), "x")],
    }  # fmt: skip
    assert set(given) == set(OPTIONAL_FACTS)
    for left_out in (None, *given):
        some = {key: value for key, value in given.items() if key != left_out}
        path = write(tmp_path / "mednextv2_x")
        path.write_text(path.read_text() + yaml.safe_dump(some))
        found = read_task(path).public
        assert {key: found[key] for key in given if key in found} == some


MAE = (BUNDLES / "mednextv2_pretrain_mae" / "task.yaml").read_text()


def write_autoencoding(folder, text):
    (folder / "mednextv2_mae").mkdir(parents=True)
    (folder / "mednextv2_mae" / "task.yaml").write_text(text)
    return folder / "mednextv2_mae" / "task.yaml"


def test_a_task_without_labels_has_facts_of_its_own(tmp_path):
    task = read_task(write_autoencoding(tmp_path, MAE))
    assert (task.objective, task.outputs, task.warnings()) == ("masked autoencoding", 1, [])
    with pytest.raises(InputError, match="is for masked autoencoding of images, and has no labels"):
        task.scheme()
    kept = read_task(write_autoencoding(tmp_path / "own", MAE.replace("spacing: [1.0, 1.0, 1.0]", "spacing: null")))
    assert kept.workflow["spacing"] is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "objective: masked autoencoding",
            "objective: guessing",
            "objective 'guessing' is none of",
        ),
        ("objective: masked autoencoding\n", "", "unknown facts: block_size, mask_ratio"),
        ("block_size: 16 ", "block_size: 48 ", "block_size 48: a patch of 128×128×128 voxels is not a multiple of it"),
        ("mask_ratio: 0.75 ", "mask_ratio: 1.0 ", "would hide everything"),
        ("channels: [image]", "channels: [a, b]", "has one channel, and a patch_size of three numbers"),
        ("block_size: 16 ", "labels: [background] #", "missing facts: block_size; unknown facts: labels"),
    ],
)
def test_facts_without_labels_that_cannot_be(tmp_path, old, new, message):
    assert old in MAE
    with pytest.raises(InputError, match=re.escape(message)):
        read_task(write_autoencoding(tmp_path, MAE.replace(old, new)))
