"""Operators that the network's blocks call, and the contract that they keep.

An operator is one file with its name. It holds the plain definition in PyTorch (`…_reference`, where it is not the
operator itself), the function that users call, and torch's custom operators, if it needs any. `channel_norm`, `grn`,
`pointwise` and `upsample_merge` are such a file and nothing else.

`depthwise`, `folded_mlp` and `block` have several implementations, each a module beside the operator's:
`_NAME_native.py` in C++, `_NAME_triton.py` on CUDA, `_NAME_torch.py` in PyTorch calls. For a block as a whole there are
kernels on CUDA alone; elsewhere `_block_halves.py` takes the other two operators one after the other. Each of these
modules offers two functions, `forward` and `backward`, whose parameters are the same in all modules of an operator.
The operator's `choose` asks `choosing.py` which implementation to take, and returns its module.

Weights, settings, statistics and what is kept for a backward pass are the named tuples of `parameters.py` in every
signature, and are read by name. A custom operator takes their fields under the same names and in the same order; its
name and schema stay as they are.

A new operator must offer its definition, a check of its arguments in `shapes.py`, and, if it is a custom operator, a
fake implementation, a backward operator, and a reason for second derivatives (`derivatives.py`). A new implementation
must offer the two functions and have a name in `implementations.py`, which says what kind of device takes it; code
reads the fields of a choice, its reason is for people. A test compares each implementation with the definition,
gradients included.
"""

from mednextv2.ops.block import block, block_reference
from mednextv2.ops.channel_norm import channel_norm
from mednextv2.ops.depthwise import depthwise, depthwise_reference
from mednextv2.ops.folded_mlp import folded_mlp, folded_mlp_reference
from mednextv2.ops.grn import grn
from mednextv2.ops.held_weights import hold_weights
from mednextv2.ops.implementations import half_is_fast, plain, use
from mednextv2.ops.parameters import Convolution, Mlp, Settings, Statistics
from mednextv2.ops.pointwise import pointwise, pointwise_reference
from mednextv2.ops.upsample_merge import upsample_merge, upsample_merge_reference

__all__ = [
    "Convolution",
    "Mlp",
    "Settings",
    "Statistics",
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
