"""Reading of one image file as an array with its position in space."""

import os
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import ITKReader

from mednextv2.errors import InputError, find_input_error
from mednextv2.images.dicom import DicomSeries, choose_series, read_series
from mednextv2.images.itk_header import has_patient_space, screen_itk
from mednextv2.images.itk_loading import ITK_TURN, load_itk
from mednextv2.images.nifti_header import read_nifti, screen_nifti
from mednextv2.wording import times

#: What a header lacks that has no orientation: see :func:`has_orientation`.
NO_ORIENTATION = "sform_code and qform_code are 0; in NRRD: no space of a patient"
#: File endings of images, first those that MONAI reads with nibabel.
NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI, ".seg.nrrd", ".nrrd", ".mha", ".mhd")

#: The endings of pictures, whose pixels have no size in millimetres.
PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
#: How a picture becomes an image that can be read.
CONVERSION = (
    "save its grey values as NIfTI with nibabel.save(nibabel.Nifti1Image(grey.T, numpy.diag([-WIDTH, -HEIGHT, 1, 1])), "
    "'case.nii.gz'), where grey is an array (rows, columns), and WIDTH and HEIGHT are those of a pixel in mm"
)


class VirtualVolume(os.PathLike[str]):
    """A volume that is made from files when it is read; :func:`read_volume` takes it in the place of a file."""

    @property
    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """The files that it is made from; the first stands for all of them in messages."""

    @abstractmethod
    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return its voxels, `(X, Y, Z)` or `(X, Y)`, and the affine, as :func:`read_volume` does."""

    def __fspath__(self) -> str:
        return self.files[0]

    def __str__(self) -> str:
        return self.files[0]


def stem(path: str | os.PathLike) -> str:
    """Return the file name without folder and ending: `b` for `a/b.nii.gz`."""
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def is_numeric(array: np.ndarray) -> bool:
    """Return whether each voxel is one real number."""
    return (np.issubdtype(array.dtype, np.number) or array.dtype == bool) and not np.iscomplexobj(array)


def dimensions(shape: Sequence[int]) -> str:
    """Return a shape for people, such as `3D (9×8×7)`."""
    return f"{len(shape)}D ({times(shape)})"


def read_volume(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Read an image.

    Args:
        path: A file with one of the endings in `SUFFIXES`; or a DICOM series, a folder that contains one, or a
            :class:`VirtualVolume`.

    Returns:
        The voxels, `(X, Y, Z)` or `(X, Y)` (further axes if the file has them and they are longer than one; channels of
        a plane come after a third axis of length one), in the file's own
        order and data type, and the affine, `(4, 4)`, from voxel indices to millimetres (right, anterior, superior).

    Raises:
        InputError: If the file is missing, truncated, damaged or in another format.
    """
    if isinstance(path, DicomSeries):
        return read_series(path)
    if isinstance(path, VirtualVolume):
        return path.read()
    path = Path(path)
    if path.is_dir():
        return read_series(choose_series(path)[0])
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if advice := picture_advice(path):
        raise InputError(advice)
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path}: the ending is not one of {', '.join(SUFFIXES)}; convert the image")
    try:
        if path.name.lower().endswith(NIFTI):
            image = _load_nifti(path)
            return _without_ones(np.asanyarray(image.dataobj)), np.asarray(image.affine, dtype=np.float64)
        screen_itk(path)
        load_itk()
        with ITK_TURN:
            reader = ITKReader()
            array, meta = reader.get_data(reader.read(str(path)))
        if array.ndim == len(meta["affine"]) == 3:  # a plane with channels, not a volume
            array = array[:, :, None]
        return array, affine_4x4(np.asarray(meta["affine"], dtype=np.float64))
    except InputError:
        raise
    except Exception as e:  # zlib, gzip, nibabel and ITK each raise their own errors for a damaged file
        raise unreadable(path, e) from e


def unreadable(path: str | os.PathLike, error: Exception) -> InputError:
    """Return the error that says that a library could not read an image file."""
    if found := find_input_error(error):  # what the machine or the user lacks is not the file's fault
        return InputError(str(found))
    detail = " ".join(str(error).split())[:200]
    return InputError(
        f"{path}: cannot be read; the file is truncated, damaged, or not what its ending says "
        f"({type(error).__name__}: {detail}). Copy or convert it again"
    )


def picture_advice(path: str | os.PathLike) -> str:
    """Say why a picture such as a PNG file is not read and how to convert it; the text is empty for other files."""
    if not os.fspath(path).lower().endswith(PICTURES):
        return ""
    return f"{path}: is a picture, which does not say how large its pixels are; {CONVERSION}"


def screen_file(path: str | os.PathLike) -> None:
    """Check what an image's header declares, before another library reads the file.

    Args:
        path: A file with one of the endings in `SUFFIXES`; others are left to their reader.

    Raises:
        InputError: If the header is impossible, the voxels are in a file that is not beside it, or there are not as
            many data as declared.
    """
    path = Path(path)
    if not path.is_file() or not path.name.lower().endswith(SUFFIXES):
        return
    try:
        (screen_nifti if path.name.lower().endswith(NIFTI) else screen_itk)(path)
    except (OSError, EOFError, zlib.error) as e:
        raise InputError(f"{path}: cannot be read ({' '.join(str(e).split())[:200]}). Copy or convert it again") from e


def _load_nifti(path: Path) -> nib.Nifti1Image:
    """Load a NIfTI file, including the checksum at the end of a compressed one, which nibabel does not read."""
    if not path.name.lower().endswith(".gz"):
        screen_nifti(path)
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):  # NIfTI-2 is a subclass, and CIFTI is not
            raise ValueError(f"it is no NIfTI image, but a {type(image).__name__}")
        return image
    content = read_nifti(path)
    size = {int.from_bytes(content[:4], order) for order in ("little", "big")}  # size of the header
    return (nib.Nifti2Image if 540 in size else nib.Nifti1Image).from_bytes(content)


def has_orientation(path: str | os.PathLike) -> bool:
    """Return whether a file says where its voxels are in the patient.

    A NIfTI file may not, with both of its codes 0; and a NRRD file may have no space, or that of a scanner.
    """
    name = str(path).lower()
    if not name.endswith((*NIFTI, ".nrrd")):
        return True
    try:
        if name.endswith(".nrrd"):
            return has_patient_space(Path(path))
        header: Any = nib.load(path).header
        return bool(header["sform_code"] or header["qform_code"])
    except Exception:  # an error is reported when the file is read
        return True


def _without_ones(array: np.ndarray) -> np.ndarray:
    """Remove trailing axes of length one after the third, which some programs write."""
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return array


def affine_4x4(affine: np.ndarray) -> np.ndarray:
    """Extend the 3×3 affine of a 2D image to 4×4; another one is returned as it is."""
    axes = len(affine) - 1
    full = np.eye(4)
    full[:axes, :axes], full[:axes, 3] = affine[:axes, :axes], affine[:axes, axes]
    return full
