"""Rows of some positions, taken out of a feature map."""

import pytest
import torch
from op_helpers import nan_filled

from mednextv2 import ops
from mednextv2.ops._row_runs import gather_rows_op

CASES = [((2, 3, 4, 6), 2), ((1, 5, 2, 3, 8), 4), ((3, 1, 2, 2, 2), 1), ((2, 8, 1, 1, 5), 5)]


def some(shape, length, dtype=torch.float32):
    """Features, and about half of the runs in a random order."""
    x = torch.randn(shape, dtype=dtype)
    number = x.numel() // shape[1] // length
    return x, torch.randperm(number)[: (number + 1) // 2]


def by_hand(x, runs, length):
    """Walk through the positions in the order of memory."""
    samples = [x[n].reshape(x.shape[1], -1).t() for n in range(len(x))]
    rows = [row for sample in samples for row in sample]
    return torch.stack([rows[run * length + i] for run in runs.tolist() for i in range(length)])


@pytest.mark.parametrize(("shape", "length"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [True, False], ids=["channels last", "contiguous"])
def test_it_takes_the_rows_in_the_order_of_runs(shape, length, dtype, last):
    x, runs = some(shape, length, dtype)
    if last:
        x = x.contiguous(memory_format=torch.channels_last_3d if x.dim() == 5 else torch.channels_last)
    expected = by_hand(x, runs, length)
    with nan_filled():
        assert torch.equal(ops.gather_rows(x, runs, length), expected)
    assert torch.equal(ops.gather_rows_reference(x, runs, length), expected)
    with ops.use("reference"):
        assert torch.equal(ops.gather_rows(x, runs, length), expected)


def test_no_runs_are_no_rows():
    x, runs = some((2, 3, 4, 6), 2)
    assert ops.gather_rows(x, runs[:0], 2).shape == (0, 3)


@pytest.mark.parametrize(("shape", "length"), CASES)
def test_all_derivatives_exist(shape, length):
    x, runs = some(shape, length, torch.float64)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.gather_rows(x, runs, length).sin(), x)
    assert torch.autograd.gradgradcheck(lambda x: ops.gather_rows(x, runs, length).sin(), x)


@pytest.mark.parametrize(("shape", "length"), CASES[1:2])
def test_opcheck(shape, length):
    x, runs = some(shape, length)
    x = x.contiguous(memory_format=torch.channels_last_3d if x.dim() == 5 else torch.channels_last)
    torch.library.opcheck(gather_rows_op, (x.requires_grad_(), runs, length))


@pytest.mark.parametrize(
    ("runs", "length", "message"),
    [
        (torch.zeros(2, dtype=torch.int32), 2, r"runs is an int64 tensor \(K,\), not \(2,\) of int32"),
        (torch.zeros(2, 1, dtype=torch.int64), 2, r"runs is an int64 tensor"),
        (torch.zeros(2, dtype=torch.int64), 4, "length divides the positions of a line, 6, which 4 does not"),
        (torch.zeros(2, dtype=torch.int64), 0, "which 0 does not"),
    ],
)
def test_runs_that_do_not_fit_are_refused(runs, length, message):
    with pytest.raises(ValueError, match=message):
        ops.gather_rows(torch.ones(1, 3, 4, 6), runs, length)
