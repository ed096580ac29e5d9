"""Patches by their definition."""

import math

import numpy as np
from scipy import ndimage

from mednextv2.transforms.spatial import placement_matrix


def make_case(shape, channels=1, dtype=np.float32, label_dtype=np.int8, values=(0, 1, 2), seed=0):
    """Noise, and a label map of blobs."""
    random = np.random.RandomState(seed)
    image = random.randn(channels, *shape).astype(dtype)
    coarse = random.choice(values, [n // 3 + 1 for n in shape])
    label = np.kron(coarse, np.ones([3] * len(shape)))[tuple(slice(n) for n in shape)]
    return image, label[None].astype(label_dtype)


def random_matrix(dims, seed):
    random = np.random.RandomState(seed)
    return placement_matrix(random.uniform(-math.pi, math.pi, 3 if dims == 3 else 1), random.uniform(0.6, 1.6))


def interpolate(array, matrix, centre, patch, outside):
    offset = np.asarray(centre) - matrix @ (np.asarray(patch) // 2)
    return ndimage.affine_transform(
        array.astype(np.float64), matrix, offset, tuple(patch), order=1, mode="grid-constant", cval=outside
    )


def vote(label, matrix, centre, patch, fill):
    """Return the labels of the largest indicators, and by how much each is ahead of the next."""
    values = np.unique([*np.unique(label), fill])
    scores = np.stack([interpolate(label[0] == v, matrix, centre, patch, float(v == fill)) for v in values])
    ordered = np.sort(scores, axis=0)
    lead = ordered[-1] - ordered[-2] if len(values) > 1 else np.ones(patch)
    return values[scores.argmax(0)], lead


def assert_same(found, expected):
    np.testing.assert_array_equal(found.numpy(), expected)
