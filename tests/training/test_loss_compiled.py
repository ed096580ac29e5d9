"""The loss where it is compiled, and in several processes."""

import pytest
import torch
from forked_processes import in_two_processes, joined
from loss_helpers import SCHEMES, some, value_and_gradients
from torch import nn

from mednextv2.training.loss import SegmentationLoss


@pytest.mark.parametrize("name", ["classes", "regions and ignore"])
def test_compiled_loss_is_the_same(name):
    heads, label = some(SCHEMES[name], (8, 6), (4, 3))
    loss = SegmentationLoss(SCHEMES[name])
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found, expected = value_and_gradients(compiled, heads, label), value_and_gradients(loss, heads, label)
    torch.testing.assert_close(found, expected)


def test_compiled_loss_is_the_same_where_processes_are_summed_over():
    heads, label = some(SCHEMES["classes"], (8, 6), (4, 3))
    loss = SegmentationLoss(SCHEMES["classes"], batch_dice=True)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        found = value_and_gradients(torch.compile(loss, backend="aot_eager", fullgraph=True), heads, label)
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(found, value_and_gradients(loss, heads, label))


class TwoHeads(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.heads = nn.ModuleList([nn.Conv2d(1, outputs, 3, stride=s, padding=1) for s in (1, 2)])

    def forward(self, x):
        return [head(x) for head in self.heads]


def distributed_loss(scheme, data, rank):
    """The loss of one of two processes, which has one of the two samples, and DDP's gradients."""
    network = TwoHeads(scheme.outputs).double()
    network.load_state_dict(data["model"])
    network = nn.parallel.DistributedDataParallel(network)
    x, label = data["x"][rank : rank + 1], data["label"][rank : rank + 1]
    value = SegmentationLoss(scheme, batch_dice=True)(network(x), label)
    value.backward()
    alone = SegmentationLoss(scheme, batch_dice=False)(network(x), label)
    return {
        "value": value.detach(),
        "gradients": [p.grad for p in network.parameters()],
        "sample Dice": alone.detach(),
    }


def one_process_of_two(rank, folder, data):
    with joined(rank, folder):
        return {name: distributed_loss(SCHEMES[name], data[name], rank) for name in data}


def test_two_processes_have_the_loss_and_the_gradients_of_one_with_both_samples(tmp_path):
    data = {}
    for name in ("classes", "regions"):
        _, label = some(SCHEMES[name], (8, 10))
        label[1] //= 2  # the samples differ, and so would Dices of their own
        x = label + torch.randn(label.shape, dtype=torch.float64)
        data[name] = {"model": TwoHeads(SCHEMES[name].outputs).double().state_dict(), "x": x, "label": label}
    found = in_two_processes(one_process_of_two, tmp_path, data)
    for name, one in data.items():
        scheme = SCHEMES[name]
        network = TwoHeads(scheme.outputs).double()
        network.load_state_dict(one["model"])
        value = SegmentationLoss(scheme, batch_dice=True)(network(one["x"]), one["label"])
        value.backward()
        torch.testing.assert_close((found[0][name]["value"] + found[1][name]["value"]) / 2, value.detach())
        for rank in range(2):
            torch.testing.assert_close(found[rank][name]["gradients"], [p.grad for p in network.parameters()])
            alone = network(one["x"][rank : rank + 1]), one["label"][rank : rank + 1]
            torch.testing.assert_close(found[rank][name]["sample Dice"], SegmentationLoss(scheme)(*alone).detach())
