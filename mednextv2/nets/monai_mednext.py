"""MONAI's own MedNeXt, in the sizes of this project's, for comparison."""

from monai.networks.nets import MedNeXt as MonaiMedNeXt
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets.variants import VARIANTS


def monai_mednext(
    variant: str,
    spatial_dims: int = 3,
    in_channels: int = 1,
    out_channels: int = 2,
    kernel_size: int = 3,
    deep_supervision: bool = True,
) -> nn.Module:
    """Build MONAI's MedNeXt with the depth, width and ratios of a variant.

    It is not the same network: in its down blocks there is no GRN, and in B, M and L they have another ratio.

    Args:
        variant: A key of :data:`mednextv2.nets.VARIANTS`.
        spatial_dims: 2 or 3.
        in_channels: Channels of the input image.
        out_channels: Channels of the output.
        kernel_size: Size of the depthwise kernels.
        deep_supervision: Whether it returns a list of five outputs in training, full resolution first.

    Raises:
        InputError: If the variant does not exist.
    """
    if variant not in VARIANTS:
        raise InputError(f"variant {variant!r}: there is no such size of MedNeXt; choose one of {', '.join(VARIANTS)}")
    v = VARIANTS[variant]
    return MonaiMedNeXt(
        spatial_dims=spatial_dims,
        init_filters=v.init_filters,
        in_channels=in_channels,
        out_channels=out_channels,
        encoder_expansion_ratio=v.ratios[:4],
        bottleneck_expansion_ratio=v.ratios[4],
        decoder_expansion_ratio=v.ratios[5:],
        kernel_size=kernel_size,
        deep_supervision=deep_supervision,
        use_residual_connection=True,
        blocks_down=v.blocks[:4],
        blocks_bottleneck=v.blocks[4],
        blocks_up=v.blocks[5:],
        global_resp_norm=v.global_resp_norm,
    )
