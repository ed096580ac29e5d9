"""Label maps of data sets that annotate only some of the structures, and the batches in which they reach the loss."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: The key of an item or a batch under which stands which structures are annotated.
STRUCTURES = "structures"


class PartialLabels(NamedTuple):
    """Label maps, and which structures their data sets annotate.

    A voxel with the value 0 belongs to none of the annotated structures, but may belong to another one. The label map
    has no value of a structure that is not annotated.

    Attributes:
        label: Label maps, `(B, 1, *spatial)`.
        structures: Whether each structure of `LabelScheme.foreground` is annotated, `(B, S)`, boolean, on the CPU.
    """

    label: Tensor
    structures: Tensor


def prepare_patches(
    batch: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor | PartialLabels]:
    """Move a batch of patches to a device: a `prepare_batch` of MONAI's engines.

    Args:
        batch: `image` `(B, C, ...)` and `label` `(B, 1, ...)`; and `structures` `(B, S)` if the data sets annotate only
            some of them.
        device: The device.
        non_blocking: Whether the program goes on while the batch is copied.
        **kwargs: Further arguments of `torch.Tensor.to`.

    Returns:
        The images and the labels.
    """
    image, label = (batch[key].to(device=device, non_blocking=non_blocking, **kwargs) for key in ("image", "label"))
    return image, with_structures(label, batch)


def with_structures(label: Tensor, batch: Mapping[str, Any]) -> Tensor | PartialLabels:
    """Return label maps, with what is annotated if the batch says so."""
    if STRUCTURES not in batch:
        return label
    return PartialLabels(label, torch.as_tensor(batch[STRUCTURES]).bool().cpu())
