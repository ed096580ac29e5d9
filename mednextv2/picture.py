"""A picture of an image with the outlines of label maps, on three planes, or on the only one of a 2D image."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np

from mednextv2.data.voxel_grids import compare_grids
from mednextv2.errors import InputError
from mednextv2.images.label_map_files import read_label_map
from mednextv2.images.planes import as_plane, is_plane, with_normal
from mednextv2.images.volume import read_volume
from mednextv2.paths import prepare_folder, writing
from mednextv2.wording import count

_COLORS = ("#ff5050", "#40c4ff", "#ffd740", "#69f0ae", "#e040fb", "#ffab40", "#b2ff59", "#8c9eff")
_PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))


def save_picture(
    image: str | os.PathLike,
    output: str | os.PathLike,
    truth: str | os.PathLike | None = None,
    prediction: str | os.PathLike | None = None,
) -> Path:
    """Draw one row each for the image, the reference and the prediction; the columns are three planes.

    An image of one plane has one column. The planes of a volume go through the middle of the labelled voxels, or of the
    image. Everything is reoriented to right, anterior, superior, and shown in millimetres, with the patient's left on
    the right-hand side, as radiologists view it.

    Args:
        image: The image file.
        output: The `.png` file to write.
        truth: The reference, a label map on the same grid.
        prediction: The prediction, a label map on the same grid.

    Returns:
        The path of the file.

    Raises:
        InputError: If a file cannot be read, the grids differ, or Matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise InputError("pictures need Matplotlib: pip install matplotlib") from e
    output = Path(output)
    if output.suffix.lower() != ".png" or output.is_dir():
        raise InputError(f"{output}: the picture's file name should end in .png")
    prepare_folder(output.parent, "output")
    array, affine = _read_image(image)
    maps = {}
    for name, file in (("reference", truth), ("prediction", prediction)):
        if not file:
            continue
        labels, other = _one_plane_too(*read_label_map(file))
        if difference := compare_grids((str(image), array.shape, affine), (str(file), labels.shape, other)):
            raise InputError(difference)
        maps[name], _ = _turn(labels, other)
    volume, spacing = _turn(array, affine)
    rows: list[tuple[str, np.ndarray | None]] = [("image", None), *maps.items()]
    centre = _centre(maps, volume.shape)
    planes = [plane for plane in _PLANES if volume.shape[plane[1]] == 1] if is_plane(array.shape) else _PLANES
    figure = Figure(figsize=(3 * max(len(planes), 1.5), 3.1 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    low, high = np.percentile(volume, (0.5, 99.5))
    for r, (name, outlined) in enumerate(rows):
        for c, (plane, axis) in enumerate(planes):
            ax = figure.add_subplot(len(rows), len(planes), len(planes) * r + c + 1)
            _draw(ax, volume, outlined, axis, centre[axis], spacing, (low, high))
            ax.set_title(f"{name}, {plane}" if c == 0 else plane, fontsize=10)
    with writing(output) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return output


def _read_image(file: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels of the first channel and the affine."""
    array, affine = read_volume(file)
    if array.ndim == 4 and array.shape[-1] >= 1:
        array = array[..., 0]
    array, affine = _one_plane_too(array, affine)
    if array.ndim != 3:
        raise InputError(f"{file}: a picture needs a 2D or 3D image; this one has {count(array.ndim, 'axis', 'axes')}")
    return np.asarray(array, dtype=np.float32), affine


def _one_plane_too(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give an image of one plane a third axis, of 1 mm."""
    return (as_plane(array)[..., None], with_normal(affine)) if is_plane(array.shape) else (array, affine)


def _turn(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels in the order right, anterior, superior, and the spacing in mm."""
    turned = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    return np.asarray(turned.dataobj), np.asarray(turned.header.get_zooms()[:3])


def _centre(maps: dict[str, np.ndarray], shape: tuple[int, ...]) -> list[int]:
    for labels in maps.values():
        where = np.argwhere(labels > 0)
        if len(where):
            return [int(v) for v in np.median(where, axis=0)]
    return [n // 2 for n in shape]


def _draw(
    ax, volume: np.ndarray, labels: np.ndarray | None, axis: int, index: int, spacing: np.ndarray, window: tuple
) -> None:
    width, height = (spacing[i] for i in range(3) if i != axis)
    plane = np.take(volume, index, axis=axis).T
    ax.imshow(plane, cmap="gray", origin="lower", aspect=height / width, vmin=window[0], vmax=window[1])
    if labels is not None:
        cut = np.take(labels, index, axis=axis).T
        for value in np.unique(cut[cut > 0]).astype(int):
            ax.contour(cut == value, levels=[0.5], colors=_COLORS[(value - 1) % len(_COLORS)], linewidths=1.6)
    if axis != 0:
        ax.invert_xaxis()  # patient's right on the viewer's left
    ax.set_axis_off()
