"""MedNeXt-v2 for 3D medical image segmentation, as MONAI bundles around a thin package."""

from typing import Any

from mednextv2.version import __version__

_LATER = ("Predictor", "Segmentation", "predict")
__all__ = ["Predictor", "Segmentation", "__version__", "predict"]


def __getattr__(name: str) -> Any:
    """Import what segments images when it is asked for: it needs PyTorch and MONAI, which take seconds."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mednextv2.prediction import predict

    return getattr(predict, name)
