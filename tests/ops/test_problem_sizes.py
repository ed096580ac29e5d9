"""What kernels are compiled for, in words."""

import pytest
from trial_standin import problem

from mednextv2.ops import trial


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "8 channels, expansion to 1024, kernel 3, bfloat16"),
        ({"out_channels": 16, "stride": 2, "grn": False}, "8 channels, expansion to 1024, compression to 16, kernel 3, "
         "stride 2, no GRN, bfloat16"),
        ({"transposed": True, "stride": 2, "residual": False, "spatial_dims": 2},
         "8 channels, expansion to 1024, kernel 3, transposed, stride 2, no residual, 2D, bfloat16"),
        ({"expanded": 0, "kernel_size": 5}, "8 channels, kernel 5, bfloat16"),
        ({"kernel_size": 0}, "8 channels, expansion to 1024, bfloat16"),
    ],
)  # fmt: skip
def test_problems_in_words(changes, words):
    assert trial.in_words(problem(8)._replace(**changes)) == words
