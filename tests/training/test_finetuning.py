"""Frozen parts, new layers first, and rates that fall with depth, in the step of a training."""

import copy

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from mednextv2.data import LabelScheme
from mednextv2.errors import InputError
from mednextv2.nets import create_mednext
from mednextv2.training import (
    GradientClipping,
    NewLayersFirst,
    SegmentationLoss,
    create_optimizer,
    freeze_part,
    parameter_groups,
)

ENCODER = ("stem", "encoder", "down", "bottleneck")


def make_network(**more):
    torch.manual_seed(0)
    small = {"init_filters": 2, "out_channels": 3, "deep_supervision": True, "blocks_down": 1, "blocks_up": 1}
    return create_mednext("v2_tiny", blocks_bottleneck=1, **{**small, **more})


def train(network, epochs=1, optimizer_name="adamw", new_layers=None, **groups):
    """Train as the recipe does, and return the optimizer."""
    groups = parameter_groups(network, 1e-2, **groups)
    optimizer = create_optimizer(optimizer_name, groups, 1e-2, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    batch = {
        "image": torch.randn(2, 1, 16, 16, 16, generator=generator),
        "label": torch.randint(0, 3, (2, 1, 16, 16, 16), generator=generator),
    }
    SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=epochs, train_data_loader=[batch] * 2, network=network,
        optimizer=optimizer, loss_function=SegmentationLoss(LabelScheme(["background", "a", "b"])),
        optim_set_to_none=True, decollate=False,
        train_handlers=[GradientClipping(network, optimizer, 12.0, new_layers)],
    ).run()  # fmt: skip
    return optimizer


def changed(network, before):
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_frozen_weights_are_the_same_to_the_last_bit(optimizer):
    network = freeze_part(make_network(), "encoder")
    before = copy.deepcopy(network.state_dict())
    made = train(network, 2, optimizer, freeze="encoder")
    found = changed(network, before)
    assert {name.split(".")[0] for name in found} == {"up", "decoder", "heads"}
    assert found == {name for name in before if not name.startswith(ENCODER)}
    assert all(p.grad is None for name, p in network.named_parameters() if name.startswith(ENCODER))
    trained = {id(p) for group in made.param_groups for p in group["params"]}
    assert trained == {id(p) for name, p in network.named_parameters() if not name.startswith(ENCODER)}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_above_a_frozen_encoder_are_those_of_the_whole_network(checkpointing):
    whole, frozen = make_network(), make_network(activation_checkpointing=checkpointing)
    frozen.load_state_dict(whole.state_dict())
    freeze_part(frozen, "encoder")
    x = torch.randn(1, 1, 16, 16, 16)
    for network in (whole, frozen):
        sum(output.square().mean() for output in network(x)).backward()
    for (name, a), b in zip(whole.named_parameters(), frozen.parameters(), strict=True):
        if name.startswith(ENCODER):
            assert b.grad is None
        else:
            torch.testing.assert_close(b.grad, a.grad)


@pytest.mark.slow  # compiling takes a minute
def test_a_frozen_encoder_works_in_a_compiled_network():
    network = freeze_part(make_network(), "encoder")
    x = torch.randn(1, 1, 16, 16, 16)
    expected = [output.detach().clone() for output in network(x)]
    compiled = torch.compile(network, backend="aot_eager")
    outputs = compiled(x)
    for output, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, other)
    sum(output.square().mean() for output in outputs).backward()
    assert all((p.grad is None) == name.startswith(ENCODER) for name, p in network.named_parameters())


def test_batch_norms_of_a_frozen_part_keep_their_statistics():
    network = nn.ModuleDict(
        {"encoder": nn.Sequential(nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2)), "head": nn.Conv1d(2, 1, 1)}
    )
    freeze_part(network, "encoder").train()
    before = copy.deepcopy(network.state_dict())
    network["encoder"](torch.randn(4, 1, 5) + 3)
    assert not changed(network, before)
    assert network["head"].training


def test_other_parts_are_refused():
    with pytest.raises(InputError, match="freeze 'decoder': should be encoder, or none"):
        freeze_part(make_network(), "decoder")
    network = make_network()
    assert freeze_part(network, None) is network
    assert all(p.requires_grad for p in network.parameters())


# --- rates that fall with depth ---------------------------------------------------------------------------------------


