"""Weights in the form that the GPU kernels need, kept while the caller promises that no weights change.

A change of weights cannot be detected reliably: fused optimizers, `tensor.data` and CUDA graphs do not count it in the
tensor's version. Nothing is therefore kept without such a promise.
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
    """Promise that this thread changes no weights of networks that it runs; results from them are kept meanwhile.

    An example is the prediction of the windows of one image. The results are freed at the end. Within the block, do not
    run networks that were compiled with `mode="reduce-overhead"`: PyTorch requires all memory that these use to be
    returned.

    Args:
        held: Whether the promise is made.
    """
    before = getattr(_HELD, "results", None)
    if held and before is None:
        _HELD.results = WeakIdKeyDictionary()  # the keys are weights, so that no result outlives the network
    try:
        yield
    finally:
        _HELD.results = before


def holding() -> bool:
    """Return whether this thread has promised that no weights change."""
    return getattr(_HELD, "results", None) is not None


def kept(name: str, owner: Tensor, sources: tuple[Tensor, ...], make: Callable[[], T], wanted: bool) -> T:
    """Return what `make` computes from `sources`, or its earlier result within the same :func:`hold_weights`.

    Args:
        name: The name of the result, among those of one owner.
        owner: A parameter of the network; when it is deleted, the result is, too.
        sources: The parameters that the result depends on; views of them are allowed.
        make: The function that computes the result.
        wanted: Whether the result may be kept. While a CUDA graph is recorded, it never is: whatever a graph computes
            from weights must be computed again when the graph is replayed, since the weights may have been changed in
            place.
    """
    held = getattr(_HELD, "results", None)
    if held is None or not wanted or (owner.is_cuda and torch.cuda.is_current_stream_capturing()):
        return make()
    # another stream could read the result before it is complete
    stream = torch.cuda.current_stream(owner.device).cuda_stream if owner.is_cuda else 0
    state = (stream, *(source.data_ptr() for source in sources))
    results = held.setdefault(owner, {})
    known, result = results.get(name, (None, None))
    if known != state:
        result = make()
        results[name] = (state, result)
    return result
