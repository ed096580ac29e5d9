"""The bundles of published data sets: what they say is what is known about the data, and MONAI can use them."""

import ast
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import pytest
import yaml
from benchmark_helpers import ALL, FACTS_OF, NAMES, PRETRAIN_MAE, facts_about, make_data, metadata_of, task_of
from bundle_helpers import BUNDLES, ROOT
from monai.bundle import verify_metadata, verify_net_in_out
from verb_helpers import call_verb

from mednextv2.bundle import build_bundle
from mednextv2.bundle.task import OPTIONAL_FACTS
from mednextv2.label_scheme import opposite_pairs

SCHEMA = Path(__file__).parent / "metadata_schema.json"
V1 = ("mednextv2_amos22", "mednextv2_brats21", "mednextv2_btcv", "mednextv2_kits19")
V2 = (
    "mednextv2_brainmetshare", "mednextv2_ctspine1k", "mednextv2_oaizib_cm", "mednextv2_panther",
    "mednextv2_pediatric_ct_seg", "mednextv2_toothfairy2",
)  # fmt: skip


def readme_of(name):
    return " ".join((BUNDLES / name / "docs" / "README.md").read_text(encoding="utf-8").split())


def test_there_are_fourteen_bundles():
    assert sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()) == ALL
    assert len(ALL) == len({*ALL}) == 14
    assert {*V1, *V2, "mednextv2_totalsegmentator"} == {*NAMES}
    assert not [name for name in ALL if "_v" in name]  # where MONAI cuts names


# ------------------------------------------------------------------------------------------ what is known of the data


@pytest.mark.parametrize("name", NAMES)
def test_labels_and_channels_are_those_of_the_data_set(name):
    facts, task = facts_about(name), task_of(name).workflow
    assert dict(enumerate(task["labels"])) == {0: "background", **facts["labels"]}
    assert task["channels"] == facts["channels"]
    assert task["ignore_label"] is None


@pytest.mark.parametrize("name", NAMES)
def test_regions_and_their_order_are_those_of_the_challenge(name):
    facts, scheme = facts_about(name), task_of(name).scheme()
    regions = {region.name: list(region.values) for region in scheme.regions}
    assert regions == (facts["regions"] or {})
    assert list(regions) == list(facts["regions"] or {})  # also in order
    order = facts.get("regions_class_order")
    assert order is None or [region.paint for region in scheme.regions] == order
    for i, region in enumerate(scheme.regions):  # a region is painted as a class that no later one has
        assert region.paint in region.values
        assert not any(region.paint in later.values for later in scheme.regions[i + 1 :])


def test_only_the_challenges_that_score_regions_train_them():
    assert {name for name in NAMES if task_of(name).workflow["regions"]} == {"mednextv2_brats21", "mednextv2_kits19"}


@pytest.mark.parametrize("name", NAMES)
def test_normalisation_is_the_one_for_the_modality(name):
    wanted = facts_about(name)["normalisation"]
    schemes = {entry["scheme"] for entry in task_of(name).workflow["normalization"]}
    masked = {entry.get("inside_mask", False) for entry in task_of(name).workflow["normalization"]}
    if wanted == "CT":
        assert schemes == {"ct"}
    else:  # ToothFairy2 allows both, and its grey values are no Hounsfield units
        assert (schemes, masked) == ({"zscore"}, {"masked" in wanted})


@pytest.mark.parametrize("name", NAMES)
def test_no_axis_is_mirrored_that_would_exchange_classes(name):
    facts, axes = facts_about(name), task_of(name).workflow["mirror_axes"]
    assert task_of(name).warnings() == []
    if opposite_pairs(facts["labels"].values()) or any("medial" in label for label in facts["labels"].values()):
        assert 0 not in axes
    if any(re.fullmatch(r"(vertebrae_)?[CTL]\d", label) for label in facts["labels"].values()):
        assert 2 not in axes  # vertebrae are numbered along it


def test_the_other_axes_are_mirrored_as_the_sources_say():
    axes = {name: task_of(name).workflow["mirror_axes"] for name in NAMES}
    assert axes["mednextv2_ctspine1k"] == [0, 1]  # left-right is safe, up-down is not
    assert axes["mednextv2_toothfairy2"] == [1, 2]  # the winner's onlyMirror01, whose axes are z and y
    assert axes["mednextv2_totalsegmentator"] == []  # nnUNetTrainerNoMirroring
    for name in ("mednextv2_kits19", "mednextv2_brats21", "mednextv2_brainmetshare", "mednextv2_panther"):
        assert axes[name] == [0, 1, 2]


@pytest.mark.parametrize("name", V1)
def test_settings_of_the_first_paper_are_taken_over(name):
    task = task_of(name).workflow
    assert (task["spacing"], task["patch_size"], task["batch_size"]) == ([1.0] * 3, [128] * 3, 2)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_that_of_the_second_paper(name):
    assert task_of(name).workflow["variant"] == "v2_base"


