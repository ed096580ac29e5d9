from itertools import pairwise

import numpy as np
import pytest
import torch
from forked_processes import in_two_processes, joined
from patch_helpers import LABELS, PATCH, SHAPE, make_dataset, same
from scipy.stats import chisquare
from torch.utils.data import DataLoader

from mednextv2.data import LabelScheme, PatchSampler
from mednextv2.transforms.spatial import RandPlacement


def numbered(shape=SHAPE):
    """An image whose voxels have their own index plus one, so that a patch shows where it lies."""
    return torch.arange(1, np.prod(shape) + 1).reshape(1, *shape).float() / 1024  # exact in half precision up to 2**11


def blocks(*values, shape=SHAPE):
    """A label map with a few voxels of each value."""
    label = np.zeros(shape, np.int16)
    for value in values:
        label[4 + 3 * value - 2, 5:9, 6:9] = value
    return label


# --- which patches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "centred"),
    [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 3), (9, 3), (10, 3), (11, 4), (12, 4)],
)
def test_last_patches_of_a_batch_are_centred_as_many_as_in_nnunet(batch_size, centred):
    keys = list(PatchSampler(3, batch_size, steps=4))
    expected = [False] * (batch_size - centred) + [True] * centred
    assert [key[1] for key in keys] == expected * 4


@pytest.mark.parametrize(("foreground", "centred"), [(0, 0), (1, 4), (0.5, 2)])
def test_part_of_centred_patches_can_be_another(foreground, centred):
    assert sum(key[1] for key in PatchSampler(3, 4, 1, foreground)) == centred


def test_epoch_has_a_batch_a_step():
    sampler = PatchSampler(3, batch_size=4, steps=5)
    assert len(sampler) == len(list(sampler)) == 20
    loader = DataLoader(range(3), batch_size=4, sampler=sampler, collate_fn=len)
    assert len(loader) == 5


def test_cases_are_drawn_uniformly_with_replacement():
    keys = list(PatchSampler(7, batch_size=2, steps=3500))
    for centred in (False, True):
        counts = np.bincount([case for case, c, _ in keys if c is centred], minlength=7)
        assert len(counts) == 7
        assert chisquare(counts).pvalue > 1e-3
    repeats = np.mean([a[0] == b[0] for a, b in pairwise(keys)])
    assert repeats == pytest.approx(1 / 7, abs=0.02)  # each draw forgets the one before


def test_every_patch_has_another_seed_in_every_epoch():
    sampler = PatchSampler(2, batch_size=2, steps=100)
    seeds = [seed for _ in range(2) for *_, seed in sampler]
    assert len(set(seeds)) == 400
    assert 0 <= min(seeds) <= max(seeds) < 2**31


def test_keys_depend_on_the_seed_of_pytorch():
    def draw(seed):
        torch.manual_seed(seed)
        return list(PatchSampler(5, 3, 10))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def one_process_of_two(rank, folder):
    with joined(rank, folder):
        return {n: [key[1] for key in PatchSampler(3, n, steps=2)] for n in range(1, 7)}


def test_batch_of_two_processes_together_has_the_centred_patches_of_one(tmp_path):
    first, second = in_two_processes(one_process_of_two, tmp_path)
    for n in range(1, 7):
        whole = [key[1] for key in PatchSampler(3, 2 * n, steps=1)]
        assert first[n] == whole[:n] * 2
        assert second[n] == whole[n:] * 2


# --- where patches lie -----------------------------------------------------------------------------------------------


