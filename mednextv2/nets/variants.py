"""The sizes of MedNeXt by name."""

from dataclasses import dataclass
from typing import Any

from mednextv2.errors import InputError
from mednextv2.nets.mednext import MedNeXt

_S_DEPTH = (2,) * 9
_B_RATIO = (2, 3, 4, 4, 4, 4, 4, 3, 2)
_L_DEPTH = (3, 4, 8, 8, 8, 8, 8, 4, 3)


@dataclass(frozen=True)
class Variant:
    """One size of the network: nine stages, from the first encoder stage via the bottleneck to the last decoder one.

    Attributes:
        init_filters: Channels at full resolution.
        blocks: Blocks of each stage.
        ratios: Expansion ratio of each stage.
        global_resp_norm: Whether blocks have GRN (v2).
        activation_checkpointing: Whether the authors train this size with activation checkpointing.
    """

    init_filters: int
    blocks: tuple[int, ...]
    ratios: tuple[int, ...]
    global_resp_norm: bool
    activation_checkpointing: bool = False


#: v1: Roy et al. 2023, MedNeXt, table 1 (arXiv:2303.09975). v2_base and v2_wide: MedNeXt-v2 (arXiv:2512.17774), with
#: the depth and ratios of L with GRN, and 32 and 64 filters. v2_tiny and v2_small are our own, for CPUs, tests and
#: small GPUs: they have the depth and ratios of S with GRN, and 16 and 32 filters.
VARIANTS: dict[str, Variant] = {
    "v1_s": Variant(32, _S_DEPTH, (2,) * 9, False),
    "v1_b": Variant(32, _S_DEPTH, _B_RATIO, False),
    "v1_m": Variant(32, (3, 4, 4, 4, 4, 4, 4, 4, 3), _B_RATIO, False, True),
    "v1_l": Variant(32, _L_DEPTH, _L_DEPTH, False, True),
    "v2_tiny": Variant(16, _S_DEPTH, (2,) * 9, True),
    "v2_small": Variant(32, _S_DEPTH, (2,) * 9, True),
    "v2_base": Variant(32, _L_DEPTH, _L_DEPTH, True),
    "v2_wide": Variant(64, _L_DEPTH, _L_DEPTH, True),
}


def create_mednext(
    variant: str,
    spatial_dims: int = 3,
    in_channels: int = 1,
    out_channels: int = 2,
    kernel_size: int = 3,
    deep_supervision: bool = False,
    **kwargs: Any,
) -> MedNeXt:
    """Build the MedNeXt with a given name.

    Args:
        variant: A key of :data:`VARIANTS`, such as `"v1_b"` or `"v2_base"`.
        spatial_dims: 2 or 3.
        in_channels: Channels of the input image.
        out_channels: Channels of the output: classes, or regions.
        kernel_size: Size of the depthwise kernels along each axis; the papers use 3 and 5.
        deep_supervision: Whether logits at five scales are returned in training mode.
        **kwargs: Further arguments of :class:`MedNeXt`, such as `activation_checkpointing`, which override those of the
            variant.

    Returns:
        The network with random weights, in training mode.

    Raises:
        InputError: If the variant does not exist; it is also a ValueError.

    Example:
        >>> net = create_mednext("v1_s", out_channels=3)
        >>> sum(p.numel() for p in net.parameters())
        5550947
    """
    if not isinstance(variant, str) or variant not in VARIANTS:
        raise InputError(f"variant {variant!r}: there is no such size of MedNeXt; choose one of {', '.join(VARIANTS)}")
    v = VARIANTS[variant]
    settings: dict[str, Any] = {
        "init_filters": v.init_filters,
        "blocks_down": v.blocks[:4],
        "blocks_bottleneck": v.blocks[4],
        "blocks_up": v.blocks[5:],
        "encoder_expansion_ratio": v.ratios[:4],
        "bottleneck_expansion_ratio": v.ratios[4],
        "decoder_expansion_ratio": v.ratios[5:],
        "global_resp_norm": v.global_resp_norm,
        "activation_checkpointing": v.activation_checkpointing,
    }
    return MedNeXt(
        spatial_dims,
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        deep_supervision=deep_supervision,
        **{**settings, **kwargs},
    )