@pytest.mark.parametrize("name", NAMES)
def test_a_spacing_that_is_known_is_the_tasks(name):
    facts, spacing = facts_about(name), task_of(name).workflow["spacing"]
    known = facts.get("spacing")
    if known and name not in V1:
        assert spacing == (known[::-1] if facts.get("spacing_order") == "z,y,x" else known)


# ------------------------------------------------------------------------------------------------- what readers read


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_for_readers_is_given(name):
    assert {*OPTIONAL_FACTS} - {"weights_license"} <= {*task_of(name).public}  # they have no weights
    text = readme_of(name)
    for heading in (
        "Getting the data", "Converting the data", "Official split", "Known defects and traps",
        "Unknown, and chosen here", "Scores in the literature",
    ):  # fmt: skip
        assert f"# {heading} " in text
    for key in ("data_access", "official_split", "data_license", "data_source"):
        assert " ".join(task_of(name).public[key].split()) in text


@pytest.mark.parametrize("name", NAMES)
def test_licence_address_and_numbers_of_cases_are_those_of_the_data_set(name):
    facts, text, licence = facts_about(name), readme_of(name), task_of(name).public["data_license"]
    for word in re.findall(r"CC BY[-A-Z]*(?: \d\.\d)?|MIT|not stated|Stanford University", facts["licence"]):
        assert word in licence
    assert ("contradictory" in licence) == facts["licence"].startswith("conflict")
    assert facts["homepage"].replace("#!", "") in text
    assert str(facts["num_training"]) in text
    for other in ("num_test", "num_test_public", "num_test_private"):
        assert facts.get(other) is None or str(facts[other]) in text


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_without_weights_says_so_and_how_to_get_some(name):
    assert not (BUNDLES / name / "models").exists()
    text = readme_of(name)
    assert "This bundle has no trained weights yet." in text
    assert "Until a fold has been trained, there are no weights to predict with." in text
    assert "python -m monai.bundle run --config_file configs/train.yaml" in text
    assert "models/model.pt" not in text  # which does not exist


def test_the_bundle_with_weights_does_not_say_that_it_has_none():
    assert "no trained weights" not in readme_of("mednextv2_hippocampus")


@pytest.mark.parametrize("name", NAMES)
def test_every_score_has_a_source_and_says_whether_it_can_be_compared(name):
    scores, text = task_of(name).public["reference_scores"], readme_of(name)
    assert scores
    for score in scores:
        assert all(part in text for part in score.values())
        assert re.match(r"(Yes|No|Not known|Partly|Only|As above|Dice)\b", score["comparable"])
        assert "v2" not in score["method"].lower()  # its scores on single data sets are not known


@pytest.mark.parametrize("name", V2)
def test_only_means_over_six_data_sets_are_quoted_for_the_second_paper(name):
    text = readme_of(name)
    assert "only its mean Dice over six data sets" in text
    assert "82.95 with pretraining and patches of 128 voxels, 83.70 with patches of 192, 82.31 from scratch" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_converter_writes_what_the_bundle_reads(name):
    """Where the converters are, their example names the folder, and their channels are the bundle's."""
    task = task_of(name)
    assert task.public["converter"] == FACTS_OF[name].replace("_task1", "").replace("_v2", "")
    script = ROOT / "scripts" / "convert" / f"{task.public['converter']}.py"
    if script.parent.is_dir():
        doc = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
        assert f" {task.workflow['dataset_name']}" in doc


def test_the_page_about_all_bundles_has_a_row_for_each():
    page = (ROOT / "docs" / "bundles.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1:] for row in re.findall(r"^\| \[`(\w+)`\]\(.*?\) \|(.*?)\|(.*?)\|(.*?)\|(.*)\|$", page, re.M)}
    assert sorted([*rows, PRETRAIN_MAE]) == ALL
    assert f"| [`{PRETRAIN_MAE}`](../bundles/{PRETRAIN_MAE}/docs/README.md) |" in page
    for name, (data, classes, converter, rest) in rows.items():
        task = task_of(name)
        structures = len(task.scheme().foreground)
        assert classes.split()[0] == str(structures)
        assert ("region" in classes) == bool(task.workflow["regions"])
        assert task.public["modality"] in data
        assert converter.strip() == (f"`{task.public['converter']}`" if name in NAMES else "not needed")
        licence, weights = (cell.strip() for cell in rest.split("|"))
        assert licence in task.public["data_license"]
        assert weights == ("yes" if name == "mednextv2_hippocampus" else "none")


# --------------------------------------------------------------------------------------------- what MONAI makes of it


@pytest.mark.parametrize("name", ALL)
def test_metadata_pass_monais_check(name, tmp_path):
    schema = shutil.copy(SCHEMA, tmp_path / "schema.json")  # it is downloaded if it is not there
    verify_metadata(meta_file=str(BUNDLES / name / "configs" / "metadata.json"), filepath=str(schema))
    assert "#" not in json.dumps(metadata_of(name))  # which MONAI rewrites


def test_metadata_that_are_wrong_do_not_pass_monais_check(tmp_path):
    schema = shutil.copy(SCHEMA, tmp_path / "schema.json")
    metadata = metadata_of("mednextv2_btcv")
    del metadata["network_data_format"]["outputs"]["pred"]["num_channels"]
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="num_channels"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(schema))


