"""Transforms of images and label maps where MONAI's differ from nnU-Net's recipe, or are slower."""

from mednextv2.transforms.intensity import RandBlurChannelsd, RandGammad, RandLowResolutiond, RandNoised
from mednextv2.transforms.load import LoadVolumed, PickChanneld
from mednextv2.transforms.normalize import MarkOutsided, MaskOutsided, NormalizeChannelsd, is_content
from mednextv2.transforms.resample import Resampled
from mednextv2.transforms.spatial import RandPlacement, flat_axis

__all__ = [
    "LoadVolumed",
    "MarkOutsided",
    "MaskOutsided",
    "NormalizeChannelsd",
    "PickChanneld",
    "RandBlurChannelsd",
    "RandGammad",
    "RandLowResolutiond",
    "RandNoised",
    "RandPlacement",
    "Resampled",
    "flat_axis",
    "is_content",
]
