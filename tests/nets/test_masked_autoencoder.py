"""The masked autoencoder: what it may see, what it returns, and whose weights it has."""

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from masked_helpers import cells, hidden_voxels, levels_of, plain_mednext, scattered, seen_positions, standardised
from monai.data import MetaTensor
from net_helpers import V1, TwoHeads, image, lively, tiny
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets import AdaptedNetwork, MaskedAutoencoder, nnunet, sparse_mednext
from mednextv2.nets.masked_autoencoder import FORMS
from mednextv2.ops import implementation_choice, implementations, trial
from mednextv2.training import BlockMasks, ReconstructionLoss

SPARSE = FORMS[1:]


def mednext(**changes):
    return lively(tiny(out_channels=1, **changes))


def resenc(dims=3):
    return lively(nnunet.residual_encoder_unet([32] * dims, [1.0] * dims, 1, 1, 4))


def adapted(dims=3):
    return AdaptedNetwork("resenc_l", resenc(dims), [32] * dims)


BUILD = {"MedNeXt": mednext, "ResEnc-L": adapted}


# ------------------------------------------------------------------------------------------------ what is computed


def test_the_dense_form_is_the_network_on_an_image_with_zeros():
    network = mednext()
    x, visible = image(3, batch=2), cells(2, 2, 2)
    masked = x * ~hidden_voxels(visible, x.shape[2:])
    torch.testing.assert_close(MaskedAutoencoder(network)(x, visible), network(masked), rtol=0, atol=0)


@pytest.mark.parametrize("form", SPARSE)
@pytest.mark.parametrize("dims", [2, 3])
def test_the_decoder_gets_what_a_plain_definition_gives(form, dims):
    network = MaskedAutoencoder(mednext(spatial_dims=dims), form).double()
    x, visible = image(dims, batch=2).double(), cells(*[2] * dims)
    features = []
    for level, samples in enumerate(plain_mednext(network.network, x, visible)):
        masks = seen_positions(visible, x.shape[2:], [2**level] * dims)
        if form == "sparse":
            features.append(torch.cat([scattered(rows, mask) for rows, mask in zip(samples, masks, strict=True)]))
            continue
        part, maps = network.densification[level], []
        for rows, mask in zip(samples, masks, strict=True):
            maps.append(torch.where(mask, scattered(standardised(rows), mask), part.token))
        features.append(torch.cat(maps))
        if form == "s3d" and level > 0:
            convolve = {2: F.conv2d, 3: F.conv3d}[dims]
            features[-1] = convolve(features[-1], part.projection.weight, part.projection.bias, padding=1)
    *skips, deepest = features
    torch.testing.assert_close(network(x, visible), network.network.decode(skips, deepest), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", BUILD)
def test_hidden_voxels_have_no_influence_and_no_gradient(form, kind):
    network = MaskedAutoencoder(BUILD[kind](), form)
    x, visible = image(3, batch=2), cells(2, 2, 2)
    hidden = hidden_voxels(visible, x.shape[2:])
    expected = network(x, visible)
    for value in (torch.randn_like(x), float("nan")):
        assert torch.equal(network(torch.where(hidden, value, x), visible), expected)
    x.requires_grad_()
    network(x, visible).square().mean().backward()
    assert (x.grad[hidden] == 0).all()
    assert (x.grad[~hidden] != 0).any()


@pytest.mark.parametrize("kind", BUILD)
def test_with_everything_visible_the_sparse_form_is_the_network(kind):
    """Up to rounding: sums of statistics have another order."""
    network = BUILD[kind]().double().eval()
    x = image(3, batch=2).double()
    found = MaskedAutoencoder(network, "sparse")(x, torch.ones(2, 2, 2, 2, dtype=torch.bool))
    torch.testing.assert_close(found, network(x), rtol=1e-8, atol=1e-10)


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", BUILD)
def test_the_weights_are_those_of_the_ordinary_network(form, kind):
    network = MaskedAutoencoder(BUILD[kind](), form)
    other = BUILD[kind]()
    other.load_state_dict(network.network.state_dict())  # strict
    inside = {k for k in network.state_dict() if k.startswith("network.")}
    rest = set(network.state_dict()) - inside
    assert {k.removeprefix("network.") for k in inside} == set(other.state_dict())
    levels = {"MedNeXt": 5, "ResEnc-L": 4}[kind]
    tokens = {f"densification.{level}.token" for level in range(levels)}
    convolutions = {f"densification.{level}.projection.{k}" for level in range(1, levels) for k in ("weight", "bias")}
    assert rest == {"dense": set(), "sparse": set(), "tokens": tokens, "s3d": tokens | convolutions}[form]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [*BUILD, "2D", "v1", "deep supervision", "one head of nnU-Net"])
