"""The README of a bundle: what it says with and without the facts that a task may have."""

import pytest
import yaml
from bundle_helpers import BUNDLES

from mednextv2.bundle import build_bundle
from mednextv2.bundle.build import _recipe
from mednextv2.bundle.readme import readme_text
from mednextv2.bundle.task import read_task

DOCUMENTS = list(yaml.safe_load_all((BUNDLES / "mednextv2_hippocampus" / "task.yaml").read_text(encoding="utf-8")))
SECTIONS = (
    "### Getting the data", "### Converting the data", "### Official split", "### Known defects and traps",
    "### Unknown, and chosen here", "## Scores in the literature",
)  # fmt: skip
GIVEN = {
    "data_access": "Ask the authors.",
    "converter": "btcv",
    "official_split": "None.",
    "data_traps": ["The left is the right.", "case-7 is https://example.org/" + "long-" * 30 + "name damaged."],
    "assumptions": ["The spacing is assumed."],
    "reference_scores": [{"method": "a | b", "score": "Dice 1", "source": "us", "comparable": "No: invented"}],
}


def readme(tmp_path, workflow=None, **public):
    folder = tmp_path / "mednextv2_x"
    folder.mkdir(exist_ok=True)
    documents = [{**DOCUMENTS[0], **(workflow or {})}, {**DOCUMENTS[1], **public}]
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
    text = readme(tmp_path, weights="none", data_description="Images.")
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
