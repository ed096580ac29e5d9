import importlib
import inspect

import pytest
import torch
from op_helpers import (
    MLP_ARGUMENTS,
    TOLERANCE,
    apply_mlp,
    available_paths,
    errors,
    exact,
    mlp_case,
    nan_filled,
    reference_mlp,
    relative,
    run_mlp,
)

from mednextv2 import ops
from mednextv2.ops import _folded_mlp_torch, memory_layout
from mednextv2.ops.folded_mlp import folded_mlp_backward_op, folded_mlp_op, moments
from mednextv2.ops.parameters import Mlp

MODULE = importlib.import_module("mednextv2.ops.folded_mlp")  # mednextv2.ops.folded_mlp is the function

CASES = 40


def compare(values, settings, path):
    """Errors of a path against the definition in float64 on the same (rounded) numbers."""
    copies = exact(values)
    with ops.use(path):  # the backward pass, too
        return errors(run_mlp(values, settings, path), reference_mlp(copies, settings), values, copies)


@pytest.mark.parametrize("path", available_paths())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(CASES))
def test_output_and_all_gradients_equal_the_definition(path, dtype, seed):
    values, settings = mlp_case(seed, dtype)
    with nan_filled():
        found = compare(values, settings, path)
    # where float32 itself cannot do better (differences of nearly equal numbers), the definition is the measure
    plain, copies = mlp_case(seed, dtype)[0], exact(values)
    own = errors(reference_mlp(plain, settings), reference_mlp(copies, settings), plain, copies)
    limit = TOLERANCE[dtype]
    assert {k: v for k, v in found.items() if v > max(limit, 3 * own[k])} == {}


@pytest.mark.parametrize("path", available_paths())
def test_most_cases_are_within_the_tolerance_without_looking_at_the_definition(path):
    for dtype in (torch.float32, torch.bfloat16):
        found = [compare(*mlp_case(seed, dtype, space=(5, 6, 7), gamma=1.0), path) for seed in range(12)]
        within = [max(e.values()) <= TOLERANCE[dtype] for e in found]
        assert sum(within) >= 10, (dtype, found)


@pytest.mark.parametrize("seed", range(8))
def test_the_float64_path_is_exact(seed):
    values, settings = mlp_case(seed, torch.float64)
    assert max(compare(values, settings, "auto").values()) < 1e-9


@pytest.mark.parametrize(("grn", "denominator"), [(True, "mean"), (True, "sum"), (False, "mean")])
@pytest.mark.parametrize("space", [(2, 1, 3), (3, 2)])
def test_gradcheck(grn, denominator, space):
    values, settings = mlp_case(
        1, torch.float64, batch=2, channels=3, ratio=2, out=1, space=space, grn=grn, denominator=denominator,
        residual=True, zero_channel=False, mean=0, gamma=1.0,
    )  # fmt: skip
    present = {k: v for k, v in values.items() if v is not None}

    def function(*arguments):
        return apply_mlp({**values, **dict(zip(present, arguments, strict=True))}, settings)

    assert torch.autograd.gradcheck(function, list(present.values()))


@pytest.mark.parametrize("path", available_paths())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_mean_costs_no_accuracy(path, dtype):
    mean = 1000 if dtype == torch.float32 else 20
    values, settings = mlp_case(3, dtype, batch=2, channels=24, ratio=2, space=(9, 8, 7), mean=mean, zero_channel=False)
    found = compare(values, settings, path)
    assert found["out"] < (2e-4 if dtype == torch.float32 else 2e-2)  # float32 has 2^-23 * 1000 of the deviation left


@pytest.mark.parametrize("path", available_paths())
def test_one_voxel_gets_a_gradient_of_zero(path):
    for dtype in (torch.float32, torch.bfloat16):
        values, settings = mlp_case(4, dtype, batch=2, channels=40, space=(1, 1, 1))
        with ops.use(path):
            run_mlp(values, settings).sum().backward()
        assert (values["y"].grad == 0).all()


@pytest.mark.parametrize("path", available_paths())
def test_channels_that_are_zero_give_numbers(path):
    values, settings = mlp_case(5, torch.float32, channels=8, grn=True, space=(4, 4, 4))
    with torch.no_grad():
        values["y"].zero_()
        values["norm_bias"].zero_()
        values["b1"].zero_()  # then h and its norms are zero
    with ops.use(path):
        out = run_mlp(values, settings)
        out.sum().backward()
    for v in [out, *[v.grad for v in values.values() if v is not None]]:
        assert v.isfinite().all()


def test_given_statistics_are_used_and_equal_to_its_own():
    values, settings = mlp_case(6, torch.float32, channels=16, space=(5, 6, 7))
    y = values["y"]
    statistics = moments(memory_layout.channels_last(y.detach()))
    with torch.no_grad():
        own = apply_mlp(values, settings)
        torch.testing.assert_close(apply_mlp(values, settings, statistics=statistics), own)
        other = statistics._replace(mean=statistics.mean + 1)
        assert relative(apply_mlp(values, settings, statistics=other), own) > 0.01


def test_both_layouts_of_the_input_give_the_same():
    values, settings = mlp_case(7, torch.float32, channels=16, space=(5, 6, 7), residual=True)
    contiguous = run_mlp(values, settings)
    values["y"] = memory_layout.channels_last(values["y"].detach())
    last = run_mlp(values, settings)
    assert torch.equal(contiguous, last)
    assert last.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("path", available_paths())
