"""Images and masks on disk: NIfTI, NRRD, MHA, DICOM series and DICOM SEG, read and written in their geometry."""

from mednextv2.images.dicom import DicomSeries, choose_series, find_series, read_series
from mednextv2.images.volume import read_volume
from mednextv2.images.writer import MaskWriter, SaveMaskd

__all__ = ["DicomSeries", "MaskWriter", "SaveMaskd", "choose_series", "find_series", "read_series", "read_volume"]