@pytest.mark.parametrize("name", ALL)
def test_the_network_passes_monais_check(name):
    root = BUNDLES / name
    workflow = "evaluate" if name == PRETRAIN_MAE else "inference"
    verify_net_in_out(
        net_id="network_def", meta_file=str(root / "configs" / "metadata.json"),
        config_file=str(root / "configs" / f"{workflow}.yaml"), bundle_root=str(root), device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_metadata_name_channels_and_outputs(name):
    task, data = task_of(name), metadata_of(name)["network_data_format"]
    scheme = task.scheme()
    names = scheme.foreground if scheme.regions else scheme.labels
    assert list(data["inputs"]["image"]["channel_def"].values()) == task.workflow["channels"]
    assert data["outputs"]["pred"]["channel_def"] == {str(i): name for i, name in enumerate(names)}
    assert data["outputs"]["pred"]["num_channels"] == scheme.outputs


@pytest.mark.parametrize("name", ALL)
def test_configurations_are_ascii(name):
    for file, text in build_bundle(BUNDLES / name / "task.yaml").items():
        assert not file.endswith(".yaml") or text.isascii(), file


# ------------------------------------------------------------------------------------------------- the command line


def test_all_bundles_are_built_by_one_command():
    code, out, err = call_verb("bundle", *sorted(BUNDLES.glob("*/task.yaml")), "--check")
    assert (code, out.strip(), err) == (0, "all files are up to date", "")


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_every_workflow_is_shown(name):
    for workflow in ("train", "finetune", "evaluate", "inference", "multi_gpu_train"):
        code, out, _ = call_verb("run", name, workflow, "--help")
        assert code == 0
        assert f"mednextv2 run {name} {workflow}" in out


@pytest.mark.parametrize("name", NAMES)
def test_prediction_without_weights_ends_with_the_way_to_get_some(name, tmp_path):
    channels = len(task_of(name).workflow["channels"])
    data = make_data(name, tmp_path / "data", shape=(30, 31, 32), cases=1)
    output = tmp_path / "masks"
    settings = ["--variant", "v2_tiny", "--patch_size", "[16,16,16]", "--device", "cpu"]
    source = data / "imagesTr" if channels > 1 else data / "imagesTr" / "phantom_000_0000.nii.gz"
    code, _, err = call_verb("predict", name, source, output, *settings)
    assert code == 1
    assert f"{name}: this bundle has no trained weights yet. Train it: mednextv2 run" in err
    assert "docs/README.md says on which data" in err
    assert not output.exists()


@pytest.mark.parametrize("workflow", ["evaluate", "inference"])
def test_a_workflow_that_needs_weights_says_so_before_it_looks_at_data(workflow, tmp_path):
    given = ("--dataset_dir", tmp_path / "none", "--output_dir", tmp_path / "out", "--variant", "v2_tiny")
    code, _, err = call_verb("run", "mednextv2_btcv", workflow, *given)
    assert code == 1
    assert "mednextv2_btcv: this bundle has no trained weights yet. Train it: mednextv2 run" in err
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------- the facts themselves


def test_generated_data_are_of_the_task(tmp_path):
    """What the workflows are tried on has the labels, the channels and the spacing of the bundle."""
    data = make_data("mednextv2_panther", tmp_path / "data", cases=1)
    description = json.loads((data / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "tumour": 1, "pancreas": 2}
    image = nib.load(data / "imagesTr" / "phantom_000_0000.nii.gz")
    assert image.header.get_zooms() == pytest.approx((1.1875, 1.1875, 3.0))


def test_facts_are_read_as_they_were_compiled():
    content = yaml.safe_load((ROOT / "tests" / "facts" / "datasets.yaml").read_text(encoding="utf-8"))
    known = {entry["id"]: entry for entry in content["datasets"]}
    assert {*FACTS_OF.values()} <= {*known}
    sizes = {
        "btcv": 13, "amos22": 15, "kits19": 2, "brats21": 3, "pediatric_ct_seg": 29, "oaizib_cm": 5, "toothfairy2": 42,
        "brainmetshare": 1, "panther_task1": 2, "ctspine1k": 25, "totalsegmentator_v2": 117,
    }  # fmt: skip
    assert {name: len(known[name]["labels"]) for name in sizes} == sizes
