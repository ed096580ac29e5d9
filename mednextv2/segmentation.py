"""The result for one image: a label map in the image's geometry, and the files to which it can be written."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.utils import ensure_tuple

from mednextv2.data.sizes import AREA, VOLUME, SizeKind, size_kind
from mednextv2.errors import InputError
from mednextv2.images.dicom import DicomSeries
from mednextv2.images.dicom_references import Model
from mednextv2.images.writer import MaskWriter
from mednextv2.label_scheme import LabelScheme


@dataclass(frozen=True)
class Segmentation:
    """A label map in the geometry of its image.

    Attributes:
        labels: The label map, `(X, Y, Z)`, of the scheme's `dtype`; of a 2D image, `(X, Y)` or, like its file,
            `(X, Y, 1)`.
        affine: The matrix `(4, 4)` from voxel indices to millimetres (right, anterior, superior).
        scheme: The meaning of the values.
        source: The image: a file or a DICOM series, or a list with one of them for each channel; None for an image in
            memory.
        meta: MONAI's metadata of the image.
        model: The network that made it, for a DICOM SEG.
        spatial_dims: The number of axes that the network segments, 3 or 2.
    """

    labels: np.ndarray
    affine: np.ndarray
    scheme: LabelScheme
    source: Any = None
    meta: dict[str, Any] = field(default_factory=dict, repr=False)
    model: Model | None = None
    spatial_dims: int = 3

    @property
    def volumes(self) -> dict[str, float]:
        """The volume of each structure in millilitres.

        Raises:
            ValueError: If the image has one plane: see :attr:`areas`.
        """
        if self.size_kind is AREA:
            raise ValueError("a 2D image has no volumes; ask for areas")
        return self.sizes

    @property
    def areas(self) -> dict[str, float]:
        """The area of each structure in square millimetres, of an image that has one plane.

        Raises:
            ValueError: If the image is a volume: see :attr:`volumes`.
        """
        if self.size_kind is VOLUME:
            raise ValueError("a volume has no areas; ask for volumes")
        return self.sizes

    @property
    def size_kind(self) -> SizeKind:
        """What the sizes are: volumes, or areas."""
        return size_kind(self.spatial_dims)

    @property
    def sizes(self) -> dict[str, float]:
        """The size of each structure in the unit of `size_kind`."""
        voxel = self.size_kind.of_voxel(self.affine)
        counts = np.bincount(self.labels.reshape(-1, order="A"), minlength=len(self.scheme.labels))
        return {
            name: float(counts[list(values)].sum() * voxel)
            for name, values in zip(self.scheme.foreground, self.scheme.members, strict=True)
        }

    def to_nibabel(self) -> nib.Nifti1Image:
        """Return the label map as a NIfTI image."""
        return nib.Nifti1Image(self.labels, self.affine)

    def save(self, path: str | os.PathLike) -> Path:
        """Write the label map as `.nii.gz`, `.nii`, `.nrrd` or `.mha`, with the header of a NIfTI source.

        Raises:
            InputError: If the file cannot be written.
        """
        writer = MaskWriter()
        writer.set_data_array(self.labels[None])
        writer.set_metadata({**self.meta, "affine": self.affine, "original_affine": self.affine})
        writer.write(path)
        return Path(path)

    def save_dicom_seg(self, path: str | os.PathLike, storage: str | None = None) -> Path:
        """Write the label map as DICOM SEG that refers to the images from which it was made (of the first channel).

        Args:
            path: The file.
            storage: How segments are stored: see :func:`mednextv2.images.dicom_seg.write_dicom_seg`.

        Raises:
            InputError: If the source is not a DICOM series, highdicom is not installed, nothing was segmented, or the
                file cannot be written.
        """
        from mednextv2.images.dicom_seg import write_dicom_seg

        series = self._series(path, "DICOM SEG")
        return write_dicom_seg(path, self.labels, self.scheme, series, model=self.model, storage=storage)

    def save_rtstruct(self, path: str | os.PathLike) -> Path:
        """Write the label map as DICOM RT Structure Set, with outlines on the slices of its first channel.

        Raises:
            InputError: If the source is not a DICOM series with one file for each slice, contourpy is not installed,
                nothing was segmented, or the file cannot be written.
        """
        from mednextv2.images.rtstruct import write_rtstruct

        return write_rtstruct(path, self.labels, self.scheme, self._series(path, "RTSTRUCT"), self.model)

    def _series(self, path: str | os.PathLike, what: str) -> DicomSeries:
        source = ensure_tuple(self.source)[0]
        if not isinstance(source, DicomSeries):
            raise InputError(f"{path}: {what} refers to a DICOM series; the image is {source or 'in memory'}")
        return source
