"""Densification: normalised rows, tokens, and a convolution."""

import pytest
import torch
import torch.nn.functional as F
from masked_helpers import cells, gathered, levels_of, scattered, seen_positions, standardised

from mednextv2.nets import densification
from mednextv2.nets.densification import Densification


def case(dims, convolution, dtype=torch.float64):
    """A densification, rows of two samples with other counts, their level, and masks of visible positions."""
    torch.manual_seed(2)
    space = (12, 8, 4)[:dims]
    visible = cells(*(3, 4, 2)[:dims])
    level = levels_of(visible, space, [[2, 1, 1][:dims]])[0]
    masks = seen_positions(visible, space, [2, 1, 1][:dims])
    rows = torch.randn(int(masks.sum()), 5, dtype=dtype) * 3 + 1
    return Densification(dims, 5, convolution).to(dtype), rows, level, masks


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("convolution", [True, False])
def test_it_is_norm_and_token_and_convolution(dims, convolution):
    module, rows, level, masks = case(dims, convolution)
    samples, start = [], 0
    for mask in masks:
        stop = start + int(mask.sum())
        x = scattered(standardised(rows[start:stop]), mask)
        samples.append(torch.where(mask, x, module.token))
        start = stop
    expected = torch.cat(samples)
    if convolution:
        convolve = {2: F.conv2d, 3: F.conv3d}[dims]
        expected = convolve(expected, module.projection.weight, module.projection.bias, padding=1)
    found = module(rows, level)
    torch.testing.assert_close(found, expected)
    if not convolution:
        for n, mask in enumerate(masks):
            assert gathered(found[n : n + 1], ~mask).unique(dim=0).tolist() == [module.token.flatten().tolist()]


def test_its_parameters_are_a_token_and_a_convolution_with_bias():
    shapes = {k: tuple(p.shape) for k, p in Densification(3, 7, True).named_parameters()}
    assert shapes == {"token": (1, 7, 1, 1, 1), "projection.weight": (7, 7, 3, 3, 3), "projection.bias": (7,)}
    assert [tuple(p.shape) for p in Densification(2, 7, False).parameters()] == [(1, 7, 1, 1)]


def test_tokens_begin_as_a_cut_normal_distribution():
    token = Densification(2, 20000, False).token.detach().double()
    assert token.abs().max() <= 0.02
    # of a normal distribution that is cut at one deviation: 0.5396 of it
    assert token.std().item() == pytest.approx(0.5396 * 0.02, rel=0.02)
    assert abs(token.mean().item()) < 5 * 0.0108 / 20000**0.5


def test_in_half_precision_statistics_are_in_single():
    module, rows, level, _ = case(3, False, torch.float32)
    rows = (rows + 30).bfloat16()
    found, expected = module(rows, level), module.double()(rows.double(), level)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-3)


def test_a_batch_without_visible_positions_is_tokens():
    module, rows, level, _ = case(3, False)
    empty = level._replace(runs=level.runs[:0], counts=(0, 0))
    assert torch.equal(module(rows[:0], empty), module.token.expand(2, 5, 6, 8, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fast", [True, False])
def test_without_instructions_for_half_precision_the_convolution_is_in_single(dtype, fast, monkeypatch):
    module, rows, level, _ = case(3, True, torch.float32)
    monkeypatch.setattr(densification, "half_is_fast", lambda device: fast)
    seen = []
    module.projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype):
        found = module(rows.to(dtype), level)
    assert seen == [dtype if fast and dtype == torch.bfloat16 else torch.float32]
    assert found.dtype == dtype
    expected = module(rows.to(dtype).float(), level)
    assert (found - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.skipif(not densification._half_is_fast(torch.bfloat16), reason="only here is bfloat16 used on a CPU")
def test_no_gradient_is_made_of_memory_that_was_never_written():
    """In half precision, PyTorch's gradient of a convolution of two positions is; freed memory here is full of NaN."""
    torch.manual_seed(0)
    module = Densification(3, 64, True)
    level = levels_of(torch.ones(2, 2, 2, 2, dtype=torch.bool), (2, 2, 2), [[1, 1, 1]])[0]
    rows = torch.randn(16, 64).bfloat16().requires_grad_()
    for _ in range(3):
        module.zero_grad(set_to_none=True)
        spoil_freed_memory()
        with torch.autocast("cpu", torch.bfloat16):
            result = module(rows, level)
        spoil_freed_memory()
        result.float().square().sum().backward()
        assert module.projection.weight.grad.isfinite().all()


def spoil_freed_memory():
    full = [torch.full((1 << n,), float("nan")) for n in range(6, 21) for _ in range(30)]
    del full
