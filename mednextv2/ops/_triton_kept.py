"""Weights in the form that the kernels take, kept between the calls of a network in inference."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

T = TypeVar("T")

_KEPT: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by the weight itself, so that nothing outlives the network


def kept(name: str, owner: Tensor, sources: tuple[Tensor, ...], make: Callable[[], T], wanted: bool) -> T:
    """Return what `make` makes of `sources`, from an earlier call where none of them was changed since.

    Args:
        name: Of the result, among those of one owner.
        owner: A parameter of the network; when it goes, the result goes.
        sources: The parameters that the result depends on; views of them are as good.
        make: Computes it.
        wanted: Whether it may be kept. While a CUDA graph is recorded, it never is: what a graph computes from weights
            must be computed again when the graph is played, since the weights may have been changed in place.
    """
    recording = owner.is_cuda and torch.cuda.is_current_stream_capturing()
    if not wanted or recording or any(source.is_inference() for source in sources):  # these count no changes
        return make()
    state = tuple((source.data_ptr(), source._version) for source in sources)
    results = _KEPT.setdefault(owner, {})
    if results.get(name, (None, None))[0] != state:
        results[name] = (state, make())
    return results[name][1]
