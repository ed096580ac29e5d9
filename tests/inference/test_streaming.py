"""The streaming window against the route that holds all logits: MONAI's sliding window, Invertd, arg-max."""

import logging
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from cuda_stand_in import StandIn
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import list_data_collate
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd
from step_helpers import META, Calls
from torch import nn

from mednextv2.data import LabelScheme
from mednextv2.errors import InputError
from mednextv2.inference import MirroringInferer, StreamingInferer, air_level
from mednextv2.inference.air_skipping import air_windows
from mednextv2.inference.fold_ensemble import FoldEnsemble
from mednextv2.inference.logits_to_labels import LabelWriter, Target
from mednextv2.inference.window_cells import Axis, Cells, most_waiting, shift, window_order
from mednextv2.transforms import Resampled

OBLIQUE = np.array([[0.9, 0.3, 0.1, 5], [-0.3, 0.9, 0.2, -8], [0.0, -0.2, 1.9, 3], [0, 0, 0, 1]])
WINDOW = {"sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian"}


class Blobs(nn.Module):
    """A small network whose classes form blobs of some voxels, as anatomy does; logits as different as real ones."""

    def __init__(self, outputs, dims=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = (nn.Conv3d if dims == 3 else nn.Conv2d)(1, outputs, 5, padding=2)
        self.pool = (nn.AvgPool3d if dims == 3 else nn.AvgPool2d)(3, 1, 1)

    def forward(self, x):
        return 20 * self.pool(self.conv(x))


class Last(nn.Module):
    """A network whose channels are last in memory, as ours are."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).contiguous(memory_format=torch.channels_last_3d)


def scheme_of(outputs, regions):
    if not regions:
        return LabelScheme(["background", *(f"class {i}" for i in range(1, outputs))])
    entries = [{"name": f"region {i}", "values": [1 + i % 3], "paint": 1 + i % 3} for i in range(outputs)]
    return LabelScheme(["background", "a", "b", "c"], entries)


def batch_of(shape, affine, pixdim, seed=0):
    """Preprocess a random image; return the batch and the transforms."""
    torch.manual_seed(seed)
    image = torch.randn(1, *shape)
    for axis in range(1, len(shape) + 1):
        image = image.cumsum(axis) / 2
    image -= image.mean()
    image[:, :2] = 0  # is cut away
    transforms = Compose([
        Orientationd("image", "RAS"[: len(shape)], labels=[["L", "R"], ["P", "A"], ["I", "S"]][: len(shape)]),
        CropForegroundd("image", source_key="image", select_fn=lambda x: x != 0),
        Resampled("image", pixdim),
    ])  # fmt: skip
    item = transforms({"image": MetaTensor(image, affine=torch.as_tensor(affine, dtype=torch.float64))})
    return list_data_collate([item]), transforms


def invert(batch, pred, transforms):
    item = decollate_batch({"image": batch["image"], "pred": pred})[0]
    return Invertd("pred", transform=transforms, orig_keys="image", nearest_interp=False)(item)["pred"]


def both(shape, affine, pixdim, roi, outputs=4, regions=False, mirror=(), network=None, seed=0, **settings):
    """Return the labels of MONAI's route and ours, each on the grid of the image's file."""
    batch, transforms = batch_of(shape, affine, pixdim, seed)
    network, scheme = network or Blobs(outputs), scheme_of(outputs, regions)
    with torch.no_grad():
        logits = MirroringInferer(roi, mirror_axes=mirror, **WINDOW)(batch["image"], network)
        labels = StreamingInferer(roi, scheme, mirror, **{**WINDOW, **settings})(batch["image"], network)
    return scheme.decide(invert(batch, logits, transforms)), invert(batch, labels, transforms)


def agreement(expected, found):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert torch.allclose(found.affine, expected.affine)
    assert len(expected.unique()) > 2
    return (found == expected).double().mean().item()


CASES = {
    "same grid": ((37, 41, 29), np.diag([1, 1, 1, 1]), (1, 1, 1), (16, 16, 16)),
    "mixed": ((37, 41, 29), np.diag([1, 1, 1, 1]), (1.3, 0.8, 1.1), (16, 16, 16)),
    "finer network": ((31, 40, 23), np.diag([1, 1, 1, 1]), (0.6, 0.6, 0.6), (32, 16, 16)),
    "coarser network": ((51, 47, 43), np.diag([1, 1, 1, 1]), (2.1, 2.1, 2.1), (16, 16, 16)),
    "separate axis": ((60, 50, 12), np.diag([0.8, 0.8, 5, 1]), (1, 1, 4), (32, 32, 16)),
    "separate axis to thin": ((40, 36, 9), np.diag([0.8, 0.8, 5, 1]), (1, 1, 1), (16, 16, 16)),
    "separate axis comes first": ((9, 40, 36), np.diag([6, 0.8, 0.8, 1]), (5, 1, 1), (16, 16, 16)),
    "flipped": ((37, 41, 29), np.diag([-1, 1, -1.5, 1]), (1.3, 0.8, 1.1), (16, 16, 16)),
    "oblique": ((37, 41, 29), OBLIQUE, (1.2, 1.2, 1.2), (16, 16, 16)),
    "turned": ((37, 41, 29), OBLIQUE[:, [2, 0, 1, 3]], (1.2, 0.9, 1.2), (16, 16, 16)),
    "smaller than a window": ((10, 33, 9), np.diag([1, 1, 1, 1]), (1.3, 0.8, 1.1), (16, 16, 16)),
    "one slice": ((40, 33, 1), np.diag([1, 1, 4, 1]), (1.3, 0.8, 4), (16, 16, 16)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("regions", [False, True], ids=["classes", "regions"])
@pytest.mark.parametrize("layout", [lambda network: network, Last], ids=["channels first", "channels last"])
def test_labels_are_those_of_the_route_with_all_logits(case, regions, layout):
    outputs = 3 if regions else 4
    expected, found = both(*CASES[case], outputs=outputs, regions=regions, network=layout(Blobs(outputs)))
    assert agreement(expected, found) == 1


@pytest.mark.parametrize("case", ["same grid", "mixed", "separate axis", "smaller than a window"])
@pytest.mark.parametrize("regions", [False, True], ids=["classes", "regions"])
def test_half_precision_keeps_the_labels(case, regions):
    expected, found = both(*CASES[case], outputs=3 if regions else 6, regions=regions, memory=0)
    assert agreement(expected, found) >= 0.9999


@pytest.mark.parametrize("memory", [2.0, 0.0], ids=["float32", "float16"])
@pytest.mark.parametrize("case", ["same grid", "mixed"])
def test_layout_of_the_logits_makes_no_difference(case, memory):
    expected, found = both(*CASES[case], network=Last(Blobs(4)), memory=memory)
    assert agreement(expected, found) >= 0.9999


@pytest.mark.parametrize("mirror", [(0,), (1, 2), (0, 1, 2)])
def test_mirrored_predictions_are_averaged(mirror):
    expected, found = both(*CASES["mixed"], mirror=mirror)
    assert agreement(expected, found) == 1
    plain, _ = both(*CASES["mixed"])
    assert (plain != expected).any()


def test_ensembles_are_averaged():
    networks = FoldEnsemble(Blobs(4, seed=1), [])
    networks.networks.append(Blobs(4, seed=2))
    expected, found = both(*CASES["mixed"], network=networks)
    assert agreement(expected, found) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"overlap": 0.0}, {"overlap": 0.25}, {"overlap": 0.75}, {"overlap": (0.5, 0.25, 0.0)}, {"mode": "constant"},
        {"sw_batch_size": 1}, {"sw_batch_size": 7}, {"sigma_scale": 0.3}, {"padding_mode": "replicate"}, {"cval": 2.0},
    ],
)  # fmt: skip
def test_settings_are_those_of_monai(settings):
    batch, _ = batch_of((37, 12, 29), np.eye(4), (1.3, 0.8, 1.1))
    network, scheme = Blobs(4), scheme_of(4, False)
    image = batch["image"].as_tensor()  # without a trace labels stay on the network's grid
    with torch.no_grad():
        expected = SlidingWindowInferer((16, 16, 16), **{**WINDOW, **settings})(image, network)
        found = StreamingInferer((16, 16, 16), scheme, **{**WINDOW, **settings})(image, network)
    assert torch.equal(found, scheme.decide(expected, 1))


def test_random_sizes_agree():
    random = np.random.default_rng(0)
    for seed in range(12):
        shape, pixdim = random.integers(5, 40, 3), random.uniform(0.6, 2.5, 3)
        affine = np.diag([*random.uniform(0.7, 2.2, 3), 1])
        roi = tuple((8 * random.integers(1, 4, 3)).tolist())
        expected, found = both(tuple(shape.tolist()), affine, tuple(pixdim.tolist()), roi, seed=seed)
        assert (found == expected).double().mean() >= 0.9999, (shape, pixdim, affine, roi)


def test_2d_images():
    batch, transforms = batch_of((60, 45), np.diag([1.0, 1.2, 1])[:3, :3], (0.8, 1.5))
    network, scheme = Blobs(4, dims=2), scheme_of(4, False)
    with torch.no_grad():
        logits = MirroringInferer((16, 32), **WINDOW)(batch["image"], network)
        labels = StreamingInferer((16, 32), scheme, **WINDOW)(batch["image"], network)
    assert torch.equal(scheme.decide(invert(batch, logits, transforms)), invert(batch, labels, transforms))


def test_a_batch_of_images_is_segmented_one_by_one():
    (first, _), (second, _) = (batch_of((25, 30, 20), np.eye(4), (0.8, 0.8, 0.8), seed) for seed in (1, 2))
    batch = list_data_collate([decollate_batch(b)[0] for b in (first, second)])
    infer = StreamingInferer((16, 16, 16), scheme_of(4, False), **WINDOW)
    network = Blobs(4)
    labels = infer(batch["image"], network)
    assert labels.shape == (2, 1, 23, 30, 20)
    for one, label in zip((first, second), labels, strict=True):
        assert torch.equal(infer(one["image"], network)[0], label)


def test_further_arguments_reach_the_network():
    seen = []

    def network(x, scale, shift):
        seen.append((scale, shift))
        return torch.cat([x * scale, x + shift], 1)

    labels = StreamingInferer((8, 8, 8), scheme_of(2, False))(torch.ones(1, 1, 8, 8, 8), network, 2, shift=3)
    assert labels.eq(1).all()
    assert seen == [(2, 3)]


@pytest.mark.parametrize("setting", [{"buffer_steps": 2}, {"with_coord": True}])
def test_settings_without_meaning_are_refused(setting):
    with pytest.raises(ValueError, match="knows no buffer_steps"):
        StreamingInferer((8, 8, 8), scheme_of(2, False), **setting)


def test_resampling_before_the_end_is_refused():
    image = MetaTensor(torch.zeros(1, 8, 8, 8), affine=torch.eye(4))
    transforms = Compose([Resampled("image", (0.5, 0.5, 0.5)), Orientationd("image", "LAS")])
    batch = list_data_collate([transforms({"image": image})])
    with pytest.raises(ValueError, match="last step"):
        StreamingInferer((8, 8, 8), scheme_of(2, False))(batch["image"], Blobs(2))


# --- what is kept ----------------------------------------------------------------------------------------------------


def axes_of(sizes, patch, step):
    return [Axis(n, patch, tuple(sorted({*range(0, n - patch + 1, step), n - patch}))) for n in sizes]


@pytest.mark.parametrize(("sizes", "step"), [((64, 64, 76), 8), ((40, 30, 50), 8), ((64, 64, 70), 12)])
def test_cells_never_take_more_memory_than_waits_at_most(sizes, step):
    axes = axes_of(sizes, 16, step)
    cells, logits, weights = Cells(axes, torch.float32, torch.device("cpu")), torch.zeros(2, 16, 16, 16), torch.ones(16)
    peak = 0
    for window in window_order(axes):
        for index in cells.add(window, logits, weights.expand(16, 16, 16)):
            cells.give_back(*cells.take(index))
        held = [*cells._weights.values(), *(weights for free in cells._free.values() for _, weights in free)]
        peak = max(peak, sum(tensor.numel() for tensor in held))
    assert 0.9 * most_waiting(axes) < peak <= most_waiting(axes)


@pytest.mark.parametrize(("sizes", "patch", "step"), [((37, 41, 29), 16, 8), ((16, 50, 33), 16, 12), ((20, 20), 8, 8)])
def test_every_voxel_lies_in_one_cell_that_all_its_windows_cover(sizes, patch, step):
    axes = axes_of(sizes, patch, step)
    for axis in axes:
        assert axis.edges[0] == 0
        assert axis.edges[-1] == axis.size
        for voxel in range(axis.size):
            cell = next(i for i in range(axis.cells) if axis.edges[i] <= voxel < axis.edges[i + 1])
            windows = [w for w, start in enumerate(axis.starts) if start <= voxel < start + patch]
            assert [w for w in range(len(axis.starts)) if cell in axis.covered(w)] == windows
            assert axis.windows[cell] == len(windows)


def test_cells_are_given_away_once_and_each_after_those_before_it():
    axes = axes_of((37, 41, 29), 16, 8)
    cells, seen = Cells(axes, torch.float32, torch.device("cpu")), []
    for window in window_order(axes):
        done = cells.add(window, torch.ones(2, 16, 16, 16), torch.ones(16, 16, 16))
        for index in done:
            before = {tuple(i - (a == b) for b, i in enumerate(index)) for a in range(3) if index[a]}
            assert before <= set(seen)
            seen.append(index)
            sums, weights = cells.take(index)
            assert (sums == weights).all()
            assert (weights == np.prod([axis.windows[i] for axis, i in zip(axes, index, strict=True)])).all()
    assert len(set(seen)) == len(seen) == np.prod([axis.cells for axis in axes])
    assert not cells._sums


@pytest.mark.parametrize("sizes", [(64, 64, 96), (30, 80, 44)])
def test_no_more_is_kept_than_said(sizes):
    axes = axes_of(sizes, 16, 8)
    cells, most = Cells(axes, torch.float32, torch.device("cpu")), 0
    for window in window_order(axes):
        done = cells.add(window, torch.zeros(1, 16, 16, 16), torch.ones(16, 16, 16))
        most = max(most, sum(s.numel() for s in cells._sums.values()))
        for index in done:
            cells.take(index)
    assert most == most_waiting(axes)
    # half a window of the cross-section, and the row of windows at work; the whole volume is many times that
    assert most < 0.55 * 16 * np.prod(sorted(sizes)[:2]) + 16 * 16 * max(sorted(sizes)[:2])


def test_shifted_logits_have_the_same_softmax_and_fit_into_half_precision():
    logits = torch.randn(5, 1000) * 40 + 500
    shifted = shift(logits)
    assert torch.allclose(shifted.softmax(0), logits.softmax(0), atol=1e-5)
    assert shifted.max() == 0
    assert torch.isfinite(27 * shift(torch.tensor([[0.0], [-1e9]])).half()).all()


# --- air -------------------------------------------------------------------------------------------------------------


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


# --- too little memory -----------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A network on a device that has room for some windows only."""

    def __init__(self, room, network):
        super().__init__()
        self.room, self.network, self.seen = room, network, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(x)


def test_windows_are_predicted_one_by_one_where_the_memory_is_too_small(caplog):
    image, net = batch_of((30, 30, 30), np.eye(4), (1, 1, 1))[0]["image"].as_tensor(), Blobs(4)
    small = Small(1, net)
    infer = StreamingInferer((16, 16, 16), scheme_of(4, False), **{**WINDOW, "sw_batch_size": 4})
    labels = infer(image, small)
    assert small.seen[0] == 4
    assert set(small.seen[1:]) == {1}
    assert len([r for r in caplog.records if "going on with one" in r.getMessage()]) == 1
    assert torch.equal(labels, infer(image, net))


def test_a_window_that_does_not_fit_at_all_ends_with_what_to_do():
    infer = StreamingInferer((16, 16, 16), scheme_of(4, False), **WINDOW)
    with pytest.raises(InputError, match=re.escape("16×16×16 voxels; use --device cpu")):
        infer(torch.zeros(1, 1, 30, 30, 30), Small(0, Blobs(4)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("memory", [2.0, 0.0], ids=["float32", "float16"])
def test_a_gpu_gives_the_same(memory):
    batch, _ = batch_of(*CASES["mixed"][:3])
    infer = StreamingInferer((16, 16, 16), scheme_of(4, False), memory=memory, **WINDOW)
    expected = infer(batch["image"], Blobs(4))
    with torch.backends.cudnn.flags(allow_tf32=False):  # a convolution of 10 bits would change labels by itself
        found = infer(batch["image"].cuda(), Blobs(4).cuda())
    assert found.device.type == "cuda"
    # logits in float16 may change one voxel in 10,000 (test_half_precision_keeps_the_labels), here on both sides
    assert (found.cpu() == expected).double().mean() >= (0.9999 if memory else 0.9998)


_GROWTH = """
import torch
from mednextv2.data import LabelScheme
from mednextv2.inference import StreamingInferer, streaming
from mednextv2.allocator import keep_freed_memory

def resident(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

assert keep_freed_memory()
streaming._KEPT = 64 * 2**20  # in proportion to the image
infer = StreamingInferer((48, 48, 48), LabelScheme([str(i) for i in range(100)]), memory=0.05, overlap=0.5)
network = lambda x: x[:, :1].repeat(1, 100, 1, 1, 1)  # 42 MiB a window
infer(torch.zeros(1, 1, 48, 48, 48), network)
before = resident("VmRSS")
infer(torch.randn(1, 1, 96, 96, 384), network)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_process_that_keeps_freed_memory_does_not_grow_with_the_windows():
    done = subprocess.run([sys.executable, "-c", _GROWTH], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    waiting = 2 * 100 * most_waiting(axes_of((96, 96, 384), 48, 24))  # float16
    window, kept = 4 * 100 * 48**3, 64 * 2**20
    # with all of the freed memory kept it grows by up to four times of what waits
    assert int(done.stdout) < waiting + kept + window


# --- a GPU that is not waited for ------------------------------------------------------------------------------------


def test_windows_of_air_are_found_with_one_copy():
    image = torch.zeros(2, 40, 30, 20)
    image[:, 20:] = -1
    axes = [Axis(n, 16, tuple(range(0, n - 15, 4))) for n in (40, 30, 20)]
    with Calls() as calls:
        found = air_windows(image, axes, [-0.9, -0.9])
    assert found == {w for w in window_order(axes) if axes[0].starts[w[0]] >= 20}
    assert calls.waits == []  # no number is read; on the CPU the copy is none


def test_taps_are_copied_to_the_device_once():
    axes = [Axis(32, 16, (0, 8, 16)), Axis(32, 16, (0, 8, 16))]
    scheme = LabelScheme(["background", "organ"])
    writer = LabelWriter([Target(axes[0], 50), Target(axes[1], 47, nearest=True)], scheme, META)
    for index in ((0, 0), (1, 1), (2, 2)):
        with Calls() as calls:
            taps = writer._taps(index, META)
            writer._on_target(index, torch.zeros(5, 16, device=META))
        assert taps.keys() == {0}
        assert (calls.waits == []) == (index != (0, 0))


class OneAtATime(Blobs):
    """A network that has memory for one window at a time."""

    def forward(self, x):
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


@pytest.mark.parametrize("network", [Blobs, OneAtATime])
@pytest.mark.parametrize("failing", [None, (2, torch.OutOfMemoryError("CUDA out of memory"))])
@pytest.mark.parametrize("mirror_axes", [(), (0, 2)])
def test_labels_are_the_same_when_windows_are_recorded(network, failing, mirror_axes, monkeypatch, caplog):
    image, scheme = torch.randn(1, 1, 30, 22, 17), LabelScheme(["background", "a", "b"])
    inferer = StreamingInferer((8, 8, 8), scheme, mirror_axes, **WINDOW)
    expected = inferer(image, Blobs(3))
    assert len(expected.unique()) == 3
    cuda = StandIn(monkeypatch)
    cuda.failing = failing
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    ensemble = FoldEnsemble(network(3), []).eval()
    assert torch.equal(inferer(image, ensemble), expected)
    assert (cuda.replayed > 10) == (failing is None)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert sum("recorded" in w for w in warnings) == (failing is not None)
    assert sum("going on with one" in w for w in warnings) == (network is OneAtATime)


def test_weights_that_are_loaded_anew_are_recorded_anew(monkeypatch, tmp_path):
    cuda, x = StandIn(monkeypatch), torch.randn(1, 1, 8, 8, 8)
    files = [tmp_path / "a.pt", tmp_path / "b.pt"]
    networks = [Blobs(3, seed=n).eval() for n in (1, 2)]
    for network, file in zip(networks, files, strict=True):
        torch.save(network.state_dict(), file)
    ensemble = FoldEnsemble(Blobs(3), files).eval()
    with torch.no_grad():
        expected = (networks[0](x) + networks[1](x)) / 2
        for captured in (1, 2):
            ensemble.load()
            for _ in range(3):
                torch.testing.assert_close(ensemble(x), expected)
            assert cuda.captured == captured
