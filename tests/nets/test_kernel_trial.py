"""What a network's kernels are compiled for, and when it has them tried."""

import torch

from mednextv2 import ops
from mednextv2.nets import MedNeXt
from mednextv2.ops import implementation_choice, implementations, trial


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
