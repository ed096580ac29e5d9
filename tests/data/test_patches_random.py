"""Patches do not depend on processes and threads, only on their seeds."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandFlipd, RandGaussianNoised
from patch_helpers import PATCH, SHAPE, make_dataset, same
from torch.utils.data import DataLoader

from mednextv2.data import AugmentBatch, PatchSampler
from mednextv2.data.patches import apply_seeded
from mednextv2.transforms.spatial import RandPlacement


def augmentation():
    return Compose(
        [RandFlipd(["image", "label"], prob=0.5, spatial_axis=a) for a in range(3)]
        + [RandGaussianNoised("image", prob=0.8, std=1.0)]
    )


# --- random numbers --------------------------------------------------------------------------------------------------


def random_dataset(folder):
    labels = [np.random.default_rng(i).integers(0, 4, SHAPE) for i in range(3)]
    placement = RandPlacement(PATCH, rotation_prob=0.5, scale_prob=0.5)
    return make_dataset(folder, labels, placement=placement, transform=augmentation())


def test_patch_depends_on_its_key_alone(tmp_path):
    dataset = random_dataset(tmp_path)
    keys = [(0, False, 1), (1, True, 2), (2, False, 2**31 - 1), (0, False, 3)]
    first = [dataset[key] for key in keys]
    np.random.seed(5)  # noqa: NPY002  whatever else is drawn
    torch.manual_seed(5)
    assert all(same(dataset[key], item) for key, item in list(zip(keys, first, strict=True))[::-1])
    assert not torch.equal(first[0]["image"], first[3]["image"])


def test_every_number_of_workers_gives_the_same_batches(tmp_path):
    dataset = random_dataset(tmp_path)

    def batches(workers):
        torch.manual_seed(3)
        sampler = PatchSampler(len(dataset), batch_size=3, steps=3)
        loader = DataLoader(dataset, batch_size=3, sampler=sampler, num_workers=workers)
        return [batch for _ in range(2) for batch in loader]

    alone, two = batches(0), batches(2)
    assert len(alone) == 6
    assert all(same(a, b) for a, b in zip(alone, two, strict=True))
    assert not torch.equal(alone[0]["image"], alone[3]["image"])  # another epoch


def test_augmentation_of_a_batch_is_that_of_the_workers(tmp_path):
    augmented = random_dataset(tmp_path)
    plain = random_dataset(tmp_path)
    plain.transform = None
    keys = [(i % 3, i % 2 == 1, 1000 + i) for i in range(6)]
    expected = next(iter(DataLoader(augmented, batch_size=6, sampler=keys)))
    batch = next(iter(DataLoader(plain, batch_size=6, sampler=keys)))
    images, labels = AugmentBatch(augmentation())(batch, torch.device("cpu"), non_blocking=True)
    assert torch.equal(images, expected["image"])
    assert torch.equal(labels, expected["label"])
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int16)
    assert not torch.equal(images, batch["image"])
    assert not torch.equal(labels, batch["label"])


def test_result_is_a_plain_tensor(tmp_path):
    transform = Compose([lambda item: item | {"image": MetaTensor(item["image"])}, augmentation()])
    item = apply_seeded(transform, {"image": torch.zeros(1, *PATCH), "label": torch.zeros(1, *PATCH), "seed": 3})
    assert all(type(item[key]) is torch.Tensor for key in ("image", "label"))
    batch = {key: torch.zeros(2, 1, *PATCH) for key in ("image", "label")} | {"seed": torch.tensor([1, 2])}
    assert all(type(part) is torch.Tensor for part in AugmentBatch(transform)(batch))


@pytest.mark.parametrize("seed", [0, 2**31 - 1, 2**32 - 1])
def test_transforms_draw_from_the_seed_of_the_item(seed):
    def draw(seed, transform):
        return apply_seeded(transform, {"image": torch.zeros(1, 4, 4, 4), "seed": seed})["image"]

    noise = RandGaussianNoised("image", prob=1.0, std=1.0)
    for transform in (noise, Compose([noise]), Compose([Compose([noise])])):
        first = draw(seed, transform)
        draw(7, transform)
        assert torch.equal(draw(seed, transform), first)
        assert not torch.equal(draw(seed - 1 if seed else 1, transform), first)


def test_transforms_in_a_row_do_not_repeat_each_other_s_numbers():
    noise = [RandGaussianNoised("image", prob=1.0, mean=0.0, std=1.0, sample_std=False) for _ in range(2)]
    item = {"image": torch.zeros(1, 8, 8, 8), "seed": 5}
    one = apply_seeded(noise[0], dict(item, image=torch.zeros(1, 8, 8, 8)))["image"]
    both = apply_seeded(Compose(noise), dict(item, image=torch.zeros(1, 8, 8, 8)))["image"]
    assert abs(np.corrcoef(one.flatten(), (both - one).flatten())[0, 1]) < 0.3


def test_any_callable_can_be_the_transform():
    assert apply_seeded(lambda item: item | {"image": item["image"] + 1}, {"image": torch.zeros(2), "seed": 1})[
        "image"
    ].tolist() == [1, 1]
