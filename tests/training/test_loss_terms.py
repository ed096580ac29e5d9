"""The sums of the loss over the voxels of each head."""

import pytest
import torch
from loss_helpers import SCHEMES, some
from torch.nn import functional

from mednextv2.training.loss_terms import as_numbers, class_sums, label_of_heads, region_sums


@pytest.mark.parametrize("ignored", [False, True])
def test_sums_of_classes_and_regions_are_those_of_pytorch(ignored):
    heads, label = some(SCHEMES["classes"], (6, 4), (3, 2), dtype=torch.float64)
    numbers = label_of_heads(label.double(), heads)
    mask = as_numbers(torch.rand(numbers.shape) < 0.7, torch.float64) if ignored else None
    sums = class_sums(heads, [24, 6], torch.where(mask == 0, 9, numbers) if ignored else numbers, mask)
    marked = as_numbers(torch.cat([numbers == v for v in range(4)], 1), torch.float64)
    regions = region_sums(heads, [24, 6], marked * (1 if mask is None else mask), mask)
    parts = numbers.split([24, 6], 2), (torch.ones_like(numbers) if mask is None else mask).split([24, 6], 2)
    for i, (head, y, valid) in enumerate(zip(heads, *parts, strict=True)):
        x, y = head.flatten(2), y[:, 0].long()
        one_hot = functional.one_hot(y, 4).movedim(-1, 1).double()
        entropy = functional.cross_entropy(x, y, reduction="none")[:, None]
        torch.testing.assert_close(sums.entropy[i], (entropy * valid).sum())
        for found, p in ((sums, x.softmax(1)), (regions, x.sigmoid())):
            torch.testing.assert_close(found.overlap[i], (p * one_hot * valid).sum(2))
            torch.testing.assert_close(found.predicted[i], (p * valid).sum(2))
            torch.testing.assert_close(found.labelled[i], (one_hot * valid).sum(2))
        binary = functional.binary_cross_entropy_with_logits(x, one_hot, reduction="none")
        torch.testing.assert_close(regions.entropy[i], (binary * valid).sum(2))