def test_every_parameter_that_is_trained_has_a_gradient(form, kind):
    network = {
        **BUILD,
        "2D": lambda: mednext(spatial_dims=2),
        "v1": lambda: mednext(**V1),
        "deep supervision": lambda: mednext(deep_supervision=True),
        "one head of nnU-Net": one_head,
    }[kind]()
    network = MaskedAutoencoder(network, form)
    dims = 2 if kind == "2D" else 3
    y = network(image(dims, batch=2), cells(*[2] * dims))
    assert y.shape == (2, 1, *[32] * dims)
    y.square().mean().backward()
    assert [k for k, p in network.named_parameters() if p.requires_grad and p.grad is None] == []
    if kind == "one head of nnU-Net":
        frozen = {k.split("decoder.")[1] for k, p in network.named_parameters() if not p.requires_grad}
        assert frozen == {f"seg_layers.{i}.{k}" for i in range(2) for k in ("weight", "bias")}
    else:
        assert all(p.requires_grad for p in network.parameters())


def one_head():
    network = resenc()
    network.decoder.deep_supervision = False
    return network


def test_of_several_heads_the_first_counts_and_all_have_a_gradient():
    network = TwoHeads()
    masked = MaskedAutoencoder(network)
    x, visible = torch.randn(1, 1, 6, 6, 6), torch.ones(1, 1, 1, 1, dtype=torch.bool)
    y = masked(x, visible)
    assert torch.equal(y, network(x)[0])
    y.square().sum().backward()
    assert network.head.weight.grad.abs().sum() > 0
    assert network.small.weight.grad.abs().sum() == 0
    assert all(p.grad is not None for p in masked.parameters())
    assert torch.equal(masked.eval()(x, visible), y)


# ------------------------------------------------------------------------------------------------ how it is computed


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", BUILD)
def test_under_autocast_the_reconstruction_is_in_full_precision(form, kind):
    network = MaskedAutoencoder(BUILD[kind](), form)
    x, visible = image(3), cells(2, 2, 2, samples=1)
    expected = network(x, visible)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(MetaTensor(x), visible)
    assert type(y) is torch.Tensor
    assert y.dtype == torch.float32
    assert (y - expected).norm() < 6e-2 * expected.norm()
    assert network.double()(x.double(), visible).dtype == torch.float64


@pytest.mark.parametrize("form", FORMS)
def test_a_network_that_uses_bfloat16_by_itself_does_so(form):
    network = MaskedAutoencoder(mednext(cpu_bfloat16=True), form)
    x, visible = image(3), cells(2, 2, 2, samples=1)
    y = network(x, visible)
    network.network.cpu_bfloat16 = False
    assert not torch.equal(network(x, visible), y)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network(x, visible), y)


