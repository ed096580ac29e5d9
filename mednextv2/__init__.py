"""MedNeXt-v2 for 3D medical image segmentation, as MONAI bundles around a thin package."""

__version__ = "0.1.0"
