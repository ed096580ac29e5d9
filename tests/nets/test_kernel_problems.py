"""The problems that networks list are those of their blocks, and those for which operators ask."""

import pytest
import torch

from mednextv2.nets import MedNeXt
from mednextv2.ops import implementation_choice
from mednextv2.ops.implementations import Choice
from mednextv2.ops.problem_sizes import Problem


def test_problems_are_those_of_the_blocks():
    network = MedNeXt(init_filters=4, encoder_expansion_ratio=3, bottleneck_expansion_ratio=2, kernel_size=5)
    found = network.problems(torch.float16)
    assert found[0] == Problem(3, 4, 12, 4, 5, 1, False, True, True, torch.float16)
    down = Problem(3, 4, 12, 8, 5, 2, False, True, True, torch.float16)
    up = Problem(3, 64, 128, 32, 5, 2, True, True, False, torch.float16)
    assert {down, up} <= set(found)
    assert len(found) == len(set(found)) == 4 + 4 + 1 + 4 + 4  # encoder and decoder differ in their expansion
    assert all(p.kernel_size == 0 and p.stride == 1 for p in MedNeXt(kernel_size=9).problems(torch.float16))
    dropped = MedNeXt(init_filters=4, drop_path_rate=0.5).problems(torch.bfloat16)
    assert Problem(3, 64, 128, 64, 3, 1, False, True, False, torch.bfloat16) in dropped
    single = MedNeXt(init_filters=4).problems(torch.float32)  # products in float32 are cuBLAS's
    assert single[0] == Problem(3, 4, 0, 4, 3, 1, False, False, False, torch.float32)
    assert len(single) == 5 + 4 + 4


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(
    ("settings", "dtype", "part"),
    [
        ({}, torch.bfloat16, "whole"),
        ({"global_resp_norm": False}, torch.bfloat16, "whole"),
        ({"kernel_size": 5, "drop_path_rate": 0.5}, torch.bfloat16, "whole"),
        ({"kernel_size": 1}, torch.bfloat16, "inside"),
        ({}, torch.float32, "convolution"),
    ],
    ids=str,
)
def test_operators_ask_for_what_the_network_lists(spatial_dims, settings, dtype, part, monkeypatch):
    """Else a kernel would be tried in the middle of a pass, or tried although nobody asks for it."""
    asked = {"whole": set(), "inside": set(), "convolution": set()}

    def choose_for(problem, device):
        asked["convolution" if not problem.expanded else "whole" if problem.kernel_size else "inside"].add(problem)
        return Choice("torch", "a test")

    monkeypatch.setattr(implementation_choice, "choose_for", choose_for)
    network = MedNeXt(spatial_dims, init_filters=4, blocks_down=1, blocks_bottleneck=1, blocks_up=1, **settings)
    for training in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = network.train(training)(torch.randn(2, 1, *[16] * spatial_dims))
        y.sum().backward()
    listed = set(network.problems(dtype))
    if part == "inside":  # standard blocks are listed without a residual, too, for which their passes do not ask
        listed -= {problem for problem in listed if problem.channels == problem.out_channels and not problem.residual}
    assert asked[part] == listed
