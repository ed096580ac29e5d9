"""MONAI's tensors as plain ones, without an import of MONAI."""

import subprocess
import sys

import pytest
import torch
from monai.data import MetaTensor

from mednextv2.nets.metatensor import plain_tensor


def test_a_meta_tensor_becomes_a_plain_one_on_the_same_memory():
    x = MetaTensor(torch.randn(1, 2, 3), affine=torch.eye(4), meta={"filename_or_obj": "a.nii"})
    found = plain_tensor(x)
    assert type(found) is torch.Tensor
    assert found.data_ptr() == x.data_ptr()
    assert torch.equal(found, torch.as_tensor(x.numpy()))
    assert type(found + 1) is torch.Tensor


def test_gradients_flow_back_to_the_meta_tensor():
    x = MetaTensor(torch.randn(2, 2)).requires_grad_()
    (plain_tensor(x) ** 2).sum().backward()
    assert torch.equal(x.grad, 2 * x.detach().as_tensor())


class Other(torch.Tensor):
    """Another library's tensor."""


@pytest.mark.parametrize("x", [torch.ones(2), torch.nn.Parameter(torch.ones(2)), torch.ones(2).as_subclass(Other)])
def test_every_other_tensor_stays_what_it_is(x):
    assert plain_tensor(x) is x


def test_monai_is_not_imported_for_it():
    code = "import sys, torch; from mednextv2.nets.metatensor import plain_tensor; plain_tensor(torch.ones(1)); "
    code += "print('monai' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
