"""What is refused before a comparison writes anything."""

import pytest
from comparison_helpers import network_file

from mednextv2.bundle import find_bundle
from mednextv2.bundle.run import read_workflow, workflow_files
from mednextv2.comparison.entries import choose_entries
from mednextv2.comparison.preflight import WORKFLOWS, check_names, check_networks, workflow_entries
from mednextv2.errors import InputError, UsageError


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_the_entries_are_those_of_a_bundle(workflow):
    config = read_workflow(workflow_files(find_bundle("mednextv2_hippocampus"), workflow)).config
    assert {*workflow_entries(workflow)} == {*config} - {"_meta_"}


def test_settings_of_either_workflow_are_known():
    check_names(
        {"batch_size": 2, "overlap": 0.25, "train::trainer::amp": False, "prepare::batch": 1, "patch_size": [16]}
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("epohcs", "did you mean --epochs"),
        ("sedes", "did you mean --seeds"),
        ("batchsize", "did you mean --batch_size"),
        ("overlapp", "did you mean --overlap"),
        ("zzzz", "see mednextv2 run mednextv2_hippocampus train --help"),
        ("train::trainr::amp", "did you mean --train::trainer::amp"),
    ],
)
def test_unknown_settings_are_refused_with_similar_names(name, hint):
    with pytest.raises(UsageError, match="there is no such setting") as caught:
        check_names({name: 3})
    assert hint in str(caught.value)


def test_values_that_cannot_be_are_refused_together():
    with pytest.raises(InputError) as caught:
        check_names({"overlap": 3, "learning_rate": "fast"})
    assert str(caught.value).splitlines() == [
        "overlap 3: should be a number from 0 to below 1",
        "learning_rate 'fast': should be a number above 0, such as 1e-3",
    ]


def test_files_of_networks_that_name_what_does_not_exist_are_refused_together(tmp_path):
    check_networks(choose_entries(f"v2_tiny,segresnet,{network_file(tmp_path, 'mini')}"))
    (tmp_path / "a.yaml").write_text("network_name: a\nnetwork_def: {_target_: torch.nn.Conv4d}\n")
    (tmp_path / "b.yaml").write_text("network_name: b\nnetwork_def: $@chanels\n")
    with pytest.raises(InputError) as caught:
        check_networks(choose_entries(f"{tmp_path / 'a.yaml'},v1_s,{tmp_path / 'b.yaml'}"))
    first, second = str(caught.value).splitlines()
    assert "a.yaml: network_def: torch.nn.Conv4d does not exist, as torch.nn has no Conv4d (did you mean Conv" in first
    assert "b.yaml: network_def: refers to @chanels, which does not exist (did you mean @channels" in second
