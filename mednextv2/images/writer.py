"""Writing of label maps in the geometry of the image from which they were made."""

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageWriter
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import orientation_ras_lps
from monai.transforms import SaveImaged
from nibabel.affines import voxel_sizes

from mednextv2.errors import InputError
from mednextv2.images.itk_loading import load_itk
from mednextv2.images.planes import lies_flat, restore_axes, with_normal
from mednextv2.images.volume import NIFTI, SUFFIXES, affine_4x4, stem
from mednextv2.label_scheme import label_dtype
from mednextv2.paths import expand, prepare_folder, writing

#: Formats of masks: those of images except .mhd, whose voxels are in a second file.
MASK_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


class MaskWriter(ImageWriter):
    """Write a label map with the shape, the affine and, for NIfTI, the header fields of its source image.

    This is a writer for MONAI's `SaveImaged` and for :class:`SaveMaskd`. The source's qform, sform, units, time stamps
    and descriptions are kept; the data type (:func:`mednextv2.label_scheme.label_dtype`) and the intensity scaling are
    the mask's own. The file appears under its name only when it is complete.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(affine=None)
        self.labels: np.ndarray | None = None
        self.meta: Mapping[str, Any] = {}

    def set_data_array(self, data_array: Any, **kwargs: Any) -> None:
        """Take the label map, `(1, X, Y, Z)` or `(1, X, Y)`."""
        array = data_array.detach().cpu().numpy() if isinstance(data_array, torch.Tensor) else np.asarray(data_array)
        if array.shape[0] != 1:
            raise ValueError(f"a label map has one channel; this array has the shape {array.shape}")
        self.labels = array[0].astype(label_dtype(int(array.max()) + 1))

    def set_metadata(self, meta_dict: Mapping | None = None, resample: bool = False, **kwargs: Any) -> None:
        """Take the source image's metadata: MONAI's `filename_or_obj` and `affine`."""
        self.meta = meta_dict or {}

    def write(self, filename: str | os.PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Write the file, under a temporary name first.

        Args:
            filename: The file, whose ending determines the format: one of `MASK_SUFFIXES`.
            verbose: Not used.
            **kwargs: Not used.

        Raises:
            InputError: If the ending is another one, the folder cannot be written, or the disk is full.
            ValueError: If :meth:`set_data_array` was not called before.
        """
        labels = self.labels
        if labels is None:
            raise ValueError("there is no label map to write; call set_data_array first")
        labels = restore_axes(labels, self.meta)
        target = Path(filename)
        if not target.name.lower().endswith(MASK_SUFFIXES):
            raise InputError(f"{target}: a mask's file ends in {', '.join(MASK_SUFFIXES)}")
        prepare_folder(target.parent, "output_dir")
        with writing(target) as temporary:
            if target.name.lower().endswith(NIFTI):
                nib.save(nib.Nifti1Image(labels, self._affine(), self._header(labels)), temporary)
            else:
                _write_itk(temporary, labels, self._affine())

    def _source(self) -> nib.Nifti1Pair | None:
        name = self.meta.get("filename_or_obj")
        name = name[0] if isinstance(name, (list, tuple)) and name else name
        if isinstance(name, str) and name.lower().endswith(NIFTI) and Path(name).is_file():
            image = nib.load(name)
            return image if isinstance(image, nib.Nifti1Pair) else None
        return None

    def _affine(self) -> np.ndarray:
        source = self._source()
        if source is not None:
            return source.affine
        affine = self.meta.get("original_affine", self.meta.get("affine"))
        if affine is None:
            return np.eye(4)
        return affine_4x4(np.asarray(affine.cpu() if isinstance(affine, torch.Tensor) else affine, dtype=np.float64))

    def _header(self, labels: np.ndarray) -> nib.Nifti1Header | None:
        source = self._source()
        if source is None:
            return None
        header = nib.Nifti1Header.from_header(source.header, check=False)
        header.set_data_dtype(labels.dtype)
        header.set_data_shape(labels.shape)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0  # the source has the display range of its intensities here
        header.extensions.clear()
        return header


def _write_itk(file: Path, labels: np.ndarray, affine: np.ndarray) -> None:
    itk = load_itk()
    if labels.ndim == 2 and not lies_flat(affine):  # its place in space needs three axes
        labels, affine = labels[..., None], with_normal(affine)
    axes = labels.ndim
    image = itk.image_from_array(np.ascontiguousarray(labels.T))
    affine = orientation_ras_lps(affine)  # to ITK's left, posterior, superior
    spacing = voxel_sizes(affine)[:axes]
    image.SetSpacing(spacing)
    image.SetOrigin(affine[:axes, 3])
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(affine[:axes, :axes] / spacing)))
    itk.imwrite(image, str(file), compression=True)
    # on a full disk, ITK omits the end of a small NRRD file without an error
    if not np.array_equal(itk.array_view_from_image(itk.imread(str(file))), labels.T):
        raise OSError("it is not what was written")


def mask_path(folder: str | os.PathLike, image: str | os.PathLike, suffix: str = "seg") -> Path:
    """Return the file of the mask of an image or a case: `<folder>/case_seg.nii.gz` for `case_0000.nii.gz`."""
    name = Path(image).name
    case = re.sub("_0000$", "", stem(image)) if name.lower().endswith(SUFFIXES) else name
    return expand(folder) / f"{case}_{suffix}.nii.gz"


class SaveMaskd(SaveImaged):
    """Save label maps as `<output_dir>/<case>_<suffix>.nii.gz`, in the geometry of their source images.

    The case is the source's file name without ending and without nnU-Net's channel number `_0000`; for a DICOM series,
    and in a collection of data sets, it is the item's `case`. For an image in memory, which has no file (as in MONAI
    Deploy), nothing is saved. This is a `SaveImaged`, so MONAI Label leaves it out like that class; unlike there, an
    error keeps its own message.

    Args:
        keys: The keys of the label maps, `(1, X, Y, Z)` MetaTensors with the file name of their source.
        output_dir: The folder; created if missing.
        suffix: The suffix after the case's name, so that a mask never overwrites its image.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | os.PathLike, suffix: str = "seg") -> None:
        super().__init__(
            keys, output_dir=os.fspath(output_dir), output_postfix=suffix, output_ext=".nii.gz", separate_folder=False,
            resample=False, writer=MaskWriter, print_log=False,
        )  # fmt: skip
        self.folder, self.suffix = expand(output_dir), suffix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the masks and return the data unchanged.

        Raises:
            InputError: When a file cannot be written.
        """
        for key in self.key_iterator(data):
            mask = data[key]
            meta = mask.meta if isinstance(mask, MetaTensor) else {}
            source = meta.get("filename_or_obj")
            if not source:
                continue
            source = source[0] if isinstance(source, (list, tuple)) else source
            if Path(str(source)).is_dir() or "dataset" in data:
                # a DICOM series has no single file name, and the files of several data sets may have the same
                source = data.get("case", source)
            writer = MaskWriter()
            writer.set_data_array(mask)
            writer.set_metadata(meta)
            writer.write(mask_path(self.folder, str(source), self.suffix))
        return dict(data)
