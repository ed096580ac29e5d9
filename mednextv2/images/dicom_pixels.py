"""Pixels of DICOM files as stored: without compression and RLE by pydicom, every other compression by ITK's GDCM."""

import logging
import re
import struct
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_modality_lut, get_decoder
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
from mednextv2.warning_filters import without_warnings

_DESCRIPTION = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_DECODERS = "pydicom.pixels.decoders.base"  # a logger that tells errors which are raised, too
_JPEG, _JPEG_LS, _NO_FRAMES = 0xFFC0, 0xFFF7, (0xFFC4, 0xFFC8, 0xFFCC)  # markers at the start of an image's frame
_JPEG_2000 = b"\xff\x4f\xff\x51"  # start of a code stream, and its size
_MOST_RLE = 64  # bytes that one byte can stand for: two for a run of 128


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
            with quiet_pydicom(), without_warnings(logger=_DECODERS, level=logging.ERROR):
                if s.file != name:
                    name, image = s.file, dcmread(s.file, force=True)
                stored = _decode(image, s.frame or 0)
                if image.get("ModalityLUTSequence"):  # a table in place of slope and intercept
                    rescaled = apply_modality_lut(stored.astype(np.int64), image)
                else:
                    rescaled = stored * s.rescale[0] + s.rescale[1]
        except Exception as e:  # pydicom, ITK and the decoders that they call have many kinds
            raise InputError(
                f"{s.file}: its pixels cannot be decoded, or are others than its header says; copy or export the "
                "series again, if possible without compression"
            ) from e
        yield rescaled.astype(np.float32)


def _decode(image: Dataset, frame: int) -> np.ndarray:
    syntax = _transfer_syntax(image)
    image.PhotometricInterpretation = "MONOCHROME2"  # GDCM inverts the values of MONOCHROME1
    if image.get("HighBit", 0) >= image.BitsStored:
        raise ValueError("pixels that are shifted to the left are no DICOM any more")
    if syntax.is_encapsulated and syntax != RLELossless:
        return _decode_by_itk(image, syntax, frame)
    if syntax == RLELossless and len(_frame(image, frame)) * _MOST_RLE < image.Rows * image.Columns:
        raise ValueError("fewer pixels than the header says, for which pydicom would fill the memory with zeros")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pixels = get_decoder(syntax).as_array(image, index=frame, raw=True)[0]
    for found, expected in re.findall(
        r"RLE segment contains .* (\d+) vs. (\d+)", "\n".join(str(w.message) for w in said)
    ):
        if int(found) - int(expected) >= min(image.Rows, image.Columns):
            raise ValueError("more pixels than the header says, not padding alone")
    return pixels


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
    coded = _frame(image, frame)
    if _coded_size(coded) not in (
        None,
        (image.Columns, image.Rows),
    ):  # GDCM would cut off what is more, or fill the memory
        raise ValueError("pixels of another size than the header says")
    bare.PixelData = encapsulate([coded])
    bare["PixelData"].VR = "OB"
    itk = load_itk()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pixels.dcm"
        bare.save_as(file, enforce_file_format=True)
        with ITK_TURN:
            array: Any = itk.array_from_image(itk.imread(str(file), itk.F))
    return array.reshape(array.shape[-2:])


def _frame(image: Dataset, frame: int) -> bytes:
    return get_frame(image.PixelData, frame, number_of_frames=int(image.get("NumberOfFrames") or 1))


def _coded_size(coded: bytes) -> tuple[int, int] | None:
    """Return the columns and rows of a JPEG, JPEG-LS or JPEG 2000 code stream; None where it does not say them.

    Source:
        ITU-T T.81, B.1.1 and B.2.2; T.87, C.2.2; T.800, A.5.1.
    """
    place = -1 if coded.startswith(b"\xff\xd8") else coded.find(_JPEG_2000)
    if 0 <= place < len(coded) - 24:
        right, bottom, left, top = struct.unpack_from(">4I", coded, place + 8)
        return right - left, bottom - top
    place = 2
    while coded.startswith(b"\xff\xd8") and place + 9 < len(coded):
        marker, length, _, rows, columns = struct.unpack_from(">HHBHH", coded, place)
        if marker == _JPEG_LS or (marker & 0xFFF0 == _JPEG and marker not in _NO_FRAMES):
            return (columns, rows) if rows else None
        place += 2 + length
    return None
