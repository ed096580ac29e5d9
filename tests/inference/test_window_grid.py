"""The windows are MONAI's, and the labels' grid is that of the image before it was resampled."""

import pytest
import torch
from monai.data import MetaTensor
from monai.data.utils import dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.inferers.utils import _get_scan_interval

from mednextv2.inference.window_grid import WindowGrid
from mednextv2.transforms import Resampled


@pytest.mark.parametrize(("size", "roi"), [((37, 41, 29), (16, 16, 16)), ((9, 40), (16, 12)), ((30,), (7,))])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
def test_windows_are_those_of_monai(size, roi, overlap):
    grid = WindowGrid.of(torch.zeros(1, *size), SlidingWindowInferer(roi, overlap=overlap))
    padded = tuple(map(max, size, roi))
    slices = dense_patch_slices(padded, roi, _get_scan_interval(padded, roi, len(size), [overlap] * len(size)))
    for axis, own in enumerate(grid.axes):
        before = (padded[axis] - size[axis]) // 2
        assert own.starts == tuple(sorted({window[axis].start - before for window in slices}))
    assert sum(grid.padding) == sum(padded) - sum(size)
    assert [target.size for target in grid.targets] == list(size)


def test_labels_lie_on_the_grid_before_resampling():
    image = MetaTensor(torch.rand(1, 20, 18, 10), affine=torch.eye(4))
    resampled = Resampled("image", (0.5, 2.0, 1.0))({"image": image})["image"]
    grid = WindowGrid.of(resampled, SlidingWindowInferer((8, 8, 8)))
    assert [axis.size for axis in grid.axes] == [40, 9, 10]
    assert [target.size for target in grid.targets] == [20, 18, 10]


@pytest.mark.parametrize("overlap", [-0.1, 1, 1.5])
def test_an_overlap_that_is_no_fraction_is_refused(overlap):
    with pytest.raises(ValueError, match="overlap must be from 0 to below 1"):
        WindowGrid.of(torch.zeros(1, 8, 8), SlidingWindowInferer((4, 4), overlap=overlap))
