"""Operators that the network's blocks call, and the contract that they keep.

An operator is one file with its name. It contains the plain definition in PyTorch (`…_reference`, unless that is the
operator itself), the function that users call, and torch's custom operators, if it needs any. `channel_norm`, `grn`,
`pointwise` and `upsample_merge` consist of only such a file; `gather_rows` and `scatter_rows`, each of which is the
gradient of the other, share `_row_runs.py`.

`depthwise`, `folded_mlp` and `block` have several implementations, each in a module beside the operator:
`_NAME_native.py` in C++, `_NAME_triton.py` on CUDA, `_NAME_torch.py` in PyTorch calls. Only CUDA has kernels for a
block as a whole; elsewhere, `_block_in_two_steps.py` calls the other two operators one after the other. Each of these
modules has two functions, `forward` and `backward`, whose parameters are the same in all modules of an operator. The
operator's `choose` asks `implementation_choice.py` which implementation to use, and returns its module.

Weights, settings, statistics and tensors that are kept for a backward pass are the named tuples of `parameters.py` in
every signature, and are read by name. A custom operator takes their fields under the same names and in the same order;
its name and schema must not change.

A new operator must have its definition, a check of its arguments in `shape_checks.py`, and, if it is a custom operator,
a fake implementation, a backward operator, and a reason for second derivatives (`missing_derivatives.py`). A new
implementation must have the two functions and a name in `implementations.py`, which says on which kind of device it is
used; code reads the fields of a choice, and its reason is for people. A test compares each implementation with the
definition, including gradients.
"""

from mednextv2.ops.block import block, block_reference
from mednextv2.ops.channel_norm import channel_norm
from mednextv2.ops.depthwise import depthwise, depthwise_reference
from mednextv2.ops.folded_mlp import folded_mlp, folded_mlp_reference
from mednextv2.ops.gather_rows import gather_rows, gather_rows_reference
from mednextv2.ops.grn import grn
from mednextv2.ops.held_weights import hold_weights
from mednextv2.ops.implementations import half_is_fast, plain, use
from mednextv2.ops.parameters import Convolution, Mlp, Settings, Statistics
from mednextv2.ops.pointwise import pointwise, pointwise_reference
from mednextv2.ops.scatter_rows import scatter_rows, scatter_rows_reference
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
    "gather_rows",
    "gather_rows_reference",
    "grn",
    "half_is_fast",
    "hold_weights",
    "plain",
    "pointwise",
    "pointwise_reference",
    "scatter_rows",
    "scatter_rows_reference",
    "upsample_merge",
    "upsample_merge_reference",
    "use",
]
