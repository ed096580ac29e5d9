"""What the tests of resizing and of resampling share: the definitions, by scikit-image and SciPy."""

import numpy as np
from scipy import ndimage
from skimage.transform import resize as skimage_resize


def definition(volume, shape, order):
    return skimage_resize(volume.astype(float), shape, order=order, mode="edge", anti_aliasing=False)


def definition_by_slices(volume, shape, axis, order, order_across=0):
    """Each slice by scikit-image, then across the slices by scipy, with half-voxel-centred coordinates."""
    plane = [n for a, n in enumerate(shape) if a != axis]
    stack = np.stack([definition(piece, plane, order) for piece in np.moveaxis(volume, axis, 0)], axis)
    grid = np.indices(shape).astype(float)
    grid[axis] = (grid[axis] + 0.5) * (stack.shape[axis] / shape[axis]) - 0.5
    return ndimage.map_coordinates(stack, grid, order=order_across, mode="nearest")


def definition_of_label(label, shape):
    """The label with the most votes; in a tie the nearest voxel's if it is among the tied, else the smallest."""
    values = np.unique(label)
    votes = np.stack([definition(label == value, shape, 1) for value in values])
    tied = votes > votes.max(0) - 1e-6
    nearest = skimage_resize(label, shape, order=0, mode="edge", anti_aliasing=False, preserve_range=True)
    is_nearest = values.reshape(-1, *[1] * label.ndim) == nearest
    return np.where((tied & is_nearest).any(0), nearest, values[tied.argmax(0)])


def relative_error(found, expected):
    return np.abs(found.numpy() - expected).max() / np.abs(expected).max()


def random_labels(shape, values, seed=0):
    """Blobs of labels, and some noise."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(len(values), *shape)), (0, *[1.5] * len(shape)))
    label = np.array(values)[smooth.argmax(0)]
    return np.where(rng.random(shape) < 0.05, rng.choice(values, shape), label)
