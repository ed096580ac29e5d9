"""What shall be segmented, where the masks go, and what is written beside them, checked before anything is loaded."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from monai.utils import ensure_tuple

from mednextv2.errors import InputError
from mednextv2.images.dicom import DicomSeries, series_affine
from mednextv2.images.dicom_references import check_references
from mednextv2.images.dicom_seg import STORAGES, check_dicom_seg
from mednextv2.images.dicom_tilt import is_tilted
from mednextv2.images.rtstruct import check_rtstruct
from mednextv2.images.volume import NIFTI
from mednextv2.images.writer import MASK_SUFFIXES, mask_path
from mednextv2.inference.inputs import CheckImaged, series_of
from mednextv2.paths import expand

logger = logging.getLogger(__name__)

_OTHER_FILES = (".gz", ".dcm", ".png", ".jpg", ".zip", ".json", ".mhd", ".img", ".hdr")


@dataclass(frozen=True)
class Extras:
    """Which files are written beside each mask.

    Attributes:
        dicom_seg: Whether a DICOM SEG is written.
        dicom_seg_storage: How its segments are stored: see :func:`mednextv2.images.dicom_seg.write_dicom_seg`.
        rtstruct: Whether a DICOM RT Structure Set is written.
        probabilities: Whether the probabilities of each output are written: see :meth:`mednextv2.Predictor.__call__`.
        report: Whether `report.html` is written, on all masks.
    """

    dicom_seg: bool = False
    dicom_seg_storage: str | None = None
    rtstruct: bool = False
    probabilities: bool = False
    report: bool = False

    #: The endings of the files beside a mask, by the settings that ask for them.
    ENDINGS: ClassVar[dict[str, str]] = {
        "dicom_seg": ".dcm", "rtstruct": "_rtstruct.dcm", "probabilities": "_probabilities.npy"
    }  # fmt: skip

    @property
    def beside(self) -> list[str]:
        """Endings of the files that are written beside each mask."""
        return [ending for name, ending in self.ENDINGS.items() if getattr(self, name)]


@dataclass(frozen=True)
class Order:
    """One image and the place of its mask."""

    item: dict[str, Any]
    mask: Path

    @property
    def case(self) -> str:
        """The case's name."""
        return self.item["case"]

    @property
    def series(self) -> list[DicomSeries]:
        """The image's DICOM series, one for each channel; empty for files."""
        return series_of(self.item)

    def beside(self, ending: str) -> Path:
        """Return the path of the mask with another ending."""
        name = self.mask.name
        own = next(suffix for suffix in MASK_SUFFIXES if name.lower().endswith(suffix))
        return self.mask.with_name(name[: -len(own)] + ending)


def place_masks(items: Sequence[dict[str, Any]], output: str | os.PathLike, beside: Sequence[str] = ()) -> list[Order]:
    """Decide the file of each mask, and make sure that neither it nor a file beside it replaces an image.

    Args:
        items: The images.
        output: A file or a folder.
        beside: Endings of the files that are written beside each mask.

    Raises:
        InputError: When a mask or a file beside it would replace an image.
    """
    output = expand(output)
    name = output.name.lower()
    if name.endswith(MASK_SUFFIXES) and not output.is_dir():
        if len(items) > 1:
            raise InputError(f"{output}: is one file for {len(items)} images; give a folder")
        orders = [Order(items[0], output)]
    elif output.is_file() or name.endswith(_OTHER_FILES):
        raise InputError(f"{output}: give a folder, or a file that ends in {', '.join(MASK_SUFFIXES)}")
    else:
        places = [i["case"] if series_of(i) else ensure_tuple(i["image"])[0] for i in items]
        orders = [Order(item, mask_path(output, place)) for item, place in zip(items, places, strict=True)]
    inputs = {Path(f).resolve() for item in items for f in _files(item)}
    for order in orders:
        for file in (order.mask, *map(order.beside, beside)):
            if file.resolve() in inputs:
                raise InputError(f"{file}: is one of the images, which would be replaced; choose another output")
            if file.is_dir():
                raise InputError(f"{file}: is a folder; choose another output")
    return orders


def _files(item: dict[str, Any]) -> Sequence[str]:
    return [file for s in series_of(item) for file in s.files] or ensure_tuple(item["image"])


def check_extras(orders: Sequence[Order], extras: Extras) -> None:
    """Make sure that the requested DICOM objects can be written, as far as the images' headers tell.

    Raises:
        InputError: When a package is missing, an image is not a DICOM series, or a storage does not exist.
    """
    if extras.dicom_seg_storage is not None and extras.dicom_seg_storage not in STORAGES:
        raise InputError(f"--dicom_seg_storage {extras.dicom_seg_storage}: should be one of {', '.join(STORAGES)}")
    for setting, check in (("dicom_seg", check_dicom_seg), ("rtstruct", check_rtstruct)):
        if not getattr(extras, setting):
            continue
        check()
        if others := [order.case for order in orders if not order.series]:
            raise InputError(f"--{setting}: refers to DICOM images, but {', '.join(others[:5])} is no DICOM series")
    for order in orders:
        if extras.rtstruct and order.series[0].slices[0].frame is not None:
            raise InputError(
                f"--rtstruct: refers to one file a slice, but {order.series[0]} is one file of many frames"
            )
        if not order.mask.name.lower().endswith(NIFTI) and any(is_tilted(series_affine(s)) for s in order.series):
            raise InputError(
                f"{order.mask}: the gantry of {order.series[0]} was tilted, and only NIfTI has a place for slices that "
                "are not at right angles; give a name that ends in .nii.gz"
            )


def warn_of_modalities(orders: Sequence[Order], modalities: Sequence[str]) -> None:
    """Warn of DICOM series whose modality is not one that the bundle was made for."""
    for one in (series for order in orders for series in order.series):
        modality = one.slices[0].modality
        if modalities and modality and modality not in modalities:
            logger.warning(
                "%s: its modality is %s, but the bundle was trained on %s; what it finds there may be wrong",
                one, modality, ", ".join(modalities),
            )  # fmt: skip


@dataclass(frozen=True)
class CheckOrder:
    """The check of one item: of its voxels, and of whether DICOM objects can refer to it.

    Args:
        images: The check of the voxels.
        extras: What is written beside the mask.
    """

    images: CheckImaged
    extras: Extras

    def __call__(self, item: Mapping[Any, Any]) -> None:
        """Raise an InputError if the item cannot be segmented, or DICOM objects cannot refer to it."""
        self.images(item)
        if self.extras.dicom_seg or self.extras.rtstruct:
            check_references(series_of(item)[0])
