import pytest
import torch
from op_helpers import errors, exact, nan_filled

from mednextv2 import ops
from mednextv2.ops.upsample_merge import upsample_merge_backward_op, upsample_merge_op


def case(space, dtype=torch.float32, shortcut=True, skip=True):
    def leaf(size):
        return torch.randn(2, 4, *size, dtype=dtype).requires_grad_()

    return {
        "y": leaf([2 * n - 1 for n in space]),
        "shortcut": leaf(space) if shortcut else None,
        "skip": leaf([2 * n for n in space]) if skip else None,
    }


@pytest.mark.parametrize("space", [(2, 3, 4), (1, 1, 1), (3, 5)])
@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_it_equals_its_definition(space, shortcut, skip):
    values = case(space, torch.float32, shortcut, skip)
    copies = exact(values)
    with nan_filled():
        out = ops.upsample_merge(*values.values())
        found = errors(out, ops.upsample_merge_reference(*copies.values()), values, copies)
    assert max(found.values()) < 1e-6


def test_the_definition_is_the_transposed_convolution_of_kernel_one():
    x, weight = torch.randn(2, 3, 2, 3, 4), torch.randn(3, 5, 1, 1, 1)
    y = torch.randn(2, 5, 3, 5, 7)
    up = torch.nn.functional.conv_transpose3d(x, weight, stride=2)
    expected = torch.nn.functional.pad(y + up, [1, 0] * 3)
    shortcut = torch.nn.functional.conv3d(x, weight.transpose(0, 1))
    torch.testing.assert_close(ops.upsample_merge_reference(y, shortcut, None), expected)


def test_gradcheck():
    assert torch.autograd.gradcheck(ops.upsample_merge, tuple(case((1, 2, 2), torch.float64).values()))


@pytest.mark.parametrize("parts", [(True, True), (False, True), (True, False)])
def test_opcheck(parts):
    torch.library.opcheck(upsample_merge_op, tuple(case((2, 3, 2), torch.float32, *parts).values()))
    torch.library.opcheck(upsample_merge_backward_op, (torch.randn(2, 4, 4, 6, 4), parts[0]))


def test_the_skip_connection_is_left_as_it_was():
    values = case((2, 2, 2))
    before = values["skip"].detach().clone()
    ops.upsample_merge(*values.values())
    assert torch.equal(values["skip"], before)
