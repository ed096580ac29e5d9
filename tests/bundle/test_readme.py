"""The README of a bundle: what it says with and without the facts that a task may have."""

import csv
import json
import re
from statistics import mean

import pytest
import yaml
from bundle_helpers import BUNDLES, ROOT

from mednextv2.bundle import build_bundle
from mednextv2.bundle.build import _recipe
from mednextv2.bundle.readme import readme_text
from mednextv2.bundle.task import read_task
from mednextv2.nets.training_memory import training_memory

DOCUMENTS = list(yaml.safe_load_all((BUNDLES / "mednextv2_hippocampus" / "task.yaml").read_text(encoding="utf-8")))
SECTIONS = (
    "### Getting the data", "### Converting the data", "### Official split", "### Known defects and traps",
    "### Unknown, and chosen here", "## Scores in the literature",
)  # fmt: skip
SCORES = ("eval_metrics", "evaluation")
GIVEN = {
    "data_access": "Ask the authors.",
    "converter": "btcv",
    "official_split": "None.",
    "data_traps": ["The left is the right.", "case-7 is https://example.org/" + "long-" * 30 + "name damaged."],
    "assumptions": ["The spacing is assumed."],
    "reference_scores": [{"method": "a | b", "score": "Dice 1", "source": "us", "comparable": "No: invented"}],
}


def readme(tmp_path, workflow=None, left_out=(), **public):
    folder = tmp_path / "mednextv2_x"
    folder.mkdir(exist_ok=True)
    kept = {key: value for key, value in DOCUMENTS[1].items() if key not in left_out}
    documents = [{**DOCUMENTS[0], **(workflow or {})}, {**kept, **public}]
    (folder / "task.yaml").write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
    return readme_text(read_task(folder / "task.yaml"), _recipe("README.md"))


def test_a_task_without_optional_facts_has_no_sections_about_them(tmp_path):
    text = readme(tmp_path)
    assert not [section for section in SECTIONS if section in text]
    assert "weights yet" not in text
    assert "\n\n\n" not in text
    assert "$" not in text.replace("$MEDNEXTV2_DATA", "")
    assert build_bundle(tmp_path / "mednextv2_x" / "task.yaml")["docs/README.md"] == text


@pytest.mark.parametrize("key", GIVEN)
def test_each_fact_adds_its_section_alone(tmp_path, key):
    text = readme(tmp_path, **{key: GIVEN[key]})
    assert [section for section in SECTIONS if section in text] == [SECTIONS[list(GIVEN).index(key)]]


def test_sections_say_what_the_facts_say(tmp_path):
    text = readme(tmp_path, **GIVEN)
    assert "\npython scripts/convert/btcv.py SOURCE TARGET\n" in text
    assert "`TARGET` is `$MEDNEXTV2_DATA/Task04_Hippocampus`" in text
    assert "\n- The left is the right.\n" in text
    assert "https://example.org/" + "long-" * 30 + "name" in text  # an address is not broken into lines
    assert "\n| a \\| b | Dice 1 | us | No: invented |\n" in text  # a bar within a cell
    assert text.index("### Unknown") < text.index("## Training") < text.index("## Scores") < text.index("## References")


def test_a_bundle_without_weights_does_not_name_a_file_of_weights(tmp_path):
    text = readme(tmp_path, left_out=SCORES, weights="none", data_description="Images.")
    assert "**This bundle has no trained weights yet.**" in text
    assert "models/model.pt" not in text
    assert "--ckpt_file models/fold_0/model.pt" in text
    assert "models/model.pt" in readme(tmp_path)
    assert "\nWeights of fold 3.\n" in readme(tmp_path, weights="Weights of fold 3.")


def test_regions_are_listed_with_their_values(tmp_path):
    regions = [
        {"name": "both", "values": [1, 2], "paint": 2},
        {"name": "front", "values": [1], "paint": 1},
    ]
    text = readme(tmp_path, {"regions": regions})
    assert "| both | anterior, posterior | 2 |\n| front | anterior | 1 |" in text
    assert "binary cross-entropy of each region" in text
    assert "for every case and region" in text
    plain = readme(tmp_path)
    assert "region" not in plain
    assert "Dice and cross-entropy at five resolutions" in plain


def test_channels_and_mirroring_are_those_of_the_task(tmp_path):
    channels = {"channels": ["T1", "T2"], "normalization": [{"scheme": "none"}] * 2}
    text = " ".join(readme(tmp_path, {**channels, "mirror_axes": []}).split())
    assert "`CASE_0000.nii.gz` is T1; `CASE_0001.nii.gz` is T2." in text
    assert "Images are not mirrored at test time" in text
    assert "CASE_0000" not in readme(tmp_path)
    assert "switches test-time mirroring off" in readme(tmp_path)


@pytest.mark.parametrize("task", sorted(BUNDLES.glob("*/task.yaml")), ids=lambda t: t.parent.name)
def test_every_bundle_says_what_machine_it_needs_and_how_well_it_performs(task):
    text, facts = build_bundle(task)["docs/README.md"], read_task(task)
    workflow, outputs = facts.workflow, facts.outputs
    needed = training_memory(
        workflow["variant"], workflow["patch_size"], workflow["batch_size"], len(workflow["channels"]), outputs
    )
    assert f" {workflow['batch_size']} at a time, needs about {needed / 2**30:.1f} GiB" in section(
        text, "System configuration"
    )
    scores = section(text, "Performance")
    if "eval_metrics" in facts.public:
        assert [f"{value:g}" for value in facts.public["eval_metrics"].values()] == re.findall(
            r"\| ([\d.]+) \|$", scores, re.M
        )
    else:
        assert scores == "No scores of this bundle have been recorded yet."


def section(text, heading):
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0].strip()


def test_measured_scores_are_those_of_the_evaluation(tmp_path):
    """The table of all cases lies beside the report about this training."""
    with (ROOT / "docs" / "benchmarks" / "hippocampus-fold0" / "cases.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {"mean_dice": "dice", "mean_surface_dice_1mm": "surface_dice_1mm", "mean_hd95_mm": "hd95_mm"}
    labels = DOCUMENTS[0]["labels"][1:]
    metrics = json.loads((BUNDLES / "mednextv2_hippocampus/configs/metadata.json").read_text())["eval_metrics"]
    assert metrics.keys() == columns.keys()
    for name, score in metrics.items():
        means = [mean(float(row[columns[name]]) for row in rows if row["label"] == label) for label in labels]
        assert score == float(f"{mean(means):.3g}"), name
    for label in labels:
        dice = mean(float(row["dice"]) for row in rows if row["label"] == label)
        assert f"{dice:.3f} for the {label}" in DOCUMENTS[1]["evaluation"]
    assert f"the {len({row['case'] for row in rows})} cases" in section(readme(tmp_path), "Performance")


def test_the_how_to_shows_how_to_record_scores(tmp_path):
    text = (ROOT / "docs" / "howto.md").read_text(encoding="utf-8")
    facts = yaml.safe_load(re.search(r"```yaml\n(eval_metrics.*?)```", text, re.S)[1])
    assert [*facts] == [*SCORES]
    performance = section(readme(tmp_path, **facts), "Performance")
    assert performance.startswith(facts["evaluation"])
    assert "| mean Dice | 0.87 |" in performance
