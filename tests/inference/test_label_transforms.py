import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from mednextv2.inference.label_transforms import DecideLabelsd, StructureMasksd
from mednextv2.label_scheme import LabelScheme

CLASSES = LabelScheme(["background", "a", "b"])
REGIONS = LabelScheme(
    ["background", "edema", "core", "active"],
    [
        {"name": "whole", "values": [1, 2, 3], "paint": 1},
        {"name": "tumour", "values": [2, 3], "paint": 2},
        {"name": "enhancing", "values": [3], "paint": 3},
    ],
)
AFFINE = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))


def meta(array):
    return MetaTensor(array, affine=AFFINE, meta={"filename_or_obj": "a.nii.gz"})


def assert_meta_kept(tensor):
    assert isinstance(tensor, MetaTensor)
    assert torch.equal(tensor.affine, AFFINE)
    assert tensor.meta["filename_or_obj"] == "a.nii.gz"


def test_the_largest_class_wins():
    logits = torch.randn(3, 4, 5, 6)
    found = DecideLabelsd("pred", CLASSES)({"pred": logits, "other": 1})
    assert found["other"] == 1
    assert found["pred"].dtype == torch.uint8
    np.testing.assert_array_equal(found["pred"], logits.numpy().argmax(0, keepdims=True))


def test_regions_are_painted_in_their_order_where_their_probability_is_above_a_half():
    # voxels: nothing; whole; whole and tumour; all; enhancing alone; tumour alone; exactly one half
    logits = torch.tensor(
        [[-1.0, 1, 1, 1, -1, -1, 0], [-1.0, -1, 1, 1, -1, 1, 0], [-1.0, -1, -1, 1, 0.1, -1, 0]]
    ).reshape(3, 7, 1, 1)
    found = DecideLabelsd("pred", REGIONS)({"pred": logits})["pred"]
    assert found.flatten().tolist() == [0, 1, 2, 3, 3, 2, 0]


def test_a_decision_keeps_position_and_source_and_the_given_dict():
    data = {"pred": meta(torch.randn(3, 4, 5, 6))}
    given = data["pred"]
    found = DecideLabelsd("pred", CLASSES)(data)
    assert_meta_kept(found["pred"])
    assert data["pred"] is given


@pytest.mark.parametrize("scheme", [CLASSES, REGIONS], ids=["classes", "regions"])
def test_structures_become_channels_behind_the_background(scheme):
    label = torch.randint(len(scheme.labels), (1, 4, 5, 6)).to(torch.uint8)
    masks = StructureMasksd(["pred", "label"], scheme)({"pred": label.flip(1), "label": label})
    for key, given in (("pred", label.flip(1)[0].numpy()), ("label", label[0].numpy())):
        assert masks[key].dtype == torch.uint8
        assert masks[key].shape == (1 + len(scheme.foreground), 4, 5, 6)
        expected = [given == 0, *(np.isin(given, values) for values in scheme.members)]
        np.testing.assert_array_equal(masks[key], np.stack(expected))


def test_labels_that_are_in_no_region_are_background():
    scheme = LabelScheme(["background", "a", "b"], [{"name": "only b", "values": [2], "paint": 2}])
    label = torch.tensor([0, 1, 2]).reshape(1, 3, 1, 1)
    masks = StructureMasksd("label", scheme)({"label": label})["label"]
    assert masks.flatten(1).tolist() == [[1, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("keys", [["pred", "label"], ["label", "pred"]])
def test_voxels_that_were_not_annotated_are_in_no_channel_of_either(keys):
    scheme = LabelScheme(["background", "a"], ignore_label=2)
    data = {"label": torch.tensor([0, 1, 2, 2]), "pred": torch.tensor([1, 1, 1, 0])}
    data = {key: value.reshape(1, 4, 1, 1).to(torch.uint8) for key, value in data.items()}
    masks = StructureMasksd(keys, scheme)(data)
    assert masks["label"].flatten(1).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert masks["pred"].flatten(1).tolist() == [[0, 0, 0, 0], [1, 1, 0, 0]]


def test_another_key_may_hold_the_truth():
    scheme = LabelScheme(["background", "a"], ignore_label=2)
    data = {"seg": torch.tensor([1, 2]).reshape(1, 2, 1, 1), "pred": torch.ones(1, 2, 1, 1)}
    assert StructureMasksd("pred", scheme, truth="seg")(data)["pred"].flatten(1).tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("ignore", [None, 3])
def test_masks_keep_position_and_source(ignore):
    scheme = LabelScheme(CLASSES.labels, ignore_label=ignore)
    label = meta(torch.randint(3, (1, 4, 5, 6)).float())
    masks = StructureMasksd(["pred", "label"], scheme)({"pred": meta(label.as_tensor().byte()), "label": label})
    assert_meta_kept(masks["label"])
    assert_meta_kept(masks["pred"])


@pytest.mark.parametrize("kind", [np.array, torch.tensor, MetaTensor])
def test_structures_that_a_case_does_not_annotate_are_empty(kind):
    label = torch.tensor([0, 1, 2]).reshape(1, 3, 1, 1)
    data = {"pred": label.flip(1), "label": label, "structures": kind([False, True])}
    masks = StructureMasksd(["pred", "label"], CLASSES)(data)
    assert masks["label"].flatten(1).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert masks["pred"].flatten(1).tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
