"""What a network's kernels are compiled for, and when it has them tried."""

import pytest
import torch
from trial_standin import problem

from mednextv2 import ops
from mednextv2.nets import MedNeXt
from mednextv2.ops import implementation_choice, implementations, trial
from mednextv2.ops.problem_sizes import Problem


def test_a_network_tries_all_its_kernels_before_the_first_of_them(monkeypatch):
    asked = []
    monkeypatch.setattr(implementations, "_wanted", "auto")
    # the CPU in the GPU's place
    monkeypatch.setattr(
        implementations, "by_verdict", lambda device: device.type == "cpu" and implementations._wanted == "auto"
    )
    monkeypatch.setattr(
        implementation_choice, "choose_for", lambda problem, device: implementations.choose("cpu", problem.dtype)
    )
    monkeypatch.setattr(trial, "ensure", lambda problems, device: asked.append((list(problems), device)) or True)
    network = MedNeXt(init_filters=4).eval()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        expected = network(x)
        network(x)
    ((problems, device),) = asked
    assert device == x.device
    assert problems == network.problems(torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(x)
    assert asked[1][0] == network.problems(torch.bfloat16)
    with ops.use("torch"), torch.no_grad():
        network(x)
    assert len(asked) == 2

    # a compiled network, too, without a break of its graph
    other = MedNeXt(init_filters=4).eval()
    other.load_state_dict(network.state_dict())
    compiled = torch.compile(other, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(x), expected, atol=1e-5)
        compiled(x)
    assert len(asked) == 3
    assert asked[2] == (network.problems(torch.float32), x.device)


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
