"""Finding the windows of a CT that contain only the air around the body."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

from mednextv2.inference.window_cells import Axis, Index, window_order

_AIR_HU = -900.0  # air is below it: lung is at -850 to -500, and air at -1000 with noise of a few tens


def air_level(normalization: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Return for each channel the normalised intensity of -900 HU, up to which a voxel may be air.

    Args:
        normalization: The bundle's normalisation schemes, one for each channel.

    Returns:
        The levels; None if not all channels are CT, or if intensities were clipped above -900 HU, so that air looks
        like fat.
    """
    if not normalization or any(n.get("scheme") != "ct" or n["lower"] > _AIR_HU for n in normalization):
        return None
    return [(min(_AIR_HU, n["upper"]) - n["mean"]) / max(n["std"], 1e-8) for n in normalization]


def air_windows(image: Tensor, axes: Sequence[Axis], levels: float | Sequence[float]) -> set[Index]:
    """Find the windows that need no prediction: they contain only air and are connected to the border by such windows.

    Air inside the body, as in a lung or a bowel, is thus always predicted.

    Args:
        image: The image as the network sees it, `(C, ...)`.
        axes: The axes of the image.
        levels: The largest intensity of air, for each channel or for all.

    Returns:
        The indices of the windows along each axis.
    """
    if any(axis.starts[0] < 0 for axis in axes):
        return set()  # an axis is shorter than a window, so each window contains all of it
    highest = torch.as_tensor(levels, device=image.device, dtype=image.dtype).reshape(-1, *[1] * len(axes))
    air = (image <= highest).all(0)
    for dim, axis in enumerate(axes):
        air = torch.stack([air[(slice(None),) * dim + (slice(*ends),)].all(dim) for ends in pairwise(axis.edges)], dim)
    on_cpu = air.cpu().numpy()  # all cells are copied at once, since each copy would wait for the GPU
    empty = set()
    for window in window_order(axes):
        cells = [axis.covered(n) for axis, n in zip(axes, window, strict=True)]
        if on_cpu[tuple(slice(c.start, c.stop) for c in cells)].all():
            empty.add(window)
    return _connected_to_border(empty, [len(axis.starts) for axis in axes])


def _connected_to_border(windows: set[Index], counts: Sequence[int]) -> set[Index]:
    found = {w for w in windows if any(i in (0, n - 1) for i, n in zip(w, counts, strict=True))}
    todo = list(found)
    while todo:
        window = todo.pop()
        for axis, step in product(range(len(window)), (-1, 1)):
            neighbour = (*window[:axis], window[axis] + step, *window[axis + 1 :])
            if neighbour in windows and neighbour not in found:
                found.add(neighbour)
                todo.append(neighbour)
    return found
