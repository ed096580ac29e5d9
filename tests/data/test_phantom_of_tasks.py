"""Phantoms of any task: labels, channels, voxel size and intensities are those that were asked for."""

import json

import nibabel as nib
import numpy as np
import pytest

from mednextv2.data import LabelScheme, check_dataset, make_task_phantom, read_dataset
from mednextv2.errors import InputError
from mednextv2.transforms import NormalizeChannelsd

CT = {"scheme": "ct", "lower": -175.0, "upper": 250.0, "mean": 37.5, "std": 122.7}
MR = {"scheme": "zscore", "inside_mask": False}
STRIPPED = {"scheme": "zscore", "inside_mask": True}
SHAPE = (20, 22, 18)


def make(
    folder, labels=3, channels=("CT",), normalization=(CT,), shape=SHAPE, cases=2, regions=(), ignore=None, **more
):
    scheme = LabelScheme(["background", *(f"structure {n}" for n in range(1, labels + 1))], list(regions), ignore)
    spacing = more.pop("spacing", (0.8, 1.0, 2.5))
    return make_task_phantom(folder, scheme, channels, spacing, normalization, shape, cases, **more)


def load(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("labels", [1, 2, 8, 9, 117])
def test_every_label_is_in_every_case(tmp_path, labels):
    folder = make(tmp_path / "data", labels, shape=(30, 31, 32))
    for case in read_dataset(folder).cases:
        assert np.unique(load(case.label)).tolist() == list(range(labels + 1))


def test_the_data_set_is_sound_and_has_the_geometry(tmp_path):
    folder = make(tmp_path / "data")
    dataset = read_dataset(folder)
    assert (dataset.channels, len(dataset.cases)) == (("CT",), 2)
    assert len(check_dataset(dataset.cases, dataset.scheme().declared, dataset.channels)) == 2
    image = nib.load(dataset.cases[0].images[0])
    assert image.shape == SHAPE
    assert image.header.get_zooms() == pytest.approx((0.8, 1.0, 2.5))


def test_regions_and_the_ignore_label_are_declared(tmp_path):
    regions = [{"name": "whole", "values": [1, 2, 3], "paint": 2}, {"name": "core", "values": [3], "paint": 3}]
    folder = make(tmp_path / "data", regions=regions, ignore=4)
    scheme = read_dataset(folder).scheme()
    assert [(r.name, r.values, r.paint) for r in scheme.regions] == [("whole", (1, 2, 3), 2), ("core", (3,), 3)]
    assert scheme.ignore_label == 4
    label = load(folder / "labelsTr" / "phantom_000.nii.gz")
    assert (label[..., -2:] == 4).all()
    assert (label[..., :-2] < 4).all()


def test_ct_has_air_around_a_body_within_the_window(tmp_path):
    image = load(make(tmp_path / "data") / "imagesTr" / "phantom_000_0000.nii.gz")
    label = load(tmp_path / "data" / "labelsTr" / "phantom_000.nii.gz")
    assert image[0, 0, 0] == pytest.approx(-1000, abs=60)
    inside = image[label > 0]
    assert CT["lower"] < inside.min() < inside.max() < CT["upper"] + 60
    assert image[10, 11, 9] > -175


def test_a_stripped_image_is_zero_outside_in_every_channel(tmp_path):
    folder = make(tmp_path / "data", channels=("T1", "T2"), normalization=(STRIPPED, STRIPPED))
    one, two = (load(folder / "imagesTr" / f"phantom_000_000{c}.nii.gz") for c in range(2))
    assert ((one == 0) == (two == 0)).all()
    assert 0.05 < (one == 0).mean() < 0.5
    assert (one[load(folder / "labelsTr" / "phantom_000.nii.gz") > 0] > 0).all()


def test_mr_has_a_scale_of_its_own_in_every_case(tmp_path):
    folder = make(tmp_path / "data", channels=("MR",), normalization=(MR,), cases=6)
    means = [load(case.images[0]).mean() for case in read_dataset(folder).cases]
    assert max(means) > 1.5 * min(means)


@pytest.mark.parametrize("scheme", ["rgb_to_0_1", "rescale_to_0_1", "none"])
def test_every_scheme_can_be_applied(tmp_path, scheme):
    folder = make(tmp_path / "data", normalization=({"scheme": scheme},))
    image = load(folder / "imagesTr" / "phantom_000_0000.nii.gz")[None].astype(np.float32)
    import torch

    out = NormalizeChannelsd("image", [{"scheme": scheme}])({"image": torch.from_numpy(image)})["image"]
    assert torch.isfinite(out).all()


def test_structures_differ_in_brightness_and_keep_their_place(tmp_path):
    folder = make(tmp_path / "data", labels=8, cases=3)
    places, levels = [], []
    for case in read_dataset(folder).cases:
        image, label = load(case.images[0]), load(case.label)
        places.append([np.argwhere(label == value).mean(0) for value in range(1, 9)])
        levels.append([image[label == value].mean() for value in range(1, 9)])
    assert np.ptp(places, axis=0).max() < 2  # voxels
    assert (np.diff(levels, axis=1) > 10).all()  # HU


def test_same_seed_same_data_and_another_seed_other_data(tmp_path):
    one, two, other = (make(tmp_path / str(n), seed=seed) for n, seed in enumerate((1, 1, 2)))
    name = "imagesTr/phantom_001_0000.nii.gz"
    assert (load(one / name) == load(two / name)).all()
    assert (load(one / name) != load(other / name)).any()


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"shape": (15, 20, 20)}, "3 structures need 16 voxels along each axis"),
        ({"labels": 117, "shape": (29, 30, 30)}, "117 structures need 30 voxels along each axis"),
        ({"shape": (20, 20)}, "a phantom needs two or three axes in both"),
        ({"spacing": (1.0, 1.0)}, "a phantom needs two or three axes in both"),
        ({"cases": 0}, "should be a whole number from 1"),
        ({"seed": -1}, "should be a whole number from 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, wanted, words):
    with pytest.raises(InputError, match=words):
        make(tmp_path / "data", **wanted)
    assert not (tmp_path / "data").exists()


def test_a_folder_with_a_data_set_is_left_alone(tmp_path):
    folder = make(tmp_path / "data", cases=1)
    before = json.loads((folder / "dataset.json").read_text())
    with pytest.raises(InputError, match="holds a data set already"):
        make(folder)
    assert json.loads((folder / "dataset.json").read_text()) == before
