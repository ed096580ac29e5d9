"""Rows put at some positions of a feature map."""

import pytest
import torch
from op_helpers import nan_filled

from mednextv2 import ops
from mednextv2.ops._row_runs import scatter_rows_op

CASES = [((2, 4, 6), 3, 2), ((1, 2, 3, 8), 5, 4), ((3, 2, 2, 2), 1, 1)]


def some(shape, channels, length, dtype=torch.float32, fill=True):
    """Rows for about half of the runs in a random order, and what the others hold."""
    number = torch.Size(shape).numel() // length
    runs = torch.randperm(number)[: (number + 1) // 2]
    rows = torch.randn(len(runs) * length, channels, dtype=dtype)
    return rows, runs, torch.randn(channels, dtype=dtype) if fill else None


def by_hand(rows, runs, shape, length, fill):
    empty = torch.zeros(rows.shape[1]) if fill is None else fill
    memory = [empty.to(rows.dtype)] * torch.Size(shape).numel()
    for k, run in enumerate(runs.tolist()):
        memory[run * length : (run + 1) * length] = rows[k * length : (k + 1) * length]
    return torch.stack(memory).view(*shape, -1).movedim(-1, 1)


@pytest.mark.parametrize(("shape", "channels", "length"), CASES)
@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_where_the_runs_say_and_the_rest_is_filled(shape, channels, length, fill, dtype):
    rows, runs, token = some(shape, channels, length, dtype, fill)
    expected = by_hand(rows, runs, shape, length, token)
    with nan_filled():
        found = ops.scatter_rows(rows, runs, shape, length, token)
    assert found.is_contiguous(memory_format=torch.channels_last_3d if len(shape) == 4 else torch.channels_last)
    assert torch.equal(found, expected)
    assert torch.equal(ops.scatter_rows_reference(rows, runs, shape, length, token), expected)
    with ops.use("reference"):
        assert torch.equal(ops.scatter_rows(rows, runs, shape, length, token), expected)
    assert torch.equal(ops.gather_rows(found, runs, length), rows)


def test_a_token_in_single_precision_fills_features_in_half():
    rows, runs, token = some((2, 4, 6), 3, 2)
    token.requires_grad_()
    found = ops.scatter_rows(rows.bfloat16(), runs, (2, 4, 6), 2, token)
    assert found.dtype == torch.bfloat16
    found.sum().backward()
    assert token.grad.dtype == torch.float32
    assert token.grad.tolist() == [48 - len(rows)] * 3


@pytest.mark.parametrize(("shape", "channels", "length"), CASES)
@pytest.mark.parametrize("fill", [True, False])
def test_all_derivatives_exist(shape, channels, length, fill):
    rows, runs, token = some(shape, channels, length, torch.float64, fill)
    leaves = [leaf.requires_grad_() for leaf in (rows, token) if leaf is not None]

    def function(rows, token=None):
        return ops.scatter_rows(rows, runs, shape, length, token).sin()

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize(("shape", "channels", "length"), CASES[1:2])
@pytest.mark.parametrize("fill", [True, False])
def test_opcheck(shape, channels, length, fill):
    rows, runs, token = some(shape, channels, length, fill=fill)
    token = token.requires_grad_() if fill else None
    torch.library.opcheck(scatter_rows_op, (rows.requires_grad_(), runs, length, list(shape), token))


def test_rows_that_do_not_fit_are_refused():
    rows, runs, token = some((2, 4, 6), 3, 2)
    with pytest.raises(ValueError, match=r"rows has the shape \(24, C\) for these runs, not \(23, 3\)"):
        ops.scatter_rows(rows[1:], runs, (2, 4, 6), 2)
    with pytest.raises(ValueError, match=r"fill has the shape \(3,\), not \(2,\)"):
        ops.scatter_rows(rows, runs, (2, 4, 6), 2, token[1:])
    with pytest.raises(ValueError, match="runs is an int64 tensor"):
        ops.scatter_rows(rows, runs.float(), (2, 4, 6), 2)
