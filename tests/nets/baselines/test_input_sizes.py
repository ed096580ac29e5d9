import pytest
import torch

from mednextv2.nets.baselines.input_sizes import check_input


def test_multiples_are_accepted():
    check_input(torch.empty(1, 2, 16, 48, 32), 16, "net")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 16, 16), r"net expects an input of shape \(N, C, X, Y, Z\), got \(1, 2, 16, 16\)"),
        ((1, 2, 16, 24, 16), "net reduces every axis by a factor of 16.*spatial axis 1 has 24 voxels"),
        ((1, 2, 16, 16, 0), "spatial axis 2 has 0 voxels"),
    ],
)
def test_others_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        check_input(torch.empty(shape), 16, "net")
