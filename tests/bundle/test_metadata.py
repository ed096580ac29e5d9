"""Facts of a bundle that its metadata tell."""

import json
from pathlib import Path

import pytest

from mednextv2.bundle.metadata import is_without_labels, read_facts
from mednextv2.errors import InputError

BUNDLES = Path(__file__).parents[2] / "bundles"


def bundle(folder, content):
    (folder / "configs").mkdir()
    (folder / "configs" / "metadata.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def with_modality(words):
    return {"version": "1.2", "network_data_format": {"inputs": {"image": {"modality": words}}}}


def test_facts_of_the_hippocampus():
    facts = read_facts(BUNDLES / "mednextv2_hippocampus")
    assert (facts.name, facts.modalities) == ("mednextv2_hippocampus", ("MR",))
    assert facts.version == json.loads((BUNDLES / facts.name / "configs" / "metadata.json").read_text())["version"]


@pytest.mark.parametrize(
    ("words", "codes"),
    [
        ("CT", ("CT",)), ("mr", ("MR",)), ("MRI", ("MR",)), ("CT, PET", ("CT", "PT")), ("CT/MR", ("CT", "MR")),
        ("T1-weighted", ()), ("CT, contrast", ()), ("", ()), (3, ()), (None, ()),
    ],
)  # fmt: skip
def test_modalities_are_dicoms_codes_or_none(tmp_path, words, codes):
    assert read_facts(bundle(tmp_path, with_modality(words))).modalities == codes


@pytest.mark.parametrize("content", [{}, [], {"version": 3}, {"network_data_format": "x"}, {"network_data_format": []}])
def test_metadata_of_another_shape_tell_nothing(tmp_path, content):
    facts = read_facts(bundle(tmp_path, content))
    assert (facts.name, facts.version, facts.modalities) == (tmp_path.name, "", ())


def test_without_metadata_there_is_the_name(tmp_path):
    assert read_facts(tmp_path).name == tmp_path.name


def test_metadata_that_are_no_json_are_named(tmp_path):
    with pytest.raises(InputError, match=r"metadata\.json"):
        read_facts(bundle(tmp_path, "{"))


def test_a_bundle_without_labels_is_known_by_its_metadata(tmp_path):
    assert is_without_labels(BUNDLES / "mednextv2_pretrain_mae")
    assert not is_without_labels(BUNDLES / "mednextv2_hippocampus")
    assert not is_without_labels(tmp_path)