def place(item, shape=SHAPE):
    """Index of the patch's centre in the volume, from the numbered image."""
    centre = tuple(n // 2 for n in item["image"].shape[1:])
    return tuple(map(int, np.unravel_index(round(item["image"][0][centre].item() * 1024) - 1, shape)))


def centre_label(item):
    return item["label"][0][tuple(n // 2 for n in item["label"].shape[1:])].item()


def test_patches_are_crops_of_the_case(tmp_path):
    shape = (12, 13, 13)  # 2028 voxels
    label = np.random.default_rng(0).integers(0, 4, shape)
    dataset = make_dataset(tmp_path, [label], image=numbered(shape))
    for seed in range(50):
        item = dataset[0, seed % 2 == 1, seed]
        assert (item["image"].dtype, item["label"].dtype, item["seed"]) == (torch.float32, torch.int16, seed)
        assert item["image"].shape == item["label"].shape == (1, *PATCH)
        inside = item["image"][0] > 0
        index = np.round(item["image"][0][inside].numpy() * 1024).astype(int) - 1
        assert np.array_equal(item["label"][0][inside].numpy(), label.reshape(-1)[index])
        assert (item["label"][0][~inside] == -1).all()
        if seed % 2 == 0:
            assert inside.all()


def test_centred_patches_show_each_structure_of_the_case_equally_often_at_their_centre(tmp_path):
    label = blocks(1, 3)
    label[5, 5, 6] = 1  # a structure's size does not count
    label[12:, 4:, 4:] = 3
    dataset = make_dataset(tmp_path, [label])
    found = [centre_label(dataset[0, True, seed]) for seed in range(600)]
    assert set(found) == {1, 3}
    assert chisquare([found.count(1), found.count(3)]).pvalue > 1e-3


def test_centred_patches_are_on_every_voxel_of_a_structure_equally_often(tmp_path):
    shape = (12, 13, 13)
    label = np.zeros(shape)
    label[4:7, 5, 6:8] = 1
    dataset = make_dataset(tmp_path, [label], image=numbered(shape))
    found = [place(dataset[0, True, seed], shape) for seed in range(900)]
    voxels = [tuple(v) for v in np.argwhere(label).tolist()]
    assert set(found) == set(voxels)
    assert chisquare([found.count(v) for v in voxels]).pvalue > 1e-3


def test_centred_patches_of_regions_show_one_of_their_values(tmp_path):
    regions = [{"name": "two", "values": [1, 2], "paint": 1}, {"name": "none", "values": [3], "paint": 3}]
    dataset = make_dataset(tmp_path, [blocks(1, 2)], scheme=LabelScheme(LABELS, regions))
    assert {centre_label(dataset[0, True, seed]) for seed in range(60)} == {1, 2}


@pytest.mark.parametrize("corner", [(0, 0, 0), (15, 13, 11)])
def test_patch_of_a_voxel_at_the_border_contains_it(tmp_path, corner):
    label = np.zeros(SHAPE)
    label[corner] = 2
    item = make_dataset(tmp_path, [label])[0, True, 0]
    assert (item["label"] == 2).sum() == 1
    if corner == (0, 0, 0):
        assert (item["label"] >= 0).all()  # moved up to the border
    else:
        assert centre_label(item) == 2
        assert (item["label"][0, PATCH[0] // 2 + 1 :] == -1).all()
        assert (item["image"][:, PATCH[0] // 2 + 1 :] == 0).all()


def test_patches_that_are_not_centred_lie_anywhere_in_the_volume_equally_often(tmp_path):
    shape = (12, 13, 13)
    dataset = make_dataset(tmp_path, [np.zeros(shape)], image=numbered(shape))
    found = np.array([place(dataset[0, False, seed], shape) for seed in range(700)])
    for axis, (n, p) in enumerate(zip(shape, PATCH, strict=True)):
        counts = np.bincount(found[:, axis] - p // 2, minlength=n - p + 1)
        assert len(counts) == n - p + 1
        assert chisquare(counts).pvalue > 1e-3


def test_case_without_foreground_gives_the_patches_that_are_not_centred(tmp_path):
    dataset = make_dataset(tmp_path, [np.zeros(SHAPE)])
    for seed in range(10):
        assert same(dataset[0, True, seed], dataset[0, False, seed])


def test_patches_that_are_not_centred_are_on_annotated_voxels_where_there_is_an_ignore_label(tmp_path):
    label = np.full(SHAPE, 4)
    label[9, 4:10, 6] = [0, 0, 1, 0, 0, -1]
    scheme = LabelScheme(LABELS, ignore_label=4)
    dataset = make_dataset(tmp_path, [label, np.where(label == 1, 0, label)], scheme=scheme)
    found = [centre_label(dataset[0, False, seed]) for seed in range(600)]
    assert set(found) == {-1, 0, 1}
    assert chisquare([found.count(v) for v in (-1, 0, 1)], [100, 400, 100]).pvalue > 1e-3
    assert {centre_label(dataset[0, True, seed]) for seed in range(20)} == {1}
    assert {centre_label(dataset[1, True, seed]) for seed in range(60)} == {-1, 0}  # annotated, without foreground


def test_case_of_which_nothing_is_annotated_gives_patches_anywhere(tmp_path):
    dataset = make_dataset(tmp_path, [np.full(SHAPE, 4)], scheme=LabelScheme(LABELS, ignore_label=4))
    assert (dataset[0, True, 0]["label"] == 4).all()


@pytest.mark.parametrize("centred", [False, True])
def test_patch_larger_than_the_image_is_padded_before_the_transform(tmp_path, centred):
    seen = []

    def look(item):
        seen.append({k: v.clone() for k, v in item.items() if k != "seed"})
        return item

    shape, patch = (4, 5, 3), (8, 5, 6)
    label = np.random.default_rng(0).integers(0, 4, shape)
    image = torch.rand(1, *shape) + 1
    dataset = make_dataset(tmp_path, [label], patch, image=image, transform=look)
    for seed in range(10):
        item = dataset[0, centred, seed]
        assert same({k: item[k] for k in ("image", "label")}, seen[-1])
        inside = item["image"][0] > 0
        assert torch.equal(item["label"][0] == -1, ~inside)
        if not centred:  # in the middle of the patch
            assert np.array_equal(item["label"][0, 2:6, :, 1:4].numpy(), label)
            assert torch.equal(item["image"][0, 2:6, :, 1:4], image[0].half().float())


def test_placement_turns_patches_around_their_centre(tmp_path):
    shape = (12, 13, 13)
    label = np.zeros(shape)
    label[5, 6, 6] = 1
    placement = RandPlacement(PATCH, rotation_prob=1, scale_prob=0)
    plain, turned = (make_dataset(tmp_path, [label], image=numbered(shape), placement=p) for p in (None, placement))
    for seed in range(5):
        assert place(turned[0, True, seed], shape) == place(plain[0, True, seed], shape) == (5, 6, 6)
        assert not torch.equal(turned[0, True, seed]["image"], plain[0, True, seed]["image"])
    assert not torch.equal(turned[0, True, 0]["image"], turned[0, True, 1]["image"])


def test_cases_that_are_prepared_when_drawn_give_the_same_patches(tmp_path):
    labels = [np.random.default_rng(i).integers(0, 4, SHAPE) for i in range(3)]
    image = torch.randn(2, *SHAPE)
    ahead = make_dataset(tmp_path, labels, image=image)
    (tmp_path / "later").mkdir()
    later = make_dataset(tmp_path / "later", labels, image=image, prepare_ahead=False)
    prepared = tmp_path / "later" / "prepared"
    assert not [*prepared.rglob("*.npy")]
    assert same(later[2, True, 5], ahead[2, True, 5])
    assert len([*prepared.rglob("*image.npy")]) == 1
    assert same(later[2, False, 6], ahead[2, False, 6])
    assert same(later[0, True, 7], ahead[0, True, 7])
    assert len([*prepared.rglob("*image.npy")]) == 2
    assert ahead.chances is None
    assert "structures" not in ahead[0, True, 1]
