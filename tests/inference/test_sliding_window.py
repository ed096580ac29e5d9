"""The streaming window against the route that holds all logits: MONAI's sliding window, Invertd, arg-max."""

import logging

import numpy as np
import pytest
import torch
from cuda_stand_in import StandIn
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import list_data_collate
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, Invertd, Orientationd
from streaming_helpers import WINDOW, Blobs, batch_of, invert, scheme_of
from torch import nn

from mednextv2.data import LabelScheme
from mednextv2.inference import MirroringInferer, StreamingInferer
from mednextv2.inference.fold_ensemble import FoldEnsemble
from mednextv2.transforms import Resampled

OBLIQUE = np.array([[0.9, 0.3, 0.1, 5], [-0.3, 0.9, 0.2, -8], [0.0, -0.2, 1.9, 3], [0, 0, 0, 1]])


class Last(nn.Module):
    """A network whose channels are last in memory, as ours are."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).contiguous(memory_format=torch.channels_last_3d)


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


@pytest.mark.parametrize("affine", [np.diag([1.0, 1.2, 1]), np.diag([1.0, 1.2, 1, 1])], ids=["3 x 3", "4 x 4"])
def test_the_affine_of_a_2d_image_may_be_that_of_three_axes(affine):
    """Readers give images of two axes the affine of three; MONAI cuts it only when a transform asks for it."""
    image = MetaTensor(torch.randn(1, 1, 24, 20), affine=torch.as_tensor(affine))
    labels = StreamingInferer((16, 16), scheme_of(4, False), **WINDOW)(image, Blobs(4, dims=2))
    assert torch.equal(labels.affine, image.affine)


@pytest.mark.parametrize("case", ["mixed", "separate axis", "same grid"])
def test_one_image_with_its_record_is_segmented_as_in_a_batch(case):
    """MONAI Label and Deploy give the inferer `image[None]`, whose record of transforms is not that of a batch."""
    batch, transforms = batch_of(*CASES[case][:3])
    image, infer = decollate_batch(batch)[0]["image"], StreamingInferer(CASES[case][3], scheme_of(4, False), **WINDOW)
    network = Blobs(4)
    found, expected = infer(image[None], network), infer(batch["image"], network)
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    item = {"image": image, "pred": found[0]}
    back = Invertd("pred", transform=transforms, orig_keys="image", nearest_interp=False)(item)["pred"]
    assert torch.equal(back, invert(batch, expected, transforms))


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
