"""The networks of nnU-Net and its relatives, configured for a patch as nnU-Net plans them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from mednextv2.errors import InputError

_SMALLEST = 4  # voxels: a side of the features is not halved below this
_ANISOTROPIC = 2  # an axis is pooled and filtered only where its voxels are less than this many times the smallest
_MOST_FEATURES = {2: 512, 3: 320}
_RESIDUAL_BLOCKS = (1, 3, 4, *[6] * 20)  # of each stage; no patch has more stages
_CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class Topology(NamedTuple):
    """The stages of a U-Net, from full resolution down.

    Attributes:
        strides: The stride of each stage along each axis; 1 for the first.
        kernels: The size of its kernels along each axis.
    """

    strides: list[list[int]]
    kernels: list[list[int]]


def plan_topology(patch_size: Sequence[int], spacing: Sequence[float] | None) -> Topology:
    """Plan the stages of a U-Net for a patch by nnU-Net's rule.

    In each stage, those axes are halved that have at least 8 voxels left, and whose voxels are less than twice as long
    as the shortest of them. Kernels are 3 along an axis as soon as its voxels are less than twice as long as the
    shortest of all axes, and 1 before. nnU-Net enlarges a patch until it can be halved that often; here, the patch is
    given, so an axis with an odd number of voxels is not halved again.

    Args:
        patch_size: The size in voxels.
        spacing: The spacing in mm; None if it is not known, for voxels of equal sides.

    Example:
        >>> len(plan_topology([128, 128, 128], [1.0, 1.0, 1.0]).strides)
        6
        >>> plan_topology([128, 128, 16], [1.0, 1.0, 5.0]).strides[:4]
        [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]]

    Source:
        Isensee et al. 2021, nnU-Net, Nature Methods, online methods, "network topology".
    """
    size, space = list(patch_size), [1.0] * len(patch_size) if spacing is None else list(spacing)
    axes = range(len(size))
    kernels_so_far = [1] * len(size)
    strides, kernels = [[1] * len(size)], []
    while True:
        halved = [a for a in axes if size[a] >= 2 * _SMALLEST and size[a] % 2 == 0]
        finest = min((space[a] for a in halved), default=0)
        halved = [a for a in halved if space[a] / finest < _ANISOTROPIC]
        if len(halved) == 1 and size[halved[0]] < 3 * _SMALLEST:
            halved = []
        grown = [length / min(space) < _ANISOTROPIC for length in space]
        kernels_so_far = [3 if grow else k for grow, k in zip(grown, kernels_so_far, strict=True)]
        if not halved:
            break
        kernels.append(list(kernels_so_far))
        strides.append([2 if a in halved else 1 for a in axes])
        size = [n // s for n, s in zip(size, strides[-1], strict=True)]
        space = [n * s for n, s in zip(space, strides[-1], strict=True)]
    kernels.append([3] * len(size))
    return Topology(strides, kernels)


def plain_conv_unet(
    patch_size: Sequence[int], spacing: Sequence[float] | None, in_channels: int, out_channels: int, filters: int = 32
) -> nn.Module:
    """Build nnU-Net's PlainConvUNet as nnU-Net configures it, with two convolutions in each stage.

    Args:
        patch_size: The size of a patch in voxels.
        spacing: The spacing in mm.
        in_channels: Channels of the input image.
        out_channels: Channels of the output.
        filters: Features at full resolution; each further stage has twice as many, up to 320 (3D) or 512 (2D).

    Raises:
        ImportError: If dynamic-network-architectures is not installed.

    Source:
        Isensee et al. 2021, nnU-Net, Nature Methods, online methods.
    """
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    shared = _shared(plan_topology(patch_size, spacing), in_channels, out_channels, filters)
    network = PlainConvUNet(n_conv_per_stage=2, n_conv_per_stage_decoder=2, **shared)
    return network.apply(network.initialize)


def residual_encoder_unet(
    patch_size: Sequence[int], spacing: Sequence[float] | None, in_channels: int, out_channels: int, filters: int = 32
) -> nn.Module:
    """Build nnU-Net's residual encoder U-Net; the presets M, L and XL differ only in patch and batch.

    The arguments are those of :func:`plain_conv_unet`.

    Raises:
        ImportError: If dynamic-network-architectures is not installed.

    Source:
        Isensee et al. 2024, nnU-Net revisited, arXiv:2404.09556.
    """
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    shared = _shared(plan_topology(patch_size, spacing), in_channels, out_channels, filters)
    stages = shared["n_stages"]
    network = ResidualEncoderUNet(
        n_blocks_per_stage=_RESIDUAL_BLOCKS[:stages], n_conv_per_stage_decoder=[1] * (stages - 1), **shared
    )
    return network.apply(network.initialize)


def primus(
    patch_size: Sequence[int],
    in_channels: int,
    out_channels: int,
    width: int = 864,
    depth: int = 16,
    heads: int = 12,
) -> nn.Module:
    """Build Primus, a transformer for 3D segmentation; the default is its size M.

    Args:
        patch_size: The size of a patch in voxels, multiples of 8; the network takes no other.
        in_channels: Channels of the input image.
        out_channels: Channels of the output.
        width: Length of a token's vector.
        depth: Number of transformer blocks.
        heads: Number of attention heads.

    Raises:
        ImportError: If dynamic-network-architectures is not installed.
        InputError: If the installed torchvision cannot be used.

    Source:
        Wald et al. 2025, Primus, arXiv:2503.01835; the rates of the drop path and of the layer scale are those of
        nnU-Net's trainer of Primus.
    """
    try:
        from dynamic_network_architectures.architectures.primus import Primus
    except RuntimeError as e:  # timm, which it uses, imports torchvision, which registers its operators in PyTorch
        raise InputError(
            f"network primus: the installed torchvision does not fit PyTorch {torch.__version__} ({e}); install the "
            "torchvision of the same release and from the same place as PyTorch"
        ) from e
    return Primus(
        input_channels=in_channels,
        embed_dim=width,
        patch_embed_size=(8, 8, 8),
        num_classes=out_channels,
        eva_depth=depth,
        eva_numheads=heads,
        input_shape=tuple(patch_size),
        drop_path_rate=0.2,
        scale_attn_inner=True,
        init_values=0.1,
    )


def dynunet(
    patch_size: Sequence[int], spacing: Sequence[float] | None, in_channels: int, out_channels: int, filters: int = 32
) -> nn.Module:
    """Build MONAI's DynUNet as nnU-Net would configure it, with a head at every resolution but the lowest.

    The arguments are those of :func:`plain_conv_unet`. DynUNet enlarges the outputs of its smaller heads to full
    resolution.

    Source:
        Isensee et al. 2021, nnU-Net, Nature Methods, online methods.
    """
    from monai.networks.nets import DynUNet

    plan = plan_topology(patch_size, spacing)
    shared = _shared(plan, in_channels, out_channels, filters)
    heads = shared["n_stages"] - 2  # besides the one at full resolution
    return DynUNet(
        spatial_dims=len(patch_size),
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=plan.kernels,
        strides=plan.strides,
        upsample_kernel_size=plan.strides[1:],
        filters=shared["features_per_stage"],
        deep_supervision=heads > 0,
        deep_supr_num=max(1, heads),
        trans_bias=True,
    )


def _shared(plan: Topology, in_channels: int, out_channels: int, filters: int) -> dict[str, Any]:
    dims, stages = len(plan.strides[0]), len(plan.strides)
    return {
        "input_channels": in_channels,
        "n_stages": stages,
        "features_per_stage": [min(filters * 2**i, _MOST_FEATURES[dims]) for i in range(stages)],
        "conv_op": _CONVOLUTIONS[dims],
        "kernel_sizes": plan.kernels,
        "strides": plan.strides,
        "num_classes": out_channels,
        "conv_bias": True,
        "norm_op": _NORMS[dims],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }
