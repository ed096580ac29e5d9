"""Operators that the network's blocks call: one file an operator, the plain PyTorch definition first."""

from mednextv2.ops.channel_norm import channel_norm
from mednextv2.ops.grn import grn

__all__ = ["channel_norm", "grn"]
