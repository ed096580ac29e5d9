"""The streaming window where MONAI tests its own: the same labels, or a refusal that says what is not supported.

The shapes and settings are those of the cases in MONAI's `tests/inferers/test_sliding_window_inference.py`.
"""

import pytest
import torch
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.inferers import SlidingWindowInferer
from streaming_helpers import scheme_of

from mednextv2.inference import StreamingInferer

OUTPUTS = 3
#: Shape of the images, size of a window, windows at a time, overlap, weighting.
CASES = [
    ((2, 3, 16), (4,), 3, 0.25, "constant"),
    ((1, 3, 16, 15, 7), (4, -1, 7), 3, 0.25, "constant"),
    ((3, 3, 16, 15, 7), (4, -1, 7), 3, 0.25, "constant"),
    ((1, 3, 16, 15, 7), (20, 22, 23), 10, 0.25, "constant"),
    ((2, 3, 15, 7), (2, 6), 1000, 0.25, "constant"),
    ((1, 3, 16, 7), (80, 50), 7, 0.25, "constant"),
    ((1, 3, 16, 15, 7), (20, 22, 23), 10, 0.5, "constant"),
    ((1, 3, 16, 7), (80, 50), 7, 0.5, "gaussian"),
    ((1, 3, 16, 15, 7), (4, 10, 7), 3, 0.25, "gaussian"),
    ((3, 3, 16, 15, 7), (4, 10, 7), 3, 0.25, "gaussian"),
    ((1, 3, 16, 15, 7), (4, 1, 7), 3, 0.25, "constant"),
    ((5, 3, 16, 15, 7), (4, 1, 7), 3, 0.25, "constant"),
    ((2, 3, 10, 11), (7, 10), 5, 0.8, "constant"),
    ((2, 3, 10, 11), (15, 12), 2, 0, "gaussian"),
    ((2, 3, 512, 245), (96, 80), 5, 0, "constant"),
    ((2, 3, 511, 237), (96, 80), 5, 0.4, "gaussian"),
    ((2, 3, 512, 245), (512, 80), 5, 0.125, "constant"),
    ((2, 3, 10, 11, 12), (7, 8, 10), 2, 0.2, "gaussian"),
]


def neighbours(x):
    """Logits of a voxel that depend on its window: a mean over the window, and the differences from it."""
    mean = x.mean(tuple(range(2, x.ndim)), keepdim=True)
    return torch.cat([x[:, :1] - mean[:, 1:2], x[:, 1:2] * mean[:, 2:3], x[:, 2:3].sin()], 1)


