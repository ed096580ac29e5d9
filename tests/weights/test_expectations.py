"""What a pretraining was done with, and in what a bundle differs."""

import pytest
import torch
from pretrained_helpers import nnssl_plan, nnunet_checkpoint

from mednextv2.weights.expectations import Expectations, read_expectations, recorded_expectations


def of_plan(*args, **kwargs):
    return read_expectations({"nnssl_adaptation_plan": nnssl_plan(*args, **kwargs)})


def test_a_plan_of_nnssl_is_read():
    found = of_plan()
    assert found.architecture == "ResEncL"
    assert found.patch_size == found.recommended_patch_size == (160, 160, 160)
    assert (found.spacing, found.resampled, found.normalization) == ((1.0, 1.0, 1.0), True, ("zscore",))
    assert found.describe() == ("patches of 160×160×160 voxels, a spacing of 1×1×1 mm and the normalisation zscore")
    foundation = of_plan(style="noresample", patch=(192, 192, 192))
    assert (foundation.spacing, foundation.resampled) == ((), False)
    assert "images that were not resampled" in foundation.describe()


def test_a_plan_may_hold_one_configuration_without_its_name_and_the_true_patch():
    plan = nnssl_plan(pretrain_patch_size=[64, 64, 64])
    (configuration,) = plan["pretrain_plan"]["configurations"].values()
    plan["pretrain_plan"]["configurations"] = configuration
    found = read_expectations({"nnssl_adaptation_plan": plan})
    assert (found.patch_size, found.spacing) == ((64, 64, 64), (1.0, 1.0, 1.0))


def test_plans_of_nnunet_are_read_with_what_they_inherit():
    content = nnunet_checkpoint(torch.nn.Linear(1, 1), configuration={"spacing": [3.0, 0.8, 0.8]})
    content["init_args"]["configuration"] = "3d_cascade_fullres"
    found = read_expectations(content)
    assert found == Expectations(
        "ResidualEncoderUNet", (32, 32, 32), (), (3.0, 0.8, 0.8), None, ("zscore",),
        ("background", "anterior", "posterior"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "b": 2, "a": 1}, ("background", "a", "b")),
        ({"background": 0, "a": 1, "ignore": 2}, ("background", "a")),
        ({"background": 0, "whole": [1, 2], "core": 2}, ()),  # regions
        ({"background": 0, "a": 2}, ()),
        ({"background": 0, "a": True}, ()),
        ({}, ()),
    ],
)
def test_labels_are_read_if_each_is_one_value(labels, expected):
    assert read_expectations({"init_args": {"dataset_json": {"labels": labels}}}).labels == expected


@pytest.mark.parametrize(
    "content",
    [
        None, {}, 3, {"nnssl_adaptation_plan": 3}, {"init_args": {"plans": [], "configuration": 3}},
        {"nnssl_adaptation_plan": {"pretrain_plan": {"configurations": {"a": 3}}, "architecture_plans": "x"}},
        {"nnssl_adaptation_plan": {"recommended_downstream_patchsize": [1, "a", -3]}},
        {"nnssl_adaptation_plan": {"pretrain_patch_size": [True] * 3}},
        {"init_args": {"plans": {"configurations": {"a": {"inherits_from": "a", "spacing": ["x"]}}},
                       "configuration": "a"}},
    ],
)  # fmt: skip
def test_what_is_not_understood_is_ignored(content):
    assert read_expectations(content).describe() == ""


def test_a_bundle_like_the_pretraining_differs_in_nothing():
    settings = {"patch_size": [160] * 3, "spacing": [1.0, 1, 0.95], "normalization": [{"scheme": "zscore"}] * 2}
    assert of_plan().differences(**settings) == []
    assert of_plan().differences() == []
    assert Expectations().differences(**settings) == []


def test_more_context_than_in_the_pretraining_is_no_defect():
    assert of_plan().differences(patch_size=[192, 160, 160]) == []
    assert len(of_plan().differences(patch_size=[192, 144, 160])) == 1
    assert of_plan().differences(patch_size=[144, 144]) == []  # a network for planes


def test_a_record_of_this_project_says_what_its_training_was_done_with():
    about = {
        "settings": {"patch_size": [128, 128, 96], "context": 1.5, "spacing": [1.0, 1.0, 2.5], "variant": "v2_tiny"},
        "normalization": [{"scheme": "ct", "lower": -1024.0}, {"scheme": "zscore"}],
    }
    found = recorded_expectations(about)
    assert (found.patch_size, found.spacing, found.normalization) == ((192, 192, 144), (1, 1, 2.5), ("ct", "zscore"))
    assert found.differences([192, 192, 144], [1.0, 1.0, 2.5], about["normalization"]) == []
    assert "a spacing of 1×1×2.5 mm, the spacing here is 2×2×2 mm" in found.differences(spacing=[2, 2, 2])[0]


@pytest.mark.parametrize(
    "about",
    [
        {}, {"settings": 3, "normalization": "zscore"},
        {"settings": {"patch_size": "x", "spacing": None, "context": "y"}},
        {"settings": {"patch_size": [-1, 2, 3], "spacing": [0, 1, 1]}, "normalization": [3, {"scheme": 4}]},
    ],
)  # fmt: skip
def test_a_record_without_these_values_says_nothing(about):
    assert recorded_expectations(about).describe() == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"spacing": [0.5, 0.5, 3.0]}, "a spacing of 1×1×1 mm, the spacing here is 0.5×0.5×3 mm"),
        ({"normalization": [{"scheme": "ct"}]}, "images with the normalisation zscore, those here have ct"),
        (
            {"patch_size": (96, 96, 96)},
            'patches of 160×160×160 voxels, those here have 96×96×96; --patch_size "[160, 160',
        ),
    ],
)
def test_each_difference_is_a_sentence(settings, words):
    (line,) = of_plan().differences(**settings)
    assert words in line
    assert line.startswith("the pretraining had ")
