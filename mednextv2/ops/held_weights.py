"""Weights in the form that the GPU kernels take, kept while the caller promises that no weights change.

A change of weights cannot be noticed reliably: fused optimizers, `tensor.data` and CUDA graphs do not count it in the
tensor's version. So nothing is kept without such a promise.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

T = TypeVar("T")

_HELD = threading.local()


@contextlib.contextmanager
def hold_weights(held: bool = True) -> Iterator[None]:
    """Promise that this thread changes no weights of networks that it runs; what is made of them is kept meanwhile.

    The windows of one image are such a case. What was kept is freed at the end. Do not run networks within that were
    compiled with `mode="reduce-overhead"`: PyTorch wants all memory back that these take.

    Args:
        held: False: promise nothing.
    """
    before = getattr(_HELD, "results", None)
    if held and before is None:
        _HELD.results = WeakIdKeyDictionary()  # by a weight itself, so that nothing outlives the network
    try:
        yield
    finally:
        _HELD.results = before


def holding() -> bool:
    """Whether this thread has promised that no weights change."""
    return getattr(_HELD, "results", None) is not None


def kept(name: str, owner: Tensor, sources: tuple[Tensor, ...], make: Callable[[], T], wanted: bool) -> T:
    """Return what `make` makes of `sources`, from an earlier call within the same :func:`hold_weights`.

    Args:
        name: Of the result, among those of one owner.
        owner: A parameter of the network; when it goes, the result goes.
        sources: The parameters that the result depends on; views of them are as good.
        make: Computes it.
        wanted: Whether it may be kept. While a CUDA graph is recorded, it never is: what a graph computes from weights
            must be computed again when the graph is played, since the weights may have been changed in place.
    """
    held = getattr(_HELD, "results", None)
    if held is None or not wanted or (owner.is_cuda and torch.cuda.is_current_stream_capturing()):
        return make()
    # another stream could read the result before it is there
    stream = torch.cuda.current_stream(owner.device).cuda_stream if owner.is_cuda else 0
    state = (stream, *(source.data_ptr() for source in sources))
    results = held.setdefault(owner, {})
    known, result = results.get(name, (None, None))
    if known != state:
        result = make()
        results[name] = (state, result)
    return result