def images(shape, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(shape).to(dtype)


def pair(shape, roi, batch, overlap, mode, **settings):
    """Return MONAI's inferer, ours, and images."""
    common = {"sw_batch_size": batch, "overlap": overlap, "mode": mode, **settings}
    return (
        SlidingWindowInferer(roi, **common),
        StreamingInferer(roi, scheme_of(OUTPUTS, False), **common),
        images(shape),
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_labels_are_those_of_monai(case):
    theirs, ours, x = pair(*case)
    found = ours(x, neighbours)
    assert torch.equal(found, theirs(x, neighbours).argmax(1, keepdim=True).to(found.dtype))
    assert len(found.unique()) == OUTPUTS


@pytest.mark.parametrize("setting", [{"sigma_scale": 1.0}, {"sigma_scale": [1.0, 0.3]}, {"cache_roi_weight_map": True}])
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_windows_are_weighted_as_by_monai(mode, setting):
    theirs, ours, x = pair((1, 3, 27, 30), (9, 8), 4, 0.5, mode, **setting)
    assert torch.equal(ours(x, neighbours), theirs(x, neighbours).argmax(1, keepdim=True).to(torch.uint8))


def test_a_map_of_weights_that_was_set_is_used():
    theirs, ours, x = pair((1, 3, 27, 30), (9, 8), 4, 0.5, "gaussian")
    theirs.roi_weight_map = ours.roi_weight_map = torch.rand(9, 8) + 0.01
    found = ours(x, neighbours)
    assert torch.equal(found, theirs(x, neighbours).argmax(1, keepdim=True).to(torch.uint8))
    ours.roi_weight_map = None
    assert not torch.equal(found, ours(x, neighbours))


@pytest.mark.parametrize("shape", [(1, 3, 16, 15), (3, 16, 15)])
def test_images_without_a_batch_or_channels_are_refused(shape):
    ours = StreamingInferer((4, 4, 4), scheme_of(OUTPUTS, False))
    with pytest.raises(ValueError, match=r"needs images \(batch, channel, \.\.\.\) of 5"):
        ours(torch.zeros(shape), neighbours)


def test_four_spatial_dimensions_are_refused():
    with pytest.raises(ValueError, match="one to three spatial dimensions, but these have 4"):
        StreamingInferer(4, scheme_of(OUTPUTS, False))(images((2, 3, 16, 15, 7, 9)), neighbours)


def test_padding_has_the_given_value():
    theirs, ours, x = pair((1, 3, 3, 3), (5, 5), 10, 0.5, "constant", cval=-1)
    assert torch.equal(ours(x, neighbours), theirs(x, neighbours).argmax(1, keepdim=True).to(torch.uint8))


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_the_device_of_a_call_replaces_that_of_the_inferer(device):
    ours = StreamingInferer((4, 4), scheme_of(OUTPUTS, False), device="meta")
    x = images((1, 3, 9, 8))
    assert torch.equal(ours(x, neighbours, device=device), pair(x.shape, (4, 4), 1, 0.25, "constant")[1](x, neighbours))


def test_half_precision_is_summed_in_float32():
    """MONAI sums in the type of the images, which costs voxels whose classes are near each other their label."""
    _, ours, _ = pair((1, 3, 40, 40), (8, 8), 4, 0.5, "gaussian")
    x = images((1, 3, 40, 40), torch.float16)
    theirs = SlidingWindowInferer((8, 8), sw_batch_size=4, overlap=0.5, mode="gaussian")
    exact = theirs(x.float(), lambda window: neighbours(window.half()).float())
    assert torch.equal(ours(x, neighbours), exact.argmax(1, keepdim=True).to(torch.uint8))


@pytest.mark.parametrize("mirror_axes", [(), (0,)])
@pytest.mark.parametrize(
    ("several", "kind"),
    [(lambda x: (x, x[:, ::3, ::2, ::2] + 2), "tuple"), (lambda x: [x], "list"), (lambda x: {"seg": x}, "dict")],
)
def test_several_outputs_are_refused(several, kind, mirror_axes):
    ours = StreamingInferer((8, 8), scheme_of(OUTPUTS, False), mirror_axes)
    with pytest.raises(ValueError, match=f"one tensor of logits, but returned a {kind}"):
        ours(images((1, 3, 20, 20)), several)


@pytest.mark.parametrize(
    "network", [lambda x: x[:, [0, 1, 2, 0, 1, 2, 0]], lambda x: x[:, :2], lambda x: x[..., ::2, ::2], lambda x: x[:1]]
)
def test_logits_of_another_number_or_size_are_refused(network):
    ours = StreamingInferer((8, 8), scheme_of(OUTPUTS, False), sw_batch_size=2)
    with pytest.raises(ValueError, match=r"the labels need logits of shape \(2, 3, 8, 8\)"):
        ours(images((1, 3, 20, 20)), network)


@pytest.mark.parametrize("argument", [{"buffer_steps": 2}, {"condition": torch.zeros(1, 3, 20, 20)}])
def test_arguments_of_a_call_that_only_monai_knows_are_refused(argument):
    with pytest.raises(ValueError, match="knows no buffer_steps and no condition"):
        StreamingInferer((8, 8), scheme_of(OUTPUTS, False))(images((1, 3, 20, 20)), neighbours, **argument)


def test_monais_order_of_arguments_is_refused():
    with pytest.raises(TypeError, match="second argument is a LabelScheme, but 4 was given"):
        StreamingInferer((8, 8), 4, 0.5)


def test_nothing_is_differentiated():
    x = images((1, 3, 20, 20)).requires_grad_()
    assert not StreamingInferer((8, 8), scheme_of(OUTPUTS, False))(x, neighbours).requires_grad


def test_images_with_and_without_metadata_are_segmented_alike():
    x, ours = images((3, 16, 15, 7)), StreamingInferer((4, 10, 7), scheme_of(OUTPUTS, False))
    plain = ours(list_data_collate([x]), neighbours)
    found = ours(list_data_collate([MetaTensor(x)]), neighbours)
    assert isinstance(found, MetaTensor)
    assert torch.equal(plain, found.as_tensor())
