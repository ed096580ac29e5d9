"""What the tests of the transforms of intensities share."""

import numpy as np

from mednextv2.transforms.intensity import RandNoised

SHAPES = [(1, 9, 8), (3, 12, 7), (1, 6, 9, 7), (2, 8, 5, 6)]


def always(kind, seed=0, **settings):
    """The transform with every gate open."""
    gates = {"prob": 1.0} if kind is RandNoised else {"prob": 1.0, "channel_prob": 1.0}
    return kind("image", **gates | settings).set_random_state(seed)


def draw(transform, image, times):
    return [transform({"image": image})["image"] for _ in range(times)]


def assert_rate(count, times, probability):
    """Within 4 standard deviations of the binomial distribution."""
    assert abs(count - times * probability) < 4 * np.sqrt(times * probability * (1 - probability)), count / times
