"""nnU-Net's networks: their stages against nnU-Net's rule, their sizes against published numbers."""

import builtins

import pytest
import torch
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets import nnunet
from mednextv2.nets.nnunet import plan_topology

ISOTROPIC = [1.0, 1.0, 1.0]


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def halvings(patch, spacing):
    """How often each axis is halved."""
    strides = plan_topology(patch, spacing).strides
    return [sum(stage[axis] == 2 for stage in strides) for axis in range(len(patch))]


@pytest.mark.parametrize(
    ("patch", "spacing", "pools", "kernels"),
    [
        # plans of nnU-Net (Isensee et al. 2021, supplementary note 6): BrainTumour, Heart, Hippocampus, Prostate
        ([128, 128, 128], [1, 1, 1], [5, 5, 5], [[3, 3, 3]] * 6),
        ([80, 192, 160], [1.37, 1.25, 1.25], [4, 5, 5], [[3, 3, 3]] * 6),
        ([40, 56, 40], [1, 1, 1], [3, 3, 3], [[3, 3, 3]] * 4),
        ([20, 320, 256], [3.6, 0.62, 0.62], [2, 6, 6], [[1, 3, 3], [1, 3, 3], [3, 3, 3]] + [[3, 3, 3]] * 4),
        # an axis that is left alone is halved only if it has 12 voxels or more
        ([8, 64], [1, 1], [1, 3], [[3, 3]] * 4),
    ],
)
def test_the_stages_are_those_of_nnunet(patch, spacing, pools, kernels):
    assert halvings(patch, spacing) == pools
    assert plan_topology(patch, spacing).kernels == kernels


@pytest.mark.parametrize("patch", [[48, 64, 48], [144, 112, 176], [16, 16, 16], [80, 80], [16, 512]])
def test_every_legal_patch_can_be_halved_as_planned(patch):
    plan = plan_topology(patch, [1.0] * len(patch))
    for axis, size in enumerate(patch):
        for stage in plan.strides:
            assert size % stage[axis] == 0
            size //= stage[axis]
        assert size >= 4
    assert len(plan.strides) == len(plan.kernels) > 1
    assert plan.strides[0] == [1] * len(patch)


def test_numbers_of_parameters_are_the_published_ones():
    with torch.device("meta"):
        plain = parameters(nnunet.plain_conv_unet([128] * 3, ISOTROPIC, 1, 14))
        dynunet = parameters(nnunet.dynunet([128] * 3, ISOTROPIC, 1, 14))
        resenc = parameters(nnunet.residual_encoder_unet([128] * 3, ISOTROPIC, 1, 14))
    assert plain == pytest.approx(31.2e6, rel=0.01)  # Lee et al. 2023, 3D UX-Net (arXiv:2209.15076), table 1
    assert dynunet == pytest.approx(plain, rel=0.001)
    assert resenc == pytest.approx(_resenc_by_hand(), rel=0.001)


def test_primus_has_the_size_of_its_paper(torchvision):
    """Wald et al. 2025 (arXiv:2503.01835): Primus-M has 16 blocks of width 864, SwiGLU of 8/3 times the width."""
    network = nnunet.primus([32, 32, 32], 1, 2)
    block = 4 * 864**2 + 3 * 864 * 2304
    assert parameters(network.eva.blocks) == pytest.approx(16 * block, rel=0.01)
    assert parameters(network) == pytest.approx(16 * block, rel=0.03)  # nearly all of it is in the blocks


def test_a_torchvision_of_another_pytorch_is_named(monkeypatch):
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "dynamic_network_architectures.architectures.primus":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(InputError, match=r"the installed torchvision does not fit PyTorch .*torchvision::nms"):
        nnunet.primus([16] * 3, 1, 2)


def _resenc_by_hand():
    """The weights of the convolutions of preset L (Isensee et al. 2024, arXiv:2404.09556); biases and norms are few."""
    widths, blocks = (32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)
    total, before = 27 * 32, 32  # the stem
    for width, number in zip(widths, blocks, strict=True):
        total += 27 * (before * width + (2 * number - 1) * width**2)
        total += before * width if before != width else 0  # the shortcut of the first block
        before = width
    for width in reversed(widths[:-1]):
        total += 8 * before * width + 27 * 2 * width**2  # transposed convolution, then one of both halves
        before = width
    return total


@pytest.mark.parametrize("build", [nnunet.plain_conv_unet, nnunet.residual_encoder_unet, nnunet.dynunet])
@pytest.mark.parametrize("patch", [[16, 32, 16], [32, 16]])
def test_networks_have_a_head_at_every_resolution_but_the_lowest(build, patch):
    network = build(patch, [1.0] * len(patch), 2, 3, filters=4)
    heads = network.train()(torch.zeros(1, 2, *patch))
    stages = len(plan_topology(patch, [1.0] * len(patch)).strides)
    shapes = [head.shape for head in (heads.unbind(1) if isinstance(heads, torch.Tensor) else heads)]
    assert len(shapes) == stages - 1 > 1
    assert shapes[0] == (1, 3, *patch)


def test_nnunets_networks_start_with_its_weights():
    """He's initialisation for leaky ReLU, biases of zero, and residual branches that begin with nothing."""
    network = nnunet.residual_encoder_unet([32] * 3, ISOTROPIC, 1, 2, filters=16)
    convolutions = [m for m in network.encoder.modules() if isinstance(m, nn.Conv3d)]
    assert all(m.bias is None or not m.bias.any() for m in convolutions)
    weight = max((m.weight for m in convolutions), key=torch.numel)
    assert weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / weight[0].numel()) ** 0.5, rel=0.05)
    norms = [m.weight for m in network.encoder.modules() if isinstance(m, nn.InstanceNorm3d)]
    assert any(not w.any() for w in norms)


@pytest.mark.parametrize(
    "build", [lambda: nnunet.plain_conv_unet([16] * 3, ISOTROPIC, 1, 2), lambda: nnunet.primus([16] * 3, 1, 2)]
)
def test_without_the_package_it_is_an_import_error(build, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("dynamic_network_architectures"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="dynamic_network_architectures"):
        build()