def test_rows_in_many_chunks_give_what_one_chunk_gives(path, monkeypatch):
    values, settings = mlp_case(8, torch.float32, batch=2, channels=16, ratio=4, space=(16, 18, 20), gamma=1.0)
    one = compare(values, settings, path)
    monkeypatch.setattr(_folded_mlp_torch, "CPU_CHUNK", 64 * 64)
    for v in values.values():
        if v is not None:
            v.grad = None
    many = compare(values, settings, path)
    assert max(one.values()) < 1e-5
    assert max(many.values()) < 1e-5


def test_autocast_computes_in_its_dtype_and_keeps_float32_gradients_of_weights():
    values, settings = mlp_case(9, torch.float32, channels=16, space=(5, 6, 7), residual=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = apply_mlp(values, settings)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert {v.grad.dtype for v in values.values() if v is not None} == {torch.float32}


@pytest.mark.parametrize("path", ["auto", "reference"])
def test_a_wrong_denominator_is_refused(path):
    values, _ = mlp_case(10, torch.float32)
    with pytest.raises(ValueError, match=r"grn_sum, .* is True or False, not 'mean'"):
        run_mlp(values, ops.Settings(grn_sum="mean"), path)


# ------------------------------------------------------------------------- operators as torch sees them


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("grn", [True, False])
def test_opcheck(dtype, grn):
    values, _ = mlp_case(11, dtype, batch=2, channels=8, space=(4, 3, 5), grn=grn, residual=grn, mean=0)
    y, *parameters, residual = values.values()
    y = memory_layout.channels_last(y.detach()).requires_grad_()
    residual = None if residual is None else memory_layout.channels_last(residual.detach()).requires_grad_()
    inputs = (y, *moments(y), *parameters, residual, *ops.Settings())
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float64: 1e-9}[dtype]
    torch.library.opcheck(folded_mlp_op, inputs, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        out, g = folded_mlp_op(*inputs)
        plain = [t.detach() if isinstance(t, torch.Tensor) else t for t in inputs[:11]]
        torch.library.opcheck(folded_mlp_backward_op, (out, *plain, g, *ops.Settings()), rtol=tolerance, atol=tolerance)


# ----------------------------------------------------------- each gradient term is looked at by the comparison

TERMS = {
    "w2: scale of GRN": ("g2 * s + torch.outer", "g2 + torch.outer"),
    "w2: shift of GRN": ("+ torch.outer(d_sum, beta.to(stat))", ""),
    "b2": ("db2 += d_sum", "db2 += 0.99 * d_sum"),
    "beta": ("dbeta += w2s.t() @ d_sum", "dbeta += (w2s * s).t() @ d_sum"),
    "gamma": ("dgamma += own", "dgamma += own * s[0]"),
    "h: through its norm": ("dh.addcmul_(F.gelu(u).to(stat), k)", "pass"),
    "h: scale of GRN": ("(w2s if s is None else w2s * s).to(y.dtype)", "w2s.to(y.dtype)"),
    "u: slope of GELU": ("torch.ops.aten.gelu_backward(dh, u.to(stat))", "dh"),
    "w1": ("dw1 += du.t() @ z", "dw1 += du.t() @ c"),
    "b1": ("db1 += du.sum", "db1 -= du.sum"),
    "norm_weight": ("dnw += product", "dnw += product * a"),
    "norm_bias": ("dnb += total", "dnb += total * a"),
    "y: scale of the norm": ("dy[n].to(stat) * a +", "dy[n].to(stat) * r +"),
    "y: through its mean": ("-a * total / voxels", "0 * total"),
    "y: through its variance": ("-a * r * product / voxels", "0 * product"),
}


@pytest.mark.parametrize("term", TERMS)
def test_a_planted_error_in_a_gradient_term_is_found(term, monkeypatch):
    right, wrong = TERMS[term]
    source = inspect.getsource(_folded_mlp_torch.backward)
    assert source.count(right) == 1
    space = {}
    exec(source.replace(right, wrong), vars(_folded_mlp_torch), space)
    case = {"batch": 2, "channels": 8, "ratio": 2, "out": 1, "space": (4, 3, 5), "grn": True, "gamma": 1.0, "mean": 0}
    case |= {"zero_channel": False, "residual": True}
    assert max(compare(*mlp_case(12, torch.float32, **case), "torch").values()) <= 1e-5
    monkeypatch.setattr(_folded_mlp_torch, "backward", space["backward"])
    assert max(compare(*mlp_case(12, torch.float32, **case), "torch").values()) > 1e-3


@pytest.mark.parametrize("path", available_paths())
@pytest.mark.parametrize("index", range(9))
def test_an_error_of_a_thousandth_in_any_gradient_is_found(path, index, monkeypatch):
    implementation = MODULE.choose

    class Wrong:
        def __init__(self, *arguments):
            self.forward = implementation(*arguments).forward
            self.right = implementation(*arguments).backward

        def backward(self, *arguments):
            dy, gradients = self.right(*arguments)
            wrong = [g * 1.001 if i == index else g for i, g in enumerate((dy, *gradients))]
            return wrong[0], Mlp(*wrong[1:])

    case = {"batch": 2, "channels": 8, "space": (4, 3, 5), "grn": True, "gamma": 1.0, "mean": 0, "zero_channel": False}
    monkeypatch.setattr(MODULE, "choose", Wrong)
    found = compare(*mlp_case(13, torch.float32, **case), path)
    wrong = [name for name, error in found.items() if error > 5e-4]
    assert wrong == [MLP_ARGUMENTS[index]]
