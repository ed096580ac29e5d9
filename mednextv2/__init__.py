"""MedNeXt-v2 for 3D medical image segmentation, as MONAI bundles around a thin package."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Predictor", "Segmentation", "predict"]


def __getattr__(name: str) -> Any:
    """Import what segments images when it is asked for: it needs PyTorch and MONAI, which take seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mednextv2.inference import predict

    return getattr(predict, name)
