"""Patches of images without labels."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from monai.transforms import Compose, RandFlipd

from mednextv2.data import CaseStore, FixedPatches, ImagePatches, PatchSampler
from mednextv2.transforms import RandPlacement


def load(item):
    return {"image": torch.from_numpy(np.load(item["image"]))}


@pytest.fixture
def patches(tmp_path):
    """Patches of two images, in which every voxel has its own number; the second is smaller than a patch."""
    items = []
    for name, shape in (("large", (1, 20, 21, 22)), ("small", (1, 6, 20, 30))):
        np.save(tmp_path / f"{name}.npy", np.arange(1, np.prod(shape) + 1).reshape(shape).astype(np.float32) / 8)
        items.append({"image": str(tmp_path / f"{name}.npy"), "case": name})
    store = CaseStore(load, None, tmp_path / "prepared", {})
    return lambda **kwargs: ImagePatches(items, store, (8, 8, 8), **kwargs)


def test_a_patch_is_a_crop_of_its_image(patches, tmp_path):
    item = patches()[0, 5, 17]
    assert (item["case"], item["number"], item["seed"]) == ("large", 5, 17)
    volume = np.load(tmp_path / "large.npy").astype(np.float16)
    windows = np.lib.stride_tricks.sliding_window_view(volume[0], (8, 8, 8))
    assert (windows == item["image"][0].numpy()).all(axis=(-3, -2, -1)).sum() == 1


def test_a_small_image_is_padded_with_zeros_on_both_sides(patches):
    patch = patches()[1, 0, 3]["image"][0]
    assert patch.shape == (8, 8, 8)
    assert [bool(plane.any()) for plane in patch] == [False, *[True] * 6, False]


def test_a_patch_depends_on_its_key_alone(patches):
    flips = Compose([RandFlipd("image", 0.5, axis) for axis in range(3)])
    augmented = patches(placement=RandPlacement((8, 8, 8), 1.0, 1.0), transform=flips)
    first, other, again = augmented[0, 0, 1], augmented[0, 0, 2], augmented[0, 0, 1]
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], other["image"])
    assert type(first["image"]) is torch.Tensor


def test_the_sampler_of_segmentations_draws_images_uniformly():
    torch.manual_seed(0)
    keys = list(PatchSampler(4, 5, 400, foreground=0.0))
    assert {centred for _, centred, _ in keys} == {False}
    counts = np.bincount([index for index, _, _ in keys])
    assert (abs(counts - 500) < 5 * np.sqrt(500)).all()


def test_fixed_patches_are_the_same_every_time_and_of_all_images_in_turn():
    keys = FixedPatches(3, 2, 4, seed=1)
    assert list(keys) == list(keys) == list(FixedPatches(3, 2, 4, seed=1))
    assert [index for index, _, _ in keys] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert [number for _, number, _ in keys] == list(range(8))
    assert len(keys) == 8
    assert len({seed for *_, seed in keys}) == 8
    assert list(FixedPatches(3, 2, 4, seed=2)) != list(keys)


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_share_the_patches_of_a_single_one(monkeypatch, rank):
    alone = list(FixedPatches(3, 4, 2, seed=1))  # a batch of four
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    mine = list(FixedPatches(3, 2, 2, seed=1))  # two of two
    assert mine == [key for step in (0, 1) for key in alone[4 * step + 2 * rank :][:2]]
