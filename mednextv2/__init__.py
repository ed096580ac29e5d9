"""MedNeXt-v2 for 3D medical image segmentation, as MONAI bundles around a thin package."""

from importlib import import_module
from typing import Any

from mednextv2.version import __version__

_LATER = {
    "Predictor": "mednextv2.predictor",
    "Segmentation": "mednextv2.segmentation",
    "keep_freed_memory": "mednextv2.allocator",
    "predict": "mednextv2.predictor",
}
__all__ = ["Predictor", "Segmentation", "__version__", "keep_freed_memory", "predict"]


def __getattr__(name: str) -> Any:
    """Import the classes that segment images only when needed: importing PyTorch and MONAI takes seconds."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_LATER[name]), name)
    except KeyError as e:  # raised by MONAI's import for a user whom the system does not know
        if "getpwuid" not in str(e):
            raise
        raise ImportError("the user has no name; set the environment variable USER to any name and start again") from e
