"""How features are held: dtypes, channels-last memory, and rows of voxels."""

import numpy as np
import pytest
import torch

from mednextv2.ops import memory_layout

SHAPES = [(2, 3, 4, 5), (2, 3, 4, 5, 6), (1, 1, 2, 2), (1, 4, 1, 1, 1)]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_statistics_are_never_in_half_precision(dtype, expected):
    assert memory_layout.statistics_dtype(torch.zeros(1, dtype=dtype)) == expected


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32], ids=str
)  # fmt: skip
@pytest.mark.parametrize("target", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_that_of_pytorchs_convolution(dtype, target):
    x = torch.ones(1, 1, 3, 3, dtype=dtype)
    with torch.autocast("cpu", target):
        if dtype == torch.int32:  # is no input of a convolution
            expected = dtype
        else:
            expected = torch.nn.functional.conv2d(x, torch.ones(1, 1, 1, 1, dtype=dtype)).dtype
        assert memory_layout.autocast_dtype(x) == memory_layout.autocast(x).dtype == expected
    assert memory_layout.autocast_dtype(x) == dtype
    assert memory_layout.autocast(x) is x


def test_autocast_keeps_values_and_gradients():
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = memory_layout.autocast(x)
    assert torch.equal(y, x.bfloat16())
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_the_meta_device_has_no_autocast():
    x = torch.ones(1, 1, 3, 3, device="meta")
    with torch.autocast("cpu", torch.bfloat16):
        assert memory_layout.autocast_dtype(x) == torch.float32
        with memory_layout.no_autocast(x):
            pass


def test_autocast_is_off_inside_an_operator_and_on_again_afterwards():
    x = torch.randn(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        with memory_layout.no_autocast(x):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_channels_last_puts_the_channels_of_a_voxel_next_to_each_other(shape):
    x = torch.randn(shape)
    y = memory_layout.channels_last(x)
    assert torch.equal(x, y)
    # in memory as NumPy lays out an array whose last axis is that of the channels
    expected = np.ascontiguousarray(np.moveaxis(x.numpy(), 1, -1)).reshape(-1)
    np.testing.assert_array_equal(torch.as_strided(y, (y.numel(),), (1,)).numpy(), expected)
    assert memory_layout.channels_last(y) is y


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_are_a_view_of_voxels_by_channels(shape):
    x = memory_layout.channels_last(torch.randn(shape))
    rows = memory_layout.rows(x)
    np.testing.assert_array_equal(rows.numpy(), np.moveaxis(x.numpy(), 1, -1).reshape(shape[0], -1, shape[1]))
    rows.mul_(2)
    np.testing.assert_array_equal(rows.numpy(), np.moveaxis(x.numpy(), 1, -1).reshape(shape[0], -1, shape[1]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_of_another_number_of_channels_become_an_image_of_that_space(shape):
    like = torch.empty(shape)
    rows = torch.randn(shape[0], like[0, 0].numel(), 7)
    image = memory_layout.from_rows(rows, like)
    assert image.shape == (shape[0], 7, *shape[2:])
    assert image.data_ptr() == rows.data_ptr()
    for place in np.ndindex(*shape[2:]):
        voxel = np.ravel_multi_index(place, shape[2:])
        assert torch.equal(image[(slice(None), slice(None), *place)], rows[:, voxel])


def test_rows_that_do_not_fit_the_space_are_refused():
    with pytest.raises(RuntimeError, match="unflatten"):
        memory_layout.from_rows(torch.zeros(1, 11, 2), torch.empty(1, 1, 3, 4))
