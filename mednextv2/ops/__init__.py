"""Operators that the network's blocks call: one file an operator, the plain PyTorch definition first."""

from mednextv2.ops.block import block, block_reference
from mednextv2.ops.channel_norm import channel_norm
from mednextv2.ops.depthwise import depthwise, depthwise_reference
from mednextv2.ops.folded_mlp import folded_mlp, folded_mlp_reference
from mednextv2.ops.grn import grn
from mednextv2.ops.held_weights import hold_weights
from mednextv2.ops.implementations import half_is_fast, plain, use
from mednextv2.ops.parameters import Convolution, Mlp, Settings
from mednextv2.ops.pointwise import pointwise, pointwise_reference
from mednextv2.ops.upsample_merge import upsample_merge, upsample_merge_reference

__all__ = [
    "Convolution",
    "Mlp",
    "Settings",
    "block",
    "block_reference",
    "channel_norm",
    "depthwise",
    "depthwise_reference",
    "folded_mlp",
    "folded_mlp_reference",
    "grn",
    "half_is_fast",
    "hold_weights",
    "plain",
    "pointwise",
    "pointwise_reference",
    "upsample_merge",
    "upsample_merge_reference",
    "use",
]
