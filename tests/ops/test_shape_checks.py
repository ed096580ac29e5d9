"""What the operators refuse: their kernels would read past the end of a tensor that is too short."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from op_helpers import block_case, mlp_of, run_block

from mednextv2 import ops
from mednextv2.ops.shape_checks import (
    check_block,
    check_depthwise,
    check_grn,
    check_mlp,
    check_tensor,
    result_shape,
)


@pytest.mark.parametrize("name", ops.Mlp._fields)
def test_a_parameter_that_is_too_short_is_refused(name):
    values, settings = block_case(5, torch.float32, channels=16, grn=True)
    values = {k: v if v is None else v.detach() for k, v in values.items()}
    values[name] = values[name][:, :-1] if values[name].dim() > 1 else values[name][:-1]
    with pytest.raises(ValueError, match=f"{name} has the shape"):
        run_block(values, settings)
    with pytest.raises(ValueError, match=f"{name} has the shape"):
        ops.folded_mlp(values["x"], mlp_of(values), settings=settings)


def test_what_does_not_fit_the_residual_is_refused():
    values, _ = block_case(6, torch.float32, channels=8, space=(4, 4, 4), grn=True)
    with pytest.raises(ValueError, match="residual has the shape"):
        run_block({**values, "w2": values["w2"][:4], "b2": values["b2"][:4]})
    x, mlp = values["x"], mlp_of(values)
    with pytest.raises(ValueError, match="residual has the shape"):
        ops.folded_mlp(x, mlp, torch.ones(1, 8, 1, 1, 1))
    with pytest.raises(ValueError, match="statistics: variance has the shape"):
        ops.folded_mlp(x, mlp, statistics=ops.Statistics(torch.zeros(x.shape[:2]), torch.ones(1)))


@pytest.mark.parametrize("path", ["auto", "reference"])
@pytest.mark.parametrize("missing", ["gamma", "beta"])
def test_half_of_grn_is_refused(missing, path):
    values, _ = block_case(7, torch.float32, grn=True)
    values[missing] = None
    with ops.use(path):
        with pytest.raises(ValueError, match="both or not at all"):
            run_block(values)
        with pytest.raises(ValueError, match="both or not at all"):
            ops.folded_mlp(values["x"], mlp_of(values))


def test_what_is_no_tensor_is_refused():
    values, _ = block_case(10, torch.float32, channels=8)
    convolution, mlp = ops.Convolution(values["weight"], values["bias"]), mlp_of(values)
    for call in (
        lambda: ops.block([1, 2], convolution, mlp),
        lambda: ops.depthwise([1, 2], convolution),
        lambda: ops.folded_mlp([1, 2], mlp),
    ):
        with pytest.raises(ValueError, match=r"[xy] is a tensor, not a list"):
            call()


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


def mlp(channels=3, width=6, out=4, grn=True, ones=0):
    """Weights of the right shapes; `ones`: those of convolutions of kernel 1."""
    gamma, beta = (zeros(width), zeros(width)) if grn else (None, None)
    w1, w2 = zeros(width, channels, *[1] * ones), zeros(out, width, *[1] * ones)
    return ops.Mlp(zeros(channels), zeros(channels), w1, zeros(width), gamma, beta, w2, zeros(out))


@pytest.mark.parametrize("value", [None, 3.0, [1.0, 2.0]])
def test_anything_but_a_tensor_is_named_with_its_type(value):
    check_tensor("x", zeros(1))
    check_tensor("x", torch.nn.Parameter(zeros(1)))
    with pytest.raises(ValueError, match=f"x is a tensor, not a {type(value).__name__}$"):
        check_tensor("x", value)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "transposed"), list(itertools.product([1, 3, 5, 7], [1, 2], [False, True]))
)
def test_the_result_has_the_shape_that_pytorch_makes(dims, kernel, stride, transposed):
    for size in range(1, 10):
        x = torch.empty(1, 2, *[size + n for n in range(dims)], device="meta")
        weight = torch.empty(2, 1, *[kernel] * dims, device="meta")
        convolve = getattr(F, f"conv_transpose{dims}d" if transposed else f"conv{dims}d")
        expected = convolve(x, weight, stride=stride, padding=kernel // 2, groups=2).shape[2:]
        assert result_shape(x, weight, stride, transposed) == list(expected)


@pytest.mark.parametrize("space", [(4, 4), (4, 5, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_what_fits_a_convolution_passes(space, bias):
    for kernel, stride in itertools.product((1, 3, 9), (1, 2)):
        weight = zeros(3, 1, *[kernel] * len(space))
        check_depthwise(zeros(2, 3, *space), ops.Convolution(weight, zeros(3) if bias else None, stride))


@pytest.mark.parametrize("ones", [0, 2, 3])
@pytest.mark.parametrize("grn", [True, False])
def test_what_fits_a_folded_mlp_passes(ones, grn):
    y, statistics = zeros(2, 3, 4, 5, 6), ops.Statistics(zeros(2, 3), zeros(2, 3))
    check_mlp(y, mlp(grn=grn, ones=ones))
    check_mlp(y, mlp(grn=grn, ones=ones), zeros(2, 4, 4, 5, 6), statistics)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (zeros(3, 4, 5), r"y is a floating-point tensor \(N, C, \*spatial\) .* not \(3, 4, 5\) of float32"),
        (zeros(1, 3, 2, 2, 2, 2), "two or three dimensions"),
        (zeros(1, 3, 2, 2, dtype=torch.int16), "not .* of int16"),
        (zeros(1, 5, 2, 2), r"norm_weight has the shape \(5,\), not \(3,\) of float32"),
    ],
)
def test_features_that_do_not_fit_a_folded_mlp_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        check_mlp(y, mlp())


def test_a_convolution_of_a_larger_kernel_is_no_matrix():
    with pytest.raises(ValueError, match=r"w1 has the shape \(6, 3\), not \(6, 3, 1, 3\) of float32"):
        check_mlp(zeros(1, 3, 4, 4), mlp()._replace(w1=zeros(6, 3, 1, 3)))


@pytest.mark.parametrize("field", ["mean", "variance"])
def test_statistics_of_another_batch_are_refused(field):
    statistics = ops.Statistics(zeros(2, 3), zeros(2, 3))._replace(**{field: zeros(1, 3)})
    with pytest.raises(ValueError, match=rf"statistics: {field} has the shape \(2, 3\), not \(1, 3\)"):
        check_mlp(zeros(2, 3, 4, 4), mlp(), statistics=statistics)


@pytest.mark.parametrize(
    ("stride", "transposed", "space"), [(1, False, (6, 8)), (2, False, (3, 4)), (2, True, (11, 15))]
)
def test_the_residual_of_a_block_has_the_space_of_the_convolution(stride, transposed, space):
    x, convolution = zeros(2, 3, 6, 8), ops.Convolution(zeros(3, 1, 3, 3), None, stride, transposed)
    check_block(x, convolution, mlp(), zeros(2, 4, *space))
    check_block(x, convolution, mlp(), None)
    for wrong in ((2, 4, *(n + 1 for n in space)), (2, 3, *space), (1, 4, *space)):
        with pytest.raises(ValueError, match="residual has the shape"):
            check_block(x, convolution, mlp(), zeros(*wrong))


@pytest.mark.parametrize("value", ["mean", "sum", 1, None])
def test_the_denominator_of_grn_is_a_yes_or_a_no(value):
    check_grn(mlp(), ops.Settings(grn_sum=True))
    check_grn(mlp(grn=False), ops.Settings())
    with pytest.raises(ValueError, match=f"is True or False, not {value!r}"):
        check_grn(mlp(), ops.Settings(grn_sum=value))
