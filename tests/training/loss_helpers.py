"""Schemes of labels, random outputs for them, and the value and the gradients of a loss."""

import torch

from mednextv2.label_scheme import LabelScheme

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


def some(scheme, *sizes, batch=2, dtype=torch.float32, scale=3.0):
    """Logits of heads of these sizes, and a label map of the first."""
    heads = [scale * torch.randn(batch, scheme.outputs, *size).to(dtype) for size in sizes]
    return [head.requires_grad_() for head in heads], torch.randint(len(scheme.declared), (batch, 1, *sizes[0]))


def value_and_gradients(loss, heads, label):
    value = loss(heads, label)
    return value.detach(), torch.autograd.grad(value, heads)
