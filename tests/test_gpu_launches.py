"""What a network launches on a GPU, followed without one, compared with PyTorch's own dispatch and autograd engine."""

import importlib
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

if not sys.platform.startswith("linux") and importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is for Linux", allow_module_level=True)  # there the tests' requirements bring it

import triton

from mednextv2.nets import VARIANTS, create_mednext

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import gpu_launches
import gpu_standin
from gpu_capture import Capture, TensorSpec
from gpu_launch_helpers import BF16, one_launch, scale_kernel
from gpu_launches import follow_parts, follow_step

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles kernels, which the interpreter does not", allow_module_level=True)


class Dispatched(TorchDispatchMode):
    """Names of everything that PyTorch dispatches but views and memory, on real tensors."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        memory = "empty" in func._schema.name or func._schema.name == "aten::_unsafe_view"
        if not func.is_view and not memory and func.namespace == "aten":
            self.names[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def test_the_walk_over_the_graph_leaves_the_gradients_of_pytorchs_engine():
    net = create_mednext("v2_tiny", init_filters=4, deep_supervision=True, activation_checkpointing=False)
    x, gradients = torch.randn(2, 1, 32, 32, 32), None
    found = []
    for walk in (torch.autograd.backward, lambda *both: gpu_standin.backward(*both)):
        net.zero_grad()
        outputs = net(x)
        gradients = gradients or [torch.randn_like(y) for y in outputs]
        walk(outputs, gradients)
        found.append([p.grad for p in net.parameters()])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)  # sums of two may come in another order


def test_gradients_of_other_dtype_and_shape_are_fitted_and_missing_ones_filled():
    class Two(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, one, two):
            assert two is not None  # PyTorch fills in zeros
            return one * 2 + two * 3

    class Silent(Two):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, one, two):
            assert two is None
            return one * 2

    for function in (Two, Silent):
        for a in (torch.randn(3, 1, requires_grad=True), torch.randn(3, 1, dtype=torch.float64, requires_grad=True)):
            grads = []
            for walk in (torch.autograd.backward, lambda *both: gpu_standin.backward(*both)):
                a.grad = None
                with gpu_standin.patch.object(
                    gpu_standin.FunctionCtx, "set_materialize_grads", gpu_standin._set_materialize_grads
                ):
                    y = function.apply(a)[0].float().expand(3, 4) + a.float()
                    walk([y, y.sum()], [torch.ones(3, 4), torch.ones(())])
                grads.append(a.grad)
            assert grads[0].dtype == grads[1].dtype == a.dtype
            torch.testing.assert_close(grads[1], grads[0])


def test_calls_are_those_that_pytorch_dispatches():
    def work(device):
        net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4))
        return net, torch.ones(3, 5, 8, device=device)

    net, x = work("cpu")
    with Dispatched() as expected:
        loss = net(x).softmax(-1)[..., 0].mean()
        loss.backward()
    with gpu_standin.stand_in():
        with torch.device("cuda"):
            net, x = work("cuda")
        with Capture() as capture:
            loss = net(x).softmax(-1)[..., 0].mean()
            gpu_standin.backward([loss], [torch.ones_like(loss)])
    assert Counter(call.name for call in capture.calls) == expected.names


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda x: x.view(-1).t().detach().unsqueeze(0).expand(2, -1)[:, 1:], []),
        (lambda x: (x.new_empty(3), torch.empty_like(x), torch.empty(2, device=x.device)), []),
        (lambda x: x.contiguous(), []),
        (lambda x: x.t().contiguous(), ["aten::clone"]),
        (lambda x: x.to(BF16), ["aten::_to_copy"]),
        (lambda x: F.linear(x, x, x[0]), ["aten::addmm"]),
        (lambda x: torch.zeros(3, device=x.device), ["aten::zeros"]),
        (lambda x: x.shape[0] + x.dim() + x.numel() + x.is_contiguous(), []),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_views_and_memory_are_no_calls(run, expected, inference):
    with gpu_standin.stand_in(), torch.inference_mode(inference):
        x = torch.empty(4, 4, device="cuda")
        with Capture() as capture:
            run(x)
    assert [call.name for call in capture.calls] == expected


def test_what_makes_the_processor_wait_is_named():
    with gpu_standin.stand_in():
        x = torch.empty(4, device="cuda")
        with Capture() as capture:
            torch.tensor(1.0, device="cuda")
            x.cpu()
            x.copy_(torch.empty(4))
            with pytest.raises(Exception, match="_local_scalar_dense"):
                x.sum().item()
    counts = capture.count()
    assert sum(counts.copies.values()) == 3
    assert counts.waits == {"aten::_local_scalar_dense": 1}


def test_a_launch_is_recorded_with_all_that_it_needs():
    def run():
        x = torch.empty(40, device="cuda", dtype=BF16)
        scale_kernel[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]), 1)](
            x[3:], x.view(8, 5).t(), 37, 4, 0.5, BLOCK=16, num_warps=2
        )

    launch = one_launch(run)
    assert (launch.module, launch.name, launch.grid) == (one_launch.__module__, "scale_kernel", (3, 1))
    assert launch.arguments == {
        "x": TensorSpec((37,), (1,), "bfloat16", 6), "y": TensorSpec((5, 8), (1, 5), "bfloat16", 0), "n": 37, "free": 4,
        "factor": 0.5, "BLOCK": 16, "TWICE": False,
    }  # fmt: skip
    assert launch.options == {"num_warps": 2}
    assert launch.arguments["y"].nbytes == 80


def test_tensors_have_addresses_of_their_own():
    with gpu_standin.stand_in():
        x, y = torch.empty(64, device="cuda"), torch.empty(64, device="cuda")
        assert x.data_ptr() != y.data_ptr()
        assert x.data_ptr() % 512 == 0
        assert x[3:].data_ptr() == x.data_ptr() + 12
        assert x.view(8, 8).data_ptr() == x.data_ptr()


def test_blocks_followed_alone_launch_what_the_network_launches():
    settings = ("v2_tiny", (32, 32, 32), 2)
    for training in (True, False):
        alone = follow_parts(*settings, training)
        network = follow_step(*settings, training)
        kinds = [{launch.key() for launch in found.launches} for found in (alone, network)]
        assert kinds[0] == kinds[1] if training else kinds[0] >= kinds[1]  # what is kept between calls is made once
        assert len(alone.launches) < len(network.launches)
        regions = network.count().launches
        assert {name.split()[0] for name in regions} == {"standard", "down", "up"}
        blocks = VARIANTS["v2_tiny"].blocks  # the kinds of all encoder and decoder stages, and what is between them
        assert len(regions) == len(set(zip(blocks, (0, 1, 2, 3, 4, 3, 2, 1, 0), strict=True))) + 4 + 4


@pytest.fixture(scope="module")
def step():
    """A whole training step of v2_base and an inference."""
    edges = (128, 128, 128)
    return follow_step("v2_base", edges, 2, True, BF16, whole=True), follow_step("v2_base", edges, 1, False, BF16)


def test_a_step_neither_waits_for_the_gpu_nor_copies_from_the_host(step):
    for capture in step:
        counts = capture.count()
        assert not counts.waits
        assert not counts.copies
        assert {device for call in capture.calls for device in call.devices} == {"cuda"}
    assert {"loss", "clipping", "optimizer"} < set(step[0].count().calls)


def test_a_step_submits_few_launches(step):
    assert step[0].count().total <= 1500
    assert step[1].count().total <= 400


def test_the_command_prints_a_table(capsys):
    gpu_launches.main(["--variant", "v2_tiny", "--patch", "16", "--batch", "1"])
    out = capsys.readouterr().out
    assert "Training step of v2_tiny, batch 1" in out
    assert "Inference of v2_tiny, batch 1" in out
    assert "| standard 16→16 in 32, 16×16×16 |" in out
    assert out.count("Waits for the GPU: none.") == 2
