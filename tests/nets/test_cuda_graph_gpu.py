"""Recording of a network on a GPU: what the stand-in of test_cuda_graph.py cannot show."""

import copy

import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mednextv2.data import LabelScheme
from mednextv2.nets import CudaGraphs, create_mednext
from mednextv2.training import GradientClipping, RecordingInferer, SegmentationLoss, Trainer, create_optimizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
SCHEME = LabelScheme(["background", "a", "b"])


def tiny(**settings):
    torch.manual_seed(0)
    return create_mednext("v2_tiny", out_channels=3, deep_supervision=True, **settings).cuda()


def train(network, graphs, amp, steps=8):
    """Train with a thread that takes pinned memory all the time; return the losses."""
    torch.manual_seed(1)
    patches = torch.randn(2 * steps, 1, 32, 32, 32), torch.randint(3, (2 * steps, 1, 32, 32, 32), dtype=torch.int16)
    loader = DataLoader(
        TensorDataset(*patches), batch_size=2, num_workers=2, pin_memory=True,
        collate_fn=lambda items: dict(zip(("image", "label"), map(torch.stack, zip(*items, strict=True)), strict=True)),
    )  # fmt: skip
    optimizer, losses = create_optimizer("adamw", network.parameters(), 1e-3), []
    trainer = Trainer(
        device=torch.device("cuda"), max_epochs=1, train_data_loader=loader, network=network, optimizer=optimizer,
        loss_function=SegmentationLoss(SCHEME), inferer=RecordingInferer(graphs), optim_set_to_none=True,
        non_blocking=True, decollate=False, amp=amp, amp_kwargs={"dtype": torch.bfloat16},
        train_handlers=[GradientClipping(network, optimizer)],
    )  # fmt: skip
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output["loss"].detach()))
    trainer.run()
    return torch.stack(losses).cpu()


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
def test_a_training_is_the_same_recorded_or_not(amp, caplog):
    network, graphs = tiny(), CudaGraphs()
    expected = train(copy.deepcopy(network), CudaGraphs(False), amp)
    found = train(network, graphs, amp)
    torch.testing.assert_close(found, expected, rtol=2e-2 if amp else 1e-3, atol=0)
    assert found[-1] < found[0]
    assert len(graphs._recordings) == 1
    assert [r for r in caplog.records if "recorded" in r.getMessage()] == []


def test_windows_are_the_same_recorded_or_not(caplog):
    network, graphs = tiny().eval(), CudaGraphs()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        inputs = [torch.randn(2, 1, 32, 32, 32, device="cuda") for _ in range(5)]
        expected, found = [network(x) for x in inputs], [graphs(network, x) for x in inputs]
    torch.testing.assert_close(found, expected)
    assert len(graphs._recordings) == 1
    assert [r for r in caplog.records if "recorded" in r.getMessage()] == []


def test_training_and_validation_share_memory():
    network, graphs = tiny(), CudaGraphs()
    for _ in range(3):
        for _ in range(3):
            x = torch.randn(2, 1, 32, 32, 32, device="cuda")
            network.train().zero_grad()
            sum(head.square().mean() for head in graphs(network, x)).backward()
            found = network.stem.weight.grad.clone()
            network.zero_grad()
            sum(head.square().mean() for head in network(x)).backward()
            torch.testing.assert_close(found, network.stem.weight.grad, rtol=1e-3, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(graphs(network.eval(), x), network(x), rtol=1e-3, atol=1e-4)
    assert len(graphs._recordings) == 2


def test_a_step_waits_for_nothing():
    network, graphs, loss = tiny(), CudaGraphs(), SegmentationLoss(SCHEME)
    optimizer = create_optimizer("adamw", network.parameters(), 1e-3)
    x, label = torch.randn(2, 1, 32, 32, 32, device="cuda"), torch.zeros(2, 1, 32, 32, 32, device="cuda")
    for step in range(4):
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
        try:
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                value = loss(graphs(network, x), label)
            value.backward()
            nn.utils.clip_grad_norm_(list(network.parameters()), 12.0)
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert value.isfinite()


class Waiting(nn.Linear):
    """Reads a number from the GPU, which no capture survives."""

    def forward(self, x):
        return super().forward(x) * (1 + x.sum().item() * 0)


def test_after_a_failure_all_works_as_before(caplog):
    network, x = Waiting(4, 2).cuda(), torch.randn(3, 4, device="cuda")
    stream, expected = torch.cuda.current_stream(), network(x)
    graphs = CudaGraphs()
    for _ in range(4):
        torch.testing.assert_close(graphs(network, x), expected)
    assert len([r for r in caplog.records if "could not be recorded" in r.getMessage()]) == 1
    assert torch.cuda.current_stream() == stream
    assert torch.rand(5, device="cuda").std() > 0  # the generator is not left in a capture
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    other, graphs = nn.Linear(4, 2).cuda(), CudaGraphs()
    for _ in range(4):
        torch.testing.assert_close(graphs(other, x), other(x))
    assert len(graphs._recordings) == 1


def test_stochastic_depth_draws_anew_in_every_replay():
    network, graphs = tiny(drop_path_rate=0.9), CudaGraphs()
    x = torch.randn(2, 1, 32, 32, 32, device="cuda")
    with torch.no_grad():
        results = [graphs(network, x)[0] for _ in range(5)]
    assert len(graphs._recordings) == 1
    assert not torch.equal(results[-1], results[-2])