def test_rates_fall_from_the_output_to_the_input(caplog):
    caplog.set_level("INFO")
    network = make_network()
    groups = parameter_groups(network, 1e-3, 0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    expected = {  # counted by hand: one stage after the other, from the heads up the decoder and down the encoder
        "heads": 1e-3, "decoder.3": 5e-4, "up.3": 5e-4, "decoder.2": 2.5e-4, "up.2": 2.5e-4, "decoder.1": 1.25e-4,
        "up.1": 1.25e-4, "decoder.0": 6.25e-5, "up.0": 6.25e-5, "bottleneck": 3.125e-5, "down.3": 3.125e-5,
        "encoder.3": 1.5625e-5, "down.2": 1.5625e-5, "encoder.2": 7.8125e-6, "down.1": 7.8125e-6,
        "encoder.1": 3.90625e-6, "down.0": 3.90625e-6, "encoder.0": 1.953125e-6, "stem": 9.765625e-7,
    }  # fmt: skip
    for name, p in network.named_parameters():
        (stage,) = [stage for stage in expected if name.startswith(f"{stage}.")]
        assert rate[id(p)] == pytest.approx(expected[stage]), name
    assert sum(len(group["params"]) for group in groups) == len([*network.parameters()])
    assert groups[0]["lr"] == 1e-3  # the group that the log shows
    table = caplog.messages[-1].splitlines()
    assert table[0] == "layer_decay 0.5: the peak of the learning rate of each stage"
    assert table[1].split() == ["heads", "1.00e-03"]
    assert table[-1].split() == ["stem", "9.77e-07"]
    assert len(table) == 12


def test_without_decay_there_is_one_group_in_the_order_of_the_network():
    network = make_network()
    (group,) = parameter_groups(network, 1e-3, 1.0)
    assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters()]
    assert group["lr"] == 1e-3


def test_decay_and_a_frozen_encoder_together(caplog):
    caplog.set_level("INFO")
    network = freeze_part(make_network(), "encoder")
    groups = parameter_groups(network, 1.0, 0.5, "encoder")
    assert [group["lr"] for group in groups] == [1.0, 0.5, 0.25, 0.125, 0.0625]
    rows = [line for line in caplog.text.splitlines() if line.startswith("  ")]
    (stem,) = (row for row in rows if row.split()[0] == "stem")
    assert stem.endswith("frozen")
    assert len({len(row) - len(row.split()[-1]) for row in rows}) == 1  # rates are one below the other
    before = copy.deepcopy(network.state_dict())
    train(network, layer_decay=0.5, freeze="encoder")
    assert changed(network, before) == {name for name in before if not name.startswith(ENCODER)}


# --- new layers first -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_only_new_layers_are_trained_in_the_first_epochs(optimizer):
    network = make_network()
    before = copy.deepcopy(network.state_dict())
    new = {name for name in before if name.startswith("heads.")}
    first = NewLayersFirst(network, sorted(new), 2)
    made = train(network, 2, optimizer, first)
    assert changed(network, before) == new
    assert {id(p) for p in made.state} == {id(p) for name, p in network.named_parameters() if name in new}
    network = make_network()
    train(network, 3, optimizer, NewLayersFirst(network, sorted(new), 2))
    assert changed(network, before) == {*before}


def test_the_momentum_of_layers_that_come_later_is_that_of_a_first_step():
    """With SGD, the first step of a weight is its gradient, whether others have made steps before or not."""
    fused, plain = make_network(), make_network()
    found = []
    for network, way in ((fused, True), (plain, False)):
        names = [name for name in network.state_dict() if name.startswith("heads.")]
        first = NewLayersFirst(network, names, 1)
        optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True, fused=way)
        for epoch in (1, 2, 3):
            sum(output.square().mean() for output in network(torch.ones(1, 1, 16, 16, 16))).backward()
            if way:
                first.prepare_step(epoch, optimizer)
            elif epoch == 1:
                for name, p in network.named_parameters():
                    p.grad = p.grad if name.startswith("heads.") else None
            optimizer.step()
            optimizer.zero_grad()
        found.append(network.state_dict())
    torch.testing.assert_close(*found)


def test_the_norm_that_is_clipped_is_that_of_the_new_layers():
    """Otherwise, the large gradients of layers that are not trained would shrink the steps of those that are."""
    found = []
    for held in (True, False):
        network = make_network()
        if not held:
            for name, p in network.named_parameters():
                p.requires_grad_(name.startswith("heads."))
        first = NewLayersFirst(network, [n for n in network.state_dict() if n.startswith("heads.")], 5)
        train(network, 1, "sgd", first)
        found.append({k: v for k, v in network.state_dict().items() if k.startswith("heads.")})
    torch.testing.assert_close(found[0], found[1])


def test_without_new_layers_all_are_trained_at_once(caplog):
    caplog.set_level("INFO")
    network = make_network()
    assert NewLayersFirst(network, [], 3).epochs == 0
    assert "no layer is new, so all layers are trained from the first epoch on" in caplog.text
    assert NewLayersFirst(network, ["heads.0.weight"], 0).epochs == 0
    assert NewLayersFirst(network, list(network.state_dict()), 3).epochs == 0  # nothing would be held


def test_new_layers_that_are_frozen_are_told(caplog):
    network = freeze_part(make_network(), "encoder")
    NewLayersFirst(network, ["down.0.grn.gamma", "heads.0.weight"], 0)
    assert "freeze: 1 tensor of the frozen part keep" in caplog.text
