"""The named tuples of the operators' arguments, and that the custom operators take their fields."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from mednextv2.ops.parameters import Convolution, Mlp, Saved, Settings, Statistics, pick


def arguments_of(name):
    return tuple(argument.name for argument in getattr(torch.ops.mednextv2, name).default._schema.arguments)


def test_custom_operators_take_the_fields_of_the_named_tuples():
    """Names and order are those of the programs and caches that are around already."""
    convolution, mlp, settings = Convolution._fields, Mlp._fields, Settings._fields
    without_bias = tuple(name for name in convolution if name != "bias")
    assert arguments_of("depthwise") == ("x", *convolution)
    assert arguments_of("depthwise_backward") == ("grad", "x", *without_bias, "need_x")
    given = ("y", *Statistics._fields, *mlp)
    assert arguments_of("folded_mlp") == (*given, "residual", *settings)
    assert arguments_of("folded_mlp_backward") == ("grad", *given, "g", *settings)
    assert arguments_of("block") == ("x", *convolution, *mlp, "residual", "own_residual", "keep", *settings)
    kept = ("grad", "x", *without_bias, *mlp, *Saved._fields)
    assert arguments_of("block_backward") == (*kept, "own_residual", "need_x", *settings)
    assert arguments_of("upsample_merge") == ("y", "shortcut", "skip")
    assert arguments_of("upsample_merge_backward") == ("grad", "has_shortcut")


@pytest.mark.parametrize("name", ["depthwise", "folded_mlp", "block"])
def test_gradients_are_named_as_the_arguments_are(name):
    assert importlib.import_module(f"mednextv2.ops.{name}")._Inputs._fields == arguments_of(name)


def test_named_tuples_are_picked_by_name():
    values = SimpleNamespace(variance=2, other=3, mean=1)
    assert pick(Statistics, values) == Statistics(mean=1, variance=2)
    mlp = Mlp(*range(8))._replace(gamma=None, beta=None)
    gradients = Mlp(*"abcdefgh")
    assert mlp.where_given(gradients) == gradients._replace(gamma=None, beta=None)


def test_what_lacks_a_field_cannot_be_picked_from():
    with pytest.raises(AttributeError, match="variance"):
        pick(Statistics, SimpleNamespace(mean=1))


def mlp(dtype=torch.float32, grn=True):
    vectors = [torch.arange(4.0).to(dtype) + n for n in range(6)]
    if not grn:
        vectors[3:5] = None, None
    norm_weight, norm_bias, b1, gamma, beta, b2 = vectors
    return Mlp(norm_weight, norm_bias, torch.eye(4, dtype=dtype), b1, gamma, beta, torch.ones(4, 4, dtype=dtype), b2)


def test_weights_without_gaps_are_taken_as_they_are_and_others_are_copied():
    weights = mlp()
    assert all(a is b for a, b in zip(weights.contiguous(), weights, strict=True))
    turned = weights._replace(w1=torch.arange(12.0).view(3, 4).t(), b1=torch.arange(8.0)[::2], gamma=None)
    found = turned.contiguous()
    assert found.w1.stride() == (3, 1)
    assert found.w1.tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    assert found.b1.is_contiguous()
    assert found.b1.tolist() == [0, 2, 4, 6]
    assert found.gamma is None
    assert found.w2 is turned.w2


@pytest.mark.parametrize("grn", [True, False])
def test_gradients_get_the_dtypes_of_their_weights(grn):
    weights = mlp(grn=grn)._replace(w2=torch.ones(4, 4, dtype=torch.bfloat16))
    gradients = Mlp(*(None if w is None else torch.full(w.shape, 1 / 3, dtype=torch.float64) for w in weights))
    found = weights.with_dtypes(gradients)
    assert found.w1.dtype == found.b2.dtype == torch.float32
    assert found.w2.dtype == torch.bfloat16
    assert found.w1[0, 0].item() == torch.tensor(1 / 3).item()
    for gradient in (found.gamma, found.beta):  # an operator returns tensors alone
        assert gradient.shape == ((4,) if grn else (0,))
        assert gradient.dtype == torch.float32


def test_settings_are_those_of_the_authors_unless_given():
    assert Settings() == (1e-5, 1e-6, False)
    assert Convolution(torch.ones(1, 1, 3, 3), None)[2:] == (1, False)
