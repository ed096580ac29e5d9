from itertools import product

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from mednextv2.data import LabelScheme
from mednextv2.errors import InputError
from mednextv2.inference.mirroring import MirroringInferer, mirrored
from mednextv2.inference.sliding_window import StreamingInferer
from mednextv2.ops.held_weights import kept

SUBSETS_3D = [(), (0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)]
SUBSETS_2D = [(), (0,), (1,), (0, 1)]


def lopsided(spatial_dims):
    """A network whose output depends on the side, so that every flip counts."""
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
    return nn.Sequential(conv(1, 4, 3, padding=1), nn.GELU(), conv(4, 3, 3, padding=1)).eval()


def mean_over_flips(network, x, axes):
    """The definition: every axis is flipped or not, and the output flipped back."""
    outputs = []
    for choice in product([False, True], repeat=len(axes)):
        dims = [axis + 2 for axis, chosen in zip(axes, choice, strict=True) if chosen]
        outputs.append(torch.flip(network(torch.flip(x, dims)), dims))
    assert len(outputs) == 2 ** len(axes)
    return torch.stack(outputs).mean(0)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


# ------------------------------------------------------------------------------------------- weights that are held


class Folding(nn.Module):
    """A network that makes something of its weights, as the GPU kernels do."""

    def __init__(self):
        super().__init__()
        self.weight, self.made = nn.Parameter(torch.ones(1)), []

    def forward(self, x):
        return x * kept("double", self.weight, (self.weight,), lambda: self.made.append(1) or 2 * self.weight, True)


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_made_of_weights_serves_all_windows_of_an_image_and_no_other(streaming):
    network, x = Folding(), torch.randn(1, 1, 8, 8, 16)
    infer = MirroringInferer((8, 8, 8), (0,))
    if streaming:
        infer = StreamingInferer((8, 8, 8), LabelScheme(["nothing", "something"]), (0,))
        x = x.expand(-1, 2, -1, -1, -1)
    for images in (1, 2):
        infer(x, network)
        assert len(network.made) == images
        network.weight.data.mul_(2)
    network.compile(backend="eager")
    infer(x, network)
    assert len(network.made) > 3


# ---------------------------------------------------------------------------------------------- mirroring


@pytest.mark.parametrize(("dims", "axes"), [(3, s) for s in SUBSETS_3D] + [(2, s) for s in SUBSETS_2D])
def test_one_window_is_the_mean_over_all_flips(dims, axes):
    network, x = lopsided(dims), torch.randn(2, 1, *(8, 12, 10)[:dims])
    found = MirroringInferer(x.shape[2:], axes)(x, network)
    torch.testing.assert_close(found, mean_over_flips(network, x, axes), rtol=1e-5, atol=1e-6)
    if axes:
        assert (found - network(x)).abs().max() > 1e-2  # the test would see it if nothing was flipped


@pytest.mark.parametrize(("dims", "axes"), [(3, (0, 1, 2)), (3, (1,)), (2, (0, 1))])
def test_every_window_is_mirrored_for_itself(dims, axes):
    network, x = lopsided(dims), torch.randn(1, 1, *(20, 18, 9)[:dims])
    settings = {"roi_size": (8,) * dims, "sw_batch_size": 3, "overlap": 0.5, "mode": "gaussian"}
    found = MirroringInferer(mirror_axes=axes, **settings)(x, network)
    expected = SlidingWindowInferer(**settings)(x, lambda window: mean_over_flips(network, window, axes))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_without_axes_it_is_monais_sliding_window(dims):
    network, x = lopsided(dims), torch.randn(1, 1, *(20, 18, 9)[:dims])
    settings = {"roi_size": (8,) * dims, "sw_batch_size": 3, "overlap": 0.25, "mode": "gaussian"}
    calls = []
    found = MirroringInferer(**settings)(x, lambda w: calls.append(len(w)) or network(w))
    torch.testing.assert_close(found, SlidingWindowInferer(**settings)(x, network), rtol=0, atol=0)
    windows = sum(calls)
    calls.clear()
    MirroringInferer(mirror_axes=(0, 1), **settings)(x, lambda w: calls.append(len(w)) or network(w))
    assert sum(calls) == 4 * windows


def test_further_arguments_reach_the_network():
    x = torch.randn(1, 1, 4, 4, 4)
    found = mirrored(x, 3.0, network=lambda t, factor, offset: t * factor + offset, axes=(0, 1), offset=1.0)
    torch.testing.assert_close(found, x * 3 + 1)


def test_half_precision_is_averaged_in_float32():
    outputs = iter([torch.full((1, 1, 2, 2, 2), v, dtype=torch.bfloat16) for v in (256.0, 1.0)])
    found = mirrored(torch.zeros(1, 1, 2, 2, 2), network=lambda _: next(outputs), axes=(0,))
    assert found.dtype == torch.float32
    assert found.unique().tolist() == [128.5]  # bfloat16 knows 128 and 129


def test_what_users_of_monai_label_set_has_the_right_kind():
    assert MirroringInferer((16, 16, 16), (0, 1), mirroring=False).mirror_axes == ()
    assert MirroringInferer((16, 16, 16), (0, 1), mirroring=True, overlap=[0.5, 0, 0.25]).mirror_axes == (0, 1)
    for setting, value in (("mirroring", "false"), ("mirroring", 0), ("overlap", "0.25"), ("overlap", True)):
        with pytest.raises(InputError, match=f"{setting} {value!r}: should be "):
            MirroringInferer((16, 16, 16), (0, 1), **{setting: value})
