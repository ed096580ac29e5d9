"""Where the windows of a sliding window lie on an image, and the grid on which their labels are decided."""

from dataclasses import dataclass

from monai.data import MetaTensor
from monai.data.utils import dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.utils import TraceKeys, ensure_tuple_rep, fall_back_tuple
from torch import Tensor

from mednextv2.inference.logits_to_labels import Target
from mednextv2.inference.window_cells import Axis


@dataclass(frozen=True)
class WindowGrid:
    """The positions of windows on an image, and the grid of the labels.

    Attributes:
        axes: The image's axes, with the first voxel of each window.
        targets: For each axis, the labels' grid: that of the image before it was resampled.
        padding: How many voxels are added at each side of an image that is smaller than a window, in the order of
            `torch.nn.functional.pad`.
    """

    axes: list[Axis]
    targets: list[Target]
    padding: list[int]

    @classmethod
    def of(cls, image: Tensor, settings: SlidingWindowInferer) -> "WindowGrid":
        """Return the windows of an image, `(C, X, Y, Z)`, as MONAI's sliding window places them.

        Raises:
            ValueError: If the overlap is not from 0 to below 1, or the image was resampled before the last step of the
                preprocessing.
        """
        size = image.shape[1:]
        patch = fall_back_tuple(settings.roi_size, size)
        padded = tuple(map(max, size, patch))
        overlap = ensure_tuple_rep(settings.overlap, len(size))
        if not all(0 <= part < 1 for part in overlap):
            raise ValueError(f"overlap must be from 0 to below 1, but is {settings.overlap}")
        steps = [max(1, int(n * (1 - part))) for n, part in zip(patch, overlap, strict=True)]
        slices = dense_patch_slices(padded, patch, steps)
        before = [(p - n) // 2 for p, n in zip(padded, size, strict=True)]
        axes = [
            Axis(size[a], patch[a], tuple(sorted({s[a].start - before[a] for s in slices}))) for a in range(len(size))
        ]
        former, separate = _former_grid(image)
        former = former or tuple(size)
        targets = [Target(axis, n, nearest=a == separate) for a, (axis, n) in enumerate(zip(axes, former, strict=True))]
        padding = [n for a in reversed(range(len(size))) for n in (before[a], padded[a] - size[a] - before[a])]
        return cls(axes, targets, padding)


def _former_grid(image: Tensor) -> tuple[tuple[int, ...] | None, int | None]:
    """Return the shape before the image was resampled, and the axis of nearest voxels, as in `Resampled.inverse`."""
    steps = list(image.applied_operations) if isinstance(image, MetaTensor) else []
    resampled = [i for i, step in enumerate(steps) if step.get(TraceKeys.CLASS_NAME) == "Resampled"]
    if not resampled:
        return None, None
    if resampled[-1] != len(steps) - 1:
        raise ValueError(
            "Resampled should be the last step of the preprocessing, so that labels can be decided before it"
        )
    info = steps[-1][TraceKeys.EXTRA_INFO]
    return tuple(map(int, steps[-1][TraceKeys.ORIG_SIZE])), None if info["separate"] < 0 else int(info["separate"])
