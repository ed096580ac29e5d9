"""The position, rotation and scaling of patches that are read directly from stored volumes."""

import math
from collections.abc import Sequence

import numpy as np
from monai.transforms import Randomizable

from mednextv2.errors import InputError


class RandPlacement(Randomizable):
    """Draws how patches are rotated and scaled.

    Angles are in voxel space: the spacing is ignored.

    Args:
        patch_size: Number of voxels along each axis.
        rotation_prob: The fraction of patches that are rotated, about all axes at once.
        scale_prob: The fraction of patches that are scaled, independently of rotation.
        max_angle: The largest angle in radians; angles are uniform between its negative and itself. The default is 30°
            in 3D and 180° in 2D and with a flat axis, but 15° for a 2D patch with one side more than 1.5 times as long
            as the other.
        scale_range: The range of the factor, which is uniform and common to all axes; above 1, the patch shows more of
            the volume.
        flat_axis: The flat axis of a 3D patch, which is rotated and scaled only in the plane of the two other axes: see
            :func:`flat_axis`.

    Raises:
        InputError: If a setting is out of range.

    Source:
        nnU-Net v2 (`configure_rotation_dummyDA_mirroring_and_inital_patch_size`, `SpatialTransform`).
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        rotation_prob: float = 0.2,
        scale_prob: float = 0.2,
        max_angle: float | None = None,
        scale_range: Sequence[float] = (0.7, 1.4),
        flat_axis: int | None = None,
    ) -> None:
        dims = len(patch_size)
        if dims not in (2, 3):
            raise InputError(f"patch_size {tuple(patch_size)}: should have 2 or 3 numbers")
        for name, prob in (("rotation_prob", rotation_prob), ("scale_prob", scale_prob)):
            if not 0 <= prob <= 1:
                raise InputError(f"{name} {prob!r}: should be from 0 to 1")
        if len(scale_range) != 2 or not 0 < scale_range[0] <= scale_range[1] < math.inf:
            raise InputError(f"scale_range {scale_range!r}: should be two factors above 0, the smaller first")
        if flat_axis is not None and (dims == 2 or flat_axis not in range(3)):
            raise InputError(f"flat_axis {flat_axis!r}: should be 0, 1 or 2, for a 3D patch_size, or not given")
        if max_angle is None:
            free = flat_axis is not None or (dims == 2 and max(patch_size) <= 1.5 * min(patch_size))
            max_angle = math.pi if free else math.radians(15 if dims == 2 else 30)
        self.rotation_prob, self.scale_prob = rotation_prob, scale_prob
        self.max_angle, self.scale_range = max_angle, (float(scale_range[0]), float(scale_range[1]))
        self.flat_axis = flat_axis
        self._dims = dims

    def draw(self) -> np.ndarray | None:
        """Draw one patch's rotation and scale.

        Returns:
            The matrix `(d, d)` from offsets in the patch to offsets in the volume, or None without rotation and
            scaling.
        """
        rotate, rescale = self.R.random_sample(2) < (self.rotation_prob, self.scale_prob)
        if not rotate and not rescale:
            return None
        angles = np.zeros(3 if self._dims == 3 else 1)
        scale = np.ones(self._dims)
        turned = slice(None) if self.flat_axis is None else self.flat_axis
        if rotate:
            angles[turned] = self.R.uniform(-self.max_angle, self.max_angle, np.shape(angles[turned]))
        if rescale:
            scale[:] = self.R.uniform(*self.scale_range)
        if self.flat_axis is not None:
            scale[self.flat_axis] = 1
        return placement_matrix(angles.tolist(), scale.tolist())


def flat_axis(patch_size: Sequence[int], spacing: Sequence[float]) -> int | None:
    """Return the axis along which a 3D patch is too short to be rotated, or None.

    Args:
        patch_size: Number of voxels along each axis.
        spacing: The voxel spacing in mm.

    Returns:
        The axis with the largest spacing, if the patch is more than 3 times as long along another axis; else None.

    Source:
        nnU-Net v2's "dummy 2D" augmentation; its axes are ordered so that the coarsest is the first.
    """
    coarsest = int(np.argmax(spacing))
    return coarsest if len(patch_size) == 3 and max(patch_size) > 3 * patch_size[coarsest] else None


def placement_matrix(angles: Sequence[float], scale: float | Sequence[float] = 1.0) -> np.ndarray:
    """Build the matrix of a rotation and a scaling.

    Args:
        angles: The angles in radians: one about each of 3 axes, or a single one in 2D.
        scale: The scale of all axes, or of each axis of the patch.

    Returns:
        The matrix `(d, d)` from offsets in the patch to offsets in the volume, which scales and then rotates about the
        last axis, the second and the first.
    """
    if len(angles) == 1:
        (cos,), (sin,) = np.cos(angles), np.sin(angles)
        return np.array([[cos, -sin], [sin, cos]]) * scale
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        about = np.eye(3)
        about[a, a] = about[b, b] = math.cos(angle)
        about[b, a] = math.sin(angle)
        about[a, b] = -about[b, a]
        matrix = matrix @ about
    return matrix * scale


def draw_centre(
    R: np.random.RandomState,  # noqa: N803  MONAI's name for it
    shape: Sequence[int],
    patch_size: Sequence[int],
    voxel: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Draw the position of a patch.

    Without `voxel`, the patch starts anywhere inside the volume; along axes on which the volume is shorter, it is
    placed in the middle. With `voxel`, the patch is centred on it, but moved up if it would start before the volume;
    beyond the far border, it is padded.

    Args:
        R: The random number generator.
        shape: The shape of the volume, without channels.
        patch_size: Number of voxels along each axis.
        voxel: Indices of a voxel that the patch should show.

    Returns:
        The voxel of the volume that becomes voxel `patch_size // 2` of the patch.

    Source:
        nnU-Net v2's data loader. It places a training patch that was enlarged for rotation in the same way, and lets it
        start before the volume by as much as it was enlarged. Its centre, which the network gets, lies at the same
        place as ours, except for one voxel if sizes differ by an odd number; only corners that the enlarged patch
        lacked differ.
    """
    need = [max(0, p - n) for n, p in zip(shape, patch_size, strict=True)]
    lowest = [-(missing // 2) for missing in need]
    if voxel is None:
        highest = [n + m // 2 + m % 2 - p for n, m, p in zip(shape, need, patch_size, strict=True)]
        start = [int(R.randint(low, high + 1)) for low, high in zip(lowest, highest, strict=True)]
    else:
        start = [max(low, int(v) - p // 2) for low, v, p in zip(lowest, voxel, patch_size, strict=True)]
    return tuple(s + p // 2 for s, p in zip(start, patch_size, strict=True))
