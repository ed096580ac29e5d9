"""A training step starts few operations on the device, and reads nothing from it."""

import pytest
import torch
from step_helpers import META, Calls, training_step_calls

from mednextv2.data import LabelScheme
from mednextv2.training import OPTIMIZERS, PseudoDice, SegmentationLoss

LABELS = ["background", "edema", "core", "enhancing"]
REGIONS = [
    {"name": "whole", "values": [1, 2, 3], "paint": 1},
    {"name": "core", "values": [2, 3], "paint": 2},
    {"name": "enhancing", "values": [3], "paint": 3},
]
SCHEMES = {
    "classes": LabelScheme(LABELS),
    "classes and ignore": LabelScheme(LABELS, ignore_label=4),
    "regions": LabelScheme(LABELS, REGIONS),
    "regions and ignore": LabelScheme(LABELS, REGIONS, ignore_label=4),
}
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
both_dices = pytest.mark.parametrize("batch_dice", [False, True], ids=["sample Dice", "batch Dice"])


@every_scheme
@both_dices
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_a_step_beside_the_network_has_few_calls_and_waits_for_nothing(
    monkeypatch, tmp_path, scheme, batch_dice, optimizer_name
):
    first, *others = training_step_calls(monkeypatch, tmp_path, optimizer_name, scheme, batch_dice)
    assert len(others) == 2
    for calls in others:  # the first step also makes the optimizer's state
        assert calls.waits == []
        assert calls.launches <= 200, calls.names
        assert calls.names[f"aten._fused_{optimizer_name}_.default"] == 1
        assert calls.names["aten._foreach_norm.Scalar"] == 1
    assert first.waits == ["tensor"] * len(first.waits)  # the weights of the heads, once


def test_the_number_of_calls_does_not_grow_with_the_parameters(monkeypatch, tmp_path):
    few, many = (training_step_calls(monkeypatch, tmp_path, parameters=n)[-1] for n in (5, 500))
    assert few.names == many.names


@every_scheme
@both_dices
def test_the_loss_of_five_heads_has_few_calls(scheme, batch_dice):
    loss = SegmentationLoss(scheme, batch_dice)
    label = torch.zeros(2, 1, 64, 64, 64, dtype=torch.int16, device=META)
    for _ in range(2):
        sizes = [[64 // 2**i] * 3 for i in range(5)]
        heads = [torch.zeros(2, scheme.outputs, *s, device=META, dtype=torch.bfloat16) for s in sizes]
        heads = [h.requires_grad_() for h in heads]
        with Calls() as calls:
            loss(heads, label).backward()
    assert calls.waits == []
    assert calls.launches < 150, calls.names


@every_scheme
def test_a_validation_step_has_few_calls_and_waits_for_nothing(scheme):
    metric = PseudoDice(scheme, device=META)
    logits = torch.zeros(2, scheme.outputs, 32, 32, 32, device=META, dtype=torch.bfloat16)
    with Calls() as calls:
        metric.update((logits, torch.zeros(2, 1, 32, 32, 32, device=META, dtype=torch.int16)))
    assert calls.waits == []
    assert calls.launches < 30, calls.names


def test_a_wait_would_be_found():
    with Calls() as calls:
        torch.zeros(3).to(META)
        torch.zeros(3, device=META).copy_(torch.zeros(3))
        torch.tensor([1.0, 2.0], device=META)
        float(torch.zeros(()))
        with pytest.raises(NotImplementedError, match="meta"):
            torch.zeros(3, device=META).to("cpu")
    assert calls.waits == [
        "aten._to_copy.default",
        "aten.copy_.default",
        "tensor",
        "aten._local_scalar_dense.default",
        "aten._to_copy.default",
    ]
