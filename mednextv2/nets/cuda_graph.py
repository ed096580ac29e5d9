"""Recording of a network's passes as CUDA graphs: one call starts all kernels, however slow the processor is."""

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mednextv2.nets.cuda_graph_passes import Place, RecordedPass, RecordedStep
from mednextv2.nets.metatensor import plain_tensor
from mednextv2.ops import implementations

logger = logging.getLogger(__name__)

_MOST = 4  # most recordings: each takes memory, and the time of two passes
_LOCK = threading.RLock()  # a recording has one buffer for its input, so threads that share a network take turns


class CudaGraphs:
    """Runs a network, and replays its passes as CUDA graphs when an input shape is repeated.

    The first pass with inputs of a given shape, type and mode runs normally, which compiles what has to be compiled.
    The second is recorded; with gradients, the backward pass is recorded with it. From then on, one call starts all
    kernels of a pass. Weights that change in place, as in a training, need no new recording.

    These passes cannot be replayed and run normally: inputs that are not on a CUDA device or need a gradient
    themselves, more than four shapes, parameters that already have gradients (accumulation, or
    `zero_grad(set_to_none=False)`), a pass while another one still waits for its backward pass, and a network that is
    being compiled or exported. If recording fails, or a normal pass finds no memory beside the recordings, one warning
    is logged, nothing more is recorded, and the network runs normally. A replay calls no forward hooks.

    Without gradients, the results belong to the caller. With gradients, they and the parameters' gradients are valid
    until the next pass.

    Args:
        enabled: Whether passes are recorded; if False, the network always runs normally.

    Source:
        PyTorch's notes on CUDA semantics, section CUDA graphs. `torch.cuda.make_graphed_callables` does the same for
        one shape, and captures in a mode that other threads break, such as a data loader's thread for pinned memory.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._failed = False
        self._met: set[_Key] = set()
        self._recordings: dict[_Key, RecordedPass | RecordedStep] = {}
        self._places: dict[torch.device, Place] = {}

    def __call__(self, network: nn.Module, x: Tensor, run: Callable[[Tensor], Any] | None = None) -> Any:
        """Return the network's output.

        Args:
            network: The network. Its parameters may change in place, but must not be replaced: see :meth:`clear`.
            x: The input of the network.
            run: The function that computes the output, if that is not the network's own call. It is recorded only
                without gradients.
        """
        x = plain_tensor(x)
        if self._fits(x):
            with _LOCK:
                recording = self._recording(network, x, run)
                if recording is not None:
                    return recording(x)
        usual = network if run is None else run
        if not self._recordings:
            return usual(x)
        with contextlib.suppress(torch.OutOfMemoryError):
            return usual(x)
        self._give_up()  # only here has the exception released its memory
        return usual(x)

    def clear(self) -> None:
        """Forget all recordings, because parameters were replaced."""
        self._met.clear()
        self._recordings.clear()
        self._places.clear()

    def _give_up(self) -> None:
        """Stop recording, since a normal pass cannot use the memory that recordings hold."""
        with _LOCK:
            self._failed = True
            self.clear()
        torch.cuda.empty_cache()
        logger.warning(
            "The GPU's memory is too small for CUDA graphs beside passes of other shapes; the network runs without "
            "graphs from now on"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"enabled": self.enabled}  # a copy records its own passes

    def __setstate__(self, state: dict[str, Any]) -> None:
        CudaGraphs.__init__(self, **state)

    def _fits(self, x: Tensor) -> bool:
        return (
            self.enabled
            and _on_gpu(x)
            and not x.requires_grad
            and not (torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing())
            and not torch.cuda.is_current_stream_capturing()
        )

    def _recording(self, network: nn.Module, x: Tensor, run: Callable | None) -> RecordedPass | RecordedStep | None:
        """Return the recording to replay, which may be made now, or None."""
        key = _Key.of(network, x)
        if any(recording.waiting() for recording in self._recordings.values()) or (key.gradients and run is not None):
            return None
        if key not in self._recordings:
            if key in self._met and len(self._recordings) < _MOST and not self._failed:
                self._record(key, network, x, run)
            self._met.add(key)
        recording = self._recordings.get(key)
        return recording if recording is not None and recording.ready() else None

    def _record(self, key: "_Key", network: nn.Module, x: Tensor, run: Callable | None) -> None:
        reason = ""
        try:
            if isinstance(network, nn.parallel.DistributedDataParallel):
                raise RuntimeError("processes exchange gradients during the backward pass")
            if x.device not in self._places:
                self._places[x.device] = Place(x.device)
            place = self._places[x.device]
            with place.in_use(), torch.autocast(x.device.type, enabled=False):  # the backward pass is outside it
                if key.gradients:
                    self._recordings[key] = RecordedStep(network, x, place, key.autocast)
                else:
                    self._recordings[key] = RecordedPass(run or network, x, place, key.autocast)
        except Exception as e:  # errors of the network itself are raised again by its normal run
            reason = _first_words(e)
        if reason:  # only here has the exception released its memory
            self._failed = True
            logger.warning(
                "The network could not be recorded as a CUDA graph (%s); it runs without, which is slower where the "
                "processor is slow", reason,
            )  # fmt: skip


class _Key(NamedTuple):
    """The conditions under which a recording is valid."""

    network: int
    weights: int  # address of the first parameter, which changes with its device or type
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    training: bool
    gradients: tuple[bool, ...]  # which parameters need a gradient; empty if none does
    inference: bool
    autocast: tuple[bool, torch.dtype]
    operators: str

    @classmethod
    def of(cls, network: nn.Module, x: Tensor) -> "_Key":
        first = next(network.parameters(), None)
        kind = x.device.type
        return cls(
            id(network),
            0 if first is None else first.data_ptr(),
            x.shape,
            x.dtype,
            x.device,
            network.training,
            _wanted_gradients(network),
            torch.is_inference_mode_enabled(),
            (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)),
            implementations.wanted(),
        )


def _wanted_gradients(network: nn.Module) -> tuple[bool, ...]:
    wanted = tuple(p.requires_grad for p in network.parameters())
    return wanted if torch.is_grad_enabled() and any(wanted) else ()


def _on_gpu(x: Tensor) -> bool:
    return x.device.type == "cuda"


def _first_words(error: BaseException) -> str:
    """Return the first line of the original error, of which a failed capture is only the consequence."""
    while error.__context__ is not None:
        error = error.__context__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
