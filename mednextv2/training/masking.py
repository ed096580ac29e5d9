"""The masks of masked autoencoding: which cells of a patch the network sees."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mednextv2.errors import InputError
from mednextv2.wording import brief, count, times

_TRAINING, _RATIO, _VALIDATION = range(3)  # so that no two kinds of draws have the same random numbers


class BlockMasks:
    """Random masks of cells: `(N, *grid)`, True for a visible cell.

    A mask depends on the seed, the step and the index of the sample in the whole batch over all processes, and on
    nothing else. Two processes with half a batch each thus draw the masks that one process draws for the whole batch, a
    training that goes on draws those that it would have drawn, and no random numbers of others are used up.

    Args:
        patch_size: The size of a patch in voxels.
        block_size: The voxels of a cell along each axis, as one number or one an axis. Wald et al. write of 32; their
            code uses 16, which is the total stride of MedNeXt.
        ratio: The fraction of cells that are hidden: exactly `int(ratio * cells)` in every sample. With a range
            `[low, high]`, one ratio is drawn for each batch, of all processes together.
        seed: The seed.

    Raises:
        InputError: If the patch is not a multiple of the block, or a mask would hide all cells or none.

    Source:
        Wald et al. 2025 (arXiv:2410.23132): ratio 0.75, or from the range 0.6 to 0.9.

    Example:
        >>> masks = BlockMasks([32, 32, 32], 16, ratio=0.75)
        >>> masks.training(step=0, samples=range(2)).shape
        torch.Size([2, 2, 2, 2])
        >>> masks.training(step=0, samples=range(2)).flatten(1).sum(1)  # of 8 cells, 6 are hidden
        tensor([2, 2])
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        block_size: int | Sequence[int] = 16,
        ratio: float | Sequence[float] = 0.75,
        seed: int = 0,
    ) -> None:
        self.patch_size = tuple(patch_size)
        self.block_size = _checked_block(block_size, self.patch_size)
        self.grid = tuple(n // b for n, b in zip(self.patch_size, self.block_size, strict=True))
        self.cells = math.prod(self.grid)
        self.low, self.high = _checked_ratio(ratio, self)
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise InputError(f"seed {brief(seed)}: should be a whole number from 0")
        self.seed = seed

    def training(self, step: int, samples: Iterable[int]) -> Tensor:
        """Draw the masks of a training step.

        Args:
            step: The index of the step in the whole training.
            samples: The indices of the samples in the whole batch over all processes: in a process of rank r with n
                samples, `range(r * n, (r + 1) * n)`.

        Returns:
            The visible cells, bool, `(N, *grid)`, on the CPU.
        """
        ratio = self.low
        if self.high > self.low:
            ratio = self._generator(_RATIO, step, 0).uniform(self.low, self.high)
        return self._draw(ratio, _TRAINING, step, samples)

    def validation(self, samples: Iterable[int]) -> Tensor:
        """Draw the masks of validation: the same every time; of a range of ratios, the middle is used.

        Args:
            samples: The indices of the samples among all samples of the validation.

        Returns:
            The visible cells, bool, `(N, *grid)`, on the CPU.
        """
        return self._draw((self.low + self.high) / 2, _VALIDATION, 0, samples)

    def _draw(self, ratio: float, kind: int, step: int, samples: Iterable[int]) -> Tensor:
        masks = []
        for sample in samples:
            mask = np.ones(self.cells, bool)
            mask[self._generator(kind, step, sample).permutation(self.cells)[: int(ratio * self.cells)]] = False
            masks.append(mask.reshape(self.grid))
        return torch.from_numpy(np.stack(masks)) if masks else torch.ones(0, *self.grid, dtype=torch.bool)

    def _generator(self, kind: int, step: int, sample: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, kind, step, sample))


def _checked_block(block_size: Any, patch_size: tuple[int, ...]) -> tuple[int, ...]:
    blocks = list(block_size) if isinstance(block_size, (list, tuple)) else [block_size] * len(patch_size)
    if len(blocks) != len(patch_size) or not all(
        isinstance(b, int) and not isinstance(b, bool) and b > 0 for b in blocks
    ):
        raise InputError(
            f"block_size {brief(block_size)}: should be a positive whole number of voxels, or one an axis: patches "
            f"have {count(len(patch_size), 'axis', 'axes')}"
        )
    if any(n % b for n, b in zip(patch_size, blocks, strict=True)):
        fitting = [max(d for d in range(1, b + 1) if n % d == 0) for n, b in zip(patch_size, blocks, strict=True)]
        raise InputError(
            f"block_size {brief(block_size)}: a patch of {times(patch_size)} voxels is not a multiple of it; give a "
            f"block_size that divides the patch, such as {fitting}, or another patch_size"
        )
    return tuple(blocks)


def _checked_ratio(ratio: Any, masks: BlockMasks) -> tuple[float, float]:
    limits = list(ratio) if isinstance(ratio, (list, tuple)) else [ratio, ratio]
    numbers = all(isinstance(r, (int, float)) and not isinstance(r, bool) for r in limits)
    if len(limits) != 2 or not numbers or not limits[0] <= limits[1]:
        raise InputError(f"mask_ratio {brief(ratio)}: should be a number such as 0.75, or a range such as [0.6, 0.9]")
    if masks.cells == 1:
        raise InputError(
            f"block_size {list(masks.block_size)}: a patch of {times(masks.patch_size)} voxels is a single block, so "
            "that a mask would hide everything or nothing; give a smaller block_size or a larger patch_size"
        )
    least = math.ceil(1000 / masks.cells) / 1000
    if int(limits[0] * masks.cells) < 1 or int(limits[1] * masks.cells) >= masks.cells:
        what = "nothing" if int(limits[0] * masks.cells) < 1 else "everything"
        raise InputError(
            f"mask_ratio {brief(ratio)}: a mask would hide {what} of a patch of {times(masks.grid)} blocks; give one "
            f"of at least {least:g} and below 1"
        )
    return float(limits[0]), float(limits[1])
