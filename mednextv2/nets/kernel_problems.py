"""The problems for which the kernels of a block are compiled: of the block as a whole, and of its two halves."""

import torch

from mednextv2.nets.blocks import GlobalResponseNorm, MedNeXtBlock
from mednextv2.ops import implementations
from mednextv2.ops.problem_sizes import Problem


def block_problem(block: MedNeXtBlock, dtype: torch.dtype) -> Problem:
    """Return the problem for which the kernels of a block are compiled, with features of this dtype."""
    convolution = block.depthwise
    return Problem(
        spatial_dims=convolution.weight.dim() - 2,
        channels=convolution.in_channels,
        expanded=block.expand.out_channels,
        out_channels=block.compress.out_channels,
        kernel_size=convolution.kernel_size[0],
        stride=convolution.stride[0],
        transposed=convolution.transposed,
        grn=isinstance(block.grn, GlobalResponseNorm),
        residual=block.residual and not convolution.transposed,  # an up block's parts are joined later
        dtype=dtype,
    )


def inside(problem: Problem) -> Problem:
    """Return the problem of a block's inside alone, for blocks whose convolution has no kernels."""
    return problem._replace(kernel_size=0, stride=1, transposed=False)


def convolution_alone(problem: Problem) -> Problem:
    """Return the problem of a block's convolution alone, as in float32, for which its inside has no kernels."""
    return problem._replace(expanded=0, out_channels=problem.channels, grn=False, residual=False)


def list_problems(block: MedNeXtBlock, dtype: torch.dtype) -> list[Problem]:
    """List the problems of a block, of which one kernel computes as much as possible, with features of this dtype."""
    whole = block_problem(block, dtype)
    if dtype == torch.float32:
        return [convolution_alone(whole)]
    if whole.kernel_size not in implementations.KERNEL_SIZES:
        return list_problems_apart(block, dtype)
    if block.drop_path_rate > 0.0 and block.residual:  # in training, the residual is added after the drop
        return [whole, whole._replace(residual=False)]
    return [whole]


def list_problems_apart(block: MedNeXtBlock, dtype: torch.dtype) -> list[Problem]:
    """List the problems of a block whose convolution and inside are operators of their own."""
    whole = block_problem(block, dtype)
    found = [convolution_alone(whole)] if whole.kernel_size in implementations.KERNEL_SIZES else []
    if dtype != torch.float32:
        alone = inside(whole)
        found += list(dict.fromkeys([alone, alone._replace(residual=False)]))  # the backward pass needs the second one
    return found