@pytest.mark.parametrize("form", SPARSE)
def test_activation_checkpointing_has_the_same_gradients(form):
    network = MaskedAutoencoder(mednext(), form)
    again = MaskedAutoencoder(mednext(activation_checkpointing=True), form)
    again.load_state_dict(network.state_dict())
    x, visible = image(3, batch=2), cells(2, 2, 2)
    for each in (network, again):
        each(x, visible).square().mean().backward()
    for a, b in zip(network.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", BUILD)
def test_it_compiles(form, kind):
    network = MaskedAutoencoder(BUILD[kind](), form)
    x, visible = image(3, batch=2), cells(2, 2, 2)
    expected = step(network, x, visible)
    torch.testing.assert_close(step(torch.compile(network, backend="aot_eager"), x, visible), expected)


def step(network, x, visible):
    network.zero_grad()
    ReconstructionLoss()(network(x, visible), x, visible).backward()
    return {k.removeprefix("_orig_mod."): p.grad.clone() for k, p in network.named_parameters()}


def test_kernels_that_a_sparse_encoder_needs_are_tried_together(monkeypatch):
    asked, needed = [], []
    monkeypatch.setattr(implementations, "_wanted", "auto")
    # the CPU in the GPU's place
    monkeypatch.setattr(implementations, "by_verdict", lambda device: implementations._wanted == "auto")
    monkeypatch.setattr(trial, "ensure", lambda problems, device: asked.append(list(problems)) or True)

    def choose(problem, device):
        needed.append(problem)
        return implementations.choose("cpu", problem.dtype)

    monkeypatch.setattr(implementation_choice, "choose_for", choose)
    network = MaskedAutoencoder(mednext(), "s3d")
    x, visible = image(3), cells(2, 2, 2, samples=1)
    with torch.autocast("cpu", torch.bfloat16):
        network(x, visible)
        network(x, visible)
        assert asked == [network.network.problems(torch.bfloat16, rows=True)]
        needed.clear()
        levels = levels_of(visible, x.shape[2:], [[2**i] * 3 for i in range(5)])
        rows = sparse_mednext.encode(network.network, x, levels)
    sum(each.float().sum() for each in rows).backward()
    assert len(set(needed)) == 3 * 9  # of each kind of block the convolution, and the inside forward and backward
    assert set(needed) <= set(asked[0])
    assert set(network.network.problems(torch.bfloat16)) - set(asked[0])  # the joined kernels of the encoder


def test_an_ordinary_training_goes_on_from_its_weights():
    network = MaskedAutoencoder(mednext(), "s3d")
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    x, masks, losses = image(3, batch=2).cumsum(2) / 4, BlockMasks([32] * 3, 8, 0.6), []
    for i in range(8):
        visible = masks.training(i, range(2))
        optimizer.zero_grad()
        losses.append(ReconstructionLoss()(network(x, visible), x, visible))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    fresh = copy.deepcopy(network.network).eval()
    assert torch.jit.script(fresh)(x).shape == x.shape


# ------------------------------------------------------------------------------------------------ what is refused


def test_an_unknown_form_is_refused():
    with pytest.raises(InputError, match="form 'thin': there is no such masked autoencoder; choose one of dense"):
        MaskedAutoencoder(tiny(), "thin")


@pytest.mark.parametrize("form", SPARSE)
def test_a_network_without_sparse_forms_is_refused(form, monkeypatch):
    with pytest.raises(InputError, match=f"form '{form}': exists for MedNeXt and for ResEnc .* not for TwoHeads; ch"):
        MaskedAutoencoder(TwoHeads(), form)
    other = AdaptedNetwork("dynunet", nn.Conv3d(1, 1, 1), [32] * 3)
    with pytest.raises(InputError, match="not for dynunet; choose the form dense, or another network"):
        MaskedAutoencoder(other, form)
    batch_norm = resenc()
    batch_norm.encoder.stem.convs[0].all_modules[1] = nn.BatchNorm3d(4)
    with pytest.raises(InputError, match="do not know the norm BatchNorm3d"):
        MaskedAutoencoder(batch_norm, form)


@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_does_not_fit_is_refused(form):
    network = MaskedAutoencoder(mednext(), form)
    with pytest.raises(ValueError, match="a grid of \\(3, 2, 2\\) cells, of which a patch \\(32, 32, 32\\)"):
        network(image(3), torch.ones(1, 3, 2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="must be a multiple of 16"):
        network(image(3, 24), torch.ones(1, 2, 2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="takes 1 channel, not 2"):
        network(image(3, channels=2), torch.ones(1, 2, 2, 2, dtype=torch.bool))
    fixed = AdaptedNetwork("resenc_l", resenc(), [32] * 3, multiples=8)
    with pytest.raises(InputError, match="should be multiples of 8"):
        MaskedAutoencoder(fixed, form)(image(3, 36), torch.ones(1, 2, 2, 2, dtype=torch.bool))


def test_the_example_of_the_page_runs():
    page = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["loss"].requires_grad
    assert names["visible"].shape == (2, 4, 4, 4)
