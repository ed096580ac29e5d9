"""Windows of a CT that hold nothing but air."""

import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from step_helpers import Calls
from streaming_helpers import WINDOW, Blobs, axes_of, scheme_of

from mednextv2.inference import StreamingInferer, air_level
from mednextv2.inference.air_skipping import air_windows
from mednextv2.inference.window_cells import Axis, window_order
from mednextv2.transforms import Resampled


def body(size=64):
    """A CT in HU, normalised to thousands: air, a ball of tissue, and in it a bubble of air."""
    z, y, x = np.ogrid[:size, :size, :size]
    distance = np.sqrt((z - size / 2) ** 2 + (y - size / 2) ** 2 + (x - size / 2) ** 2)
    image = np.where(distance < 20, 0.04, -1.0)
    return torch.from_numpy(np.where(distance < 9, -1.0, image)).float()[None, None]


def test_windows_of_air_are_not_predicted_and_labels_of_the_body_stay(caplog):
    image, scheme, seen = body(), scheme_of(4, False), []
    net = Blobs(4)

    def network(x):
        seen.append(len(x))
        return net(x)

    settings = {"roi_size": (8, 8, 8), **WINDOW}
    full = StreamingInferer(scheme=scheme, **settings)(image, network)
    windows, _ = sum(seen), seen.clear()
    with caplog.at_level(logging.INFO):
        fast = StreamingInferer(scheme=scheme, air=-0.9, **settings)(image, network)
    assert sum(seen) < 0.7 * windows
    assert f"{windows - sum(seen)} of {windows} windows are nothing but air" in caplog.text
    inside = image > -0.9
    assert inside.any()
    assert torch.equal(full[inside], fast[inside])
    assert (fast != full).any()  # around it, background instead of what the network makes of air
    assert (fast[0, 0, :4, :4, :4] == 0).all()


@pytest.mark.parametrize("regions", [False, True], ids=["classes", "regions"])
def test_air_next_to_the_body_is_background_after_resampling_too(regions):
    image = MetaTensor(body(40)[0] * 3, affine=torch.eye(4))
    batch = list_data_collate([Resampled("image", (1.3, 1.1, 0.9))({"image": image})])
    infer = StreamingInferer((8, 8, 8), scheme_of(3, regions), air=-2.7, **WINDOW)
    labels = infer(batch["image"], Blobs(3))[0, 0]
    assert labels.shape == (40, 40, 40)
    assert (labels[:3, :3, :3] == 0).all()
    assert len(labels.unique()) > 2


def test_air_inside_the_body_is_predicted():
    image, axes = body()[0], axes_of((64, 64, 64), 8, 4)
    skipped = air_windows(image, axes, [-0.9])
    for window in window_order(axes):
        place = tuple(slice(axis.starts[w], axis.starts[w] + 8) for axis, w in zip(axes, window, strict=True))
        centre = np.array([axis.starts[w] + 4 for axis, w in zip(axes, window, strict=True)]) - 32
        all_air = bool((image[0][place] <= -0.9).all())
        assert (window in skipped) == (all_air and np.linalg.norm(centre) > 12)
    assert (image[0, 29:37, 29:37, 29:37] == -1).all()


def test_an_image_of_air_is_background():
    labels = StreamingInferer((8, 8, 8), scheme_of(3, False), air=0.0)(torch.zeros(1, 1, 20, 20, 20), Blobs(3))
    assert (labels == 0).all()


def test_level_of_air_is_that_of_the_normalisation():
    ct = {"scheme": "ct", "lower": -1000.0, "upper": 1000.0, "mean": 100.0, "std": 200.0}
    assert air_level([ct]) == [-5.0]
    assert air_level([ct, {**ct, "std": 100.0}]) == [-5.0, -10.0]
    assert air_level([{**ct, "lower": -160.0}]) is None  # fat is clipped to the same value
    assert air_level([ct, {"scheme": "zscore", "inside_mask": False}]) is None
    assert air_level([]) is None


def test_windows_of_air_are_found_with_one_copy():
    image = torch.zeros(2, 40, 30, 20)
    image[:, 20:] = -1
    axes = [Axis(n, 16, tuple(range(0, n - 15, 4))) for n in (40, 30, 20)]
    with Calls() as calls:
        found = air_windows(image, axes, [-0.9, -0.9])
    assert found == {w for w in window_order(axes) if axes[0].starts[w[0]] >= 20}
    assert calls.waits == []  # no number is read; on the CPU the copy is none


def test_an_axis_shorter_than_a_window_has_no_windows_of_air():
    assert air_windows(torch.full((1, 4, 30), -1.0), [Axis(4, 8, (-2,)), Axis(30, 8, (0, 11, 22))], -0.9) == set()


def test_every_channel_has_its_own_level():
    image, axes = torch.zeros(2, 20, 20), axes_of((20, 20), 4, 4)
    image[0], image[1] = -1.0, -3.0
    every = set(window_order(axes))
    assert air_windows(image, axes, [-1.0, -3.0]) == every  # the level itself is air
    assert air_windows(image, axes, [-1.0, -3.1]) == set()
    assert air_windows(image, axes, -1.0) == every
    image[1, 9, 9] = 0  # one voxel of one channel
    assert every - air_windows(image, axes, [-1.0, -3.0]) == {(2, 2)}


def test_the_level_of_a_narrow_window_is_its_upper_end():
    """Intensities are clipped to the scheme's range first, so what was above -950 HU is at -950."""
    ct = {"scheme": "ct", "lower": -1024.0, "upper": -950.0, "mean": -1000.0, "std": 25.0}
    assert air_level([ct]) == [2.0]
