"""Data sets: reading, checking and splitting them, and phantoms to try things on."""

from mednextv2.data.cases import Case, DatasetFolder
from mednextv2.data.check import check_case, check_dataset
from mednextv2.data.dataset import read_dataset
from mednextv2.data.download import fetch_msd_task
from mednextv2.data.given_cases import choose_cases
from mednextv2.data.image_check import check_images
from mednextv2.data.image_folders import describe_sources, read_image_folders
from mednextv2.data.image_patches import FixedPatches, ImagePatches
from mednextv2.data.image_split import ImageSplit, held_out, split_images
from mednextv2.data.partial_labels import PartialLabels, prepare_patches
from mednextv2.data.patches import AugmentBatch, PatchDataset, PatchSampler
from mednextv2.data.phantom import make_phantom_dataset, make_task_phantom
from mednextv2.data.prepared_case import PreparedCase
from mednextv2.data.prepared_store import CaseStore
from mednextv2.data.splits import Split, kfold_indices, split_dataset
from mednextv2.images.dicom import DicomSeries, choose_series, find_series, read_series
from mednextv2.images.volume import read_volume
from mednextv2.label_scheme import LabelScheme, Region

__all__ = [
    "AugmentBatch",
    "Case",
    "CaseStore",
    "DatasetFolder",
    "DicomSeries",
    "FixedPatches",
    "ImagePatches",
    "ImageSplit",
    "LabelScheme",
    "PartialLabels",
    "PatchDataset",
    "PatchSampler",
    "PreparedCase",
    "Region",
    "Split",
    "check_case",
    "check_dataset",
    "check_images",
    "choose_cases",
    "choose_series",
    "describe_sources",
    "fetch_msd_task",
    "find_series",
    "held_out",
    "kfold_indices",
    "make_phantom_dataset",
    "make_task_phantom",
    "prepare_patches",
    "read_dataset",
    "read_image_folders",
    "read_series",
    "read_volume",
    "split_dataset",
    "split_images",
]
