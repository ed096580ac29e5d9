"""Pixels of DICOM files as stored: without compression and RLE by pydicom, every other compression by ITK's GDCM."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    generate_uid,
)  # fmt: skip

from mednextv2.errors import InputError
from mednextv2.images.dicom_file import Slice, quiet_pydicom
from mednextv2.images.itk_loading import ITK_TURN, load_itk

_DESCRIPTION = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


def read_pixels(slices: Sequence[Slice]) -> Iterator[np.ndarray]:
    """Give the rescaled pixels of slices, file by file, whatever photometric interpretation they are displayed with.

    Args:
        slices: Those of one file one after the other, so that it is read once.

    Yields:
        `(rows, columns)`, float32.

    Raises:
        InputError: When they cannot be decoded.

    Source:
        DICOM PS3.3, C.11.1 (rescaling comes before, and does not depend on, photometric interpretation).
    """
    name, image = "", Dataset()
    for s in slices:
        try:
            with quiet_pydicom():
                if s.file != name:
                    name, image = s.file, dcmread(s.file, force=True)
                stored = _decode(image, s.frame or 0)
        except Exception as e:  # pydicom, ITK and the decoders that they call have many kinds
            raise InputError(f"{s.file}: its pixels cannot be decoded; copy or export the series again") from e
        yield (stored * s.rescale[0] + s.rescale[1]).astype(np.float32)


def _decode(image: Dataset, frame: int) -> np.ndarray:
    syntax = _transfer_syntax(image)
    image.PhotometricInterpretation = "MONOCHROME2"  # GDCM inverts the values of MONOCHROME1
    if not syntax.is_encapsulated or syntax == RLELossless:
        return get_decoder(syntax).as_array(image, index=frame, raw=True)[0]
    return _decode_by_itk(image, syntax, frame)


def _transfer_syntax(image: Dataset) -> UID:
    if found := getattr(image, "file_meta", Dataset()).get("TransferSyntaxUID"):
        return UID(found)
    implicit_vr, little_endian = image.original_encoding  # as pydicom found out
    if not little_endian:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit_vr else ExplicitVRLittleEndian


def _decode_by_itk(image: Dataset, syntax: UID, frame: int) -> np.ndarray:
    """Let GDCM decode a file that has the pixels and nothing else, which neither refuses nor changes any."""
    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID = MRImageStorage
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID = generate_uid()
    bare.SamplesPerPixel, bare.PhotometricInterpretation = 1, "MONOCHROME2"
    for keyword in _DESCRIPTION:
        setattr(bare, keyword, image.get(keyword, 0))
    frames = int(image.get("NumberOfFrames") or 1)
    bare.PixelData = encapsulate([get_frame(image.PixelData, frame, number_of_frames=frames)])
    bare["PixelData"].VR = "OB"
    itk = load_itk()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pixels.dcm"
        bare.save_as(file, enforce_file_format=True)
        with ITK_TURN:
            array: Any = itk.array_from_image(itk.imread(str(file), itk.F))
    return array.reshape(array.shape[-2:])
