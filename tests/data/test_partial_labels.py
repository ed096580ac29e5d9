import pytest
import torch
from monai.data import MetaTensor

from mednextv2.data.partial_labels import PartialLabels, prepare_patches


def batch(**more):
    return {"image": torch.rand(2, 1, 3, 3), "label": torch.ones(2, 1, 3, 3, dtype=torch.int16), **more}


def test_a_batch_of_one_data_set_is_an_image_and_a_label():
    given = batch(seed=torch.tensor([1, 2]))
    image, label = prepare_patches(given, device="cpu", non_blocking=True)
    assert image is given["image"]
    assert label is given["label"]


@pytest.mark.parametrize("kind", [torch.tensor, MetaTensor])
def test_a_batch_of_several_data_sets_says_what_is_annotated(kind):
    image, labels = prepare_patches(batch(structures=kind([[True, False], [False, True]])), device="meta")
    assert isinstance(labels, PartialLabels)
    assert image.device.type == labels.label.device.type == "meta"
    assert labels.structures.device.type == "cpu"  # where it is looked at without waiting for a GPU
    assert labels.structures.tolist() == [[True, False], [False, True]]
