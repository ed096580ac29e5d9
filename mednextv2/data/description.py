"""What a transform does, as plain data: two transforms with the same description give the same result."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DEPTH = 30
_PLAIN = (bool, int, float, str, type(None))


def describe(value: Any, depth: int = 0) -> Any:
    """Describe a transform, its parts and its arguments as plain data for JSON that is equal in every process.

    Args:
        value: A transform, or anything that can be an attribute of one.
        depth: How deeply it is nested in another transform.

    Returns:
        Numbers, texts, lists and dictionaries. An object is described by the name of its class and its attributes,
        except for random number generators.

    Raises:
        ValueError: If the parts are nested endlessly.
    """
    if depth > _DEPTH:
        raise ValueError("its parts lie in each other without end")
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(entry, depth + 1) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return [str(value.dtype), describe(value.tolist(), depth + 1)]
    if isinstance(value, functools.partial):
        return ["partial", *(describe(part, depth + 1) for part in (value.func, value.args, value.keywords))]
    if isinstance(value, (np.dtype, torch.dtype, torch.device, Path)):
        return str(value)
    if isinstance(value, (np.random.RandomState, np.random.Generator, torch.Generator)):
        return "random numbers"
    if callable(value) and hasattr(value, "__qualname__"):  # a function or a class
        return f"{value.__module__}.{value.__qualname__}"
    attributes = getattr(value, "__dict__", {})
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return {"class": kind, **{key: describe(attributes[key], depth + 1) for key in sorted(attributes)}}
