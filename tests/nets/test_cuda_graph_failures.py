"""What of a network cannot be recorded, and what is told of it."""

import copy
import logging

import pytest
import torch
from net_helpers import TwoHeads, patches, train, usual
from torch import nn

from mednextv2.nets import CudaGraphs
from mednextv2.nets.cuda_graph import _on_gpu


@pytest.mark.parametrize("after", [0, 1, 12])  # the first operation, another, one of the backward pass
def test_a_failure_is_told_once_and_all_runs_as_usual(cuda, caplog, after):
    network, graphs, inputs = TwoHeads(), CudaGraphs(), patches(5)
    expected = train(copy.deepcopy(network), usual, inputs)
    cuda.failing = (after, RuntimeError("Cannot copy between CPU and CUDA tensors during CUDA graph capture\nand more"))
    with caplog.at_level(logging.WARNING, "mednextv2"):
        found = train(network, graphs, inputs)
        with torch.no_grad():
            for x in inputs:
                graphs(network.eval(), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    (record,) = caplog.records
    assert record.getMessage() == (
        "The network could not be recorded as a CUDA graph (Cannot copy between CPU and CUDA tensors during CUDA graph "
        "capture); it runs without, which is slower where the processor is slow"
    )
    assert (cuda.captured, cuda.replayed) == (1 if after < 12 else 2, 0)
    assert cuda.stream is cuda.main  # a capture that could not be ended leaves its own behind
    assert cuda.undone == [("end", 0, "pool"), ("release", 0, "pool"), ("random numbers", "state")]


def test_a_failure_before_the_capture_leaves_nothing_to_undo(cuda, caplog, monkeypatch):
    network, graphs = TwoHeads().eval(), CudaGraphs()

    def fail():
        raise RuntimeError("")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", fail)
    with torch.no_grad(), caplog.at_level(logging.WARNING, "mednextv2"):
        for x in patches(3):
            torch.testing.assert_close(graphs(network, x), network(x), rtol=0, atol=0)
    assert "(RuntimeError)" in caplog.text  # an error without words
    assert cuda.undone == []


def test_what_was_recorded_before_a_failure_is_still_replayed(cuda, caplog):
    network, graphs, inputs = TwoHeads(), CudaGraphs(), patches(3)
    train(network, graphs, inputs)
    cuda.failing, replayed = (0, RuntimeError("not this one")), cuda.replayed
    with torch.no_grad():
        for x in inputs:
            torch.testing.assert_close(graphs(network.eval(), x), network(x), rtol=0, atol=0)
    assert "not this one" in caplog.text
    assert cuda.replayed == replayed
    cuda.failing = None
    train(network.train(), graphs, inputs)
    assert cuda.replayed == replayed + 6


def test_a_memory_that_is_too_small_for_the_network_itself_is_not_hidden(cuda, caplog):
    network, graphs, (x,) = TwoHeads().eval(), CudaGraphs(), patches(1)
    with torch.no_grad():
        graphs(network, x)
        network.forward = out_of_memory
        with pytest.raises(torch.OutOfMemoryError, match="tried to allocate"):
            graphs(network, x)
        with pytest.raises(torch.OutOfMemoryError, match="tried to allocate"):
            graphs(network, x)
    assert len(caplog.records) == 1


def out_of_memory(x):
    raise torch.OutOfMemoryError("tried to allocate")


def test_processes_that_exchange_gradients_are_not_recorded(cuda, caplog):
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        network, graphs, inputs = TwoHeads(), CudaGraphs(), patches(4)
        expected = train(copy.deepcopy(network), usual, inputs)[0]
        found = train(nn.parallel.DistributedDataParallel(network), graphs, inputs)[0]
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(found, expected)
    assert cuda.captured == 0
    (record,) = caplog.records
    assert "processes exchange gradients" in record.getMessage()


def test_inside_of_another_capture_a_network_runs_as_usual(cuda):
    network, graphs, (x,) = TwoHeads().eval(), CudaGraphs(), patches(1)
    cuda.capturing = True
    with torch.no_grad():
        for _ in range(3):
            graphs(network, x)
    assert cuda.captured == 0


def test_it_can_be_compiled_and_exported(cuda):
    network, graphs, (x,) = TwoHeads().eval(), CudaGraphs(), patches(1)

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return graphs(self.network, x)

    with torch.no_grad():
        expected = network(x)
        for _ in range(3):
            torch.testing.assert_close(torch.compile(Wrapped(), backend="eager", fullgraph=True)(x), expected)
            torch.testing.assert_close(torch.export.export(Wrapped(), (x,)).module()(x), expected)
    assert cuda.captured == 0


def test_it_can_be_switched_off(cuda):
    network, graphs = TwoHeads().eval(), CudaGraphs(enabled=False)
    with torch.no_grad():
        for x in patches(3):
            graphs(network, x)
    assert (cuda.captured, network.calls) == (0, 3)


def test_on_a_cpu_nothing_is_recorded():
    network, graphs, inputs = TwoHeads(), CudaGraphs(), patches(4)
    assert not _on_gpu(inputs[0])
    expected = train(copy.deepcopy(network), usual, inputs)
    torch.testing.assert_close(train(network, graphs, inputs), expected, rtol=0, atol=0)
    assert network.calls == 4
