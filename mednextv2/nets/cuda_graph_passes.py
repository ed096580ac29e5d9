"""The parts of one recorded pass of a network: its graphs, and the memory that they read and write."""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Autocast = tuple[bool, torch.dtype]


class Place:
    """The stream and the memory that the recordings of one device share.

    Memory that is free at the end of one recording is used by the next, so they must not be replayed at the same time.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Make the device the current one, and restore its stream after a failure."""
        with torch.cuda.device(self.device):
            before = torch.cuda.current_stream()
            try:
                yield
            except BaseException:
                torch.cuda.set_stream(before)  # a failed capture leaves its own stream set
                self._recover()
                raise

    def warm_up(self, run: Callable[[], Any]) -> None:
        """Run once on the recordings' stream, so that nothing has to be set up during the capture."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            run()
        torch.cuda.current_stream().wait_stream(self.stream)

    def capture(self, run: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
        """Return a graph of what `run` starts, and the result of `run`, to whose memory the graph writes.

        Only this thread must avoid calls that break a capture; a data loader's thread may allocate pinned memory.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            result = run()
        return graph, result

    def _recover(self) -> None:
        """Undo what an unfinished capture has left in the allocator and the random number generators."""
        index = torch.cuda.current_device()
        with contextlib.suppress(RuntimeError, AttributeError):  # the first call raises if there is nothing to undo
            torch._C._cuda_endAllocateToPool(index, self.pool)
            torch._C._cuda_releasePool(index, self.pool)
            generator = torch.cuda.default_generators[index]
            generator.graphsafe_set_state(generator.clone_state())


class RecordedPass:
    """A recorded pass without gradients.

    Args:
        run: The function that is recorded.
        x: An input.
        place: The stream and memory for the recording.
        autocast: Whether autocast is on, and its type.
    """

    def __init__(self, run: Callable[[Tensor], Any], x: Tensor, place: Place, autocast: Autocast) -> None:
        self._x = x.clone()
        call = _under_autocast(lambda: run(self._x), x.device, autocast)
        place.warm_up(call)
        self._graph, self._output = place.capture(call)

    def __call__(self, x: Tensor) -> Any:
        """Return copies of the outputs."""
        self._x.copy_(x)
        self._graph.replay()
        if isinstance(self._output, Tensor):
            return self._output.clone()
        return [output.clone() for output in self._output]

    def ready(self) -> bool:
        """Tell whether the pass can be replayed."""
        return True

    def waiting(self) -> bool:
        """Tell whether a backward pass is still to come."""
        return False


class RecordedStep:
    """A recorded forward and backward pass of a network, which is one operation for autograd.

    Args:
        network: The network; its trainable parameters get gradients.
        x: An input.
        place: The stream and memory for the recording.
        autocast: Whether autocast is on, and its type, in the forward pass.
    """

    def __init__(self, network: nn.Module, x: Tensor, place: Place, autocast: Autocast) -> None:
        self._x = x.clone()
        named = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._parameters = list(named.values())
        # Separate tensors on the same memory: autograd ties a parameter to the stream of its first use for as long as
        # any of its graphs is alive, and that stream must not take part in a capture.
        own = {name: p.detach().requires_grad_() for name, p in named.items()}
        forward = _under_autocast(
            lambda: torch.func.functional_call(network, own, (self._x,)), x.device, autocast
        )  # fmt: skip
        inputs = list(own.values())
        place.warm_up(lambda: _backward(_listed(forward()), inputs))
        self._forward, output = place.capture(forward)
        outputs = _listed(output)
        self._single = isinstance(output, Tensor)
        self._output_gradients = [torch.empty_like(o) if o.requires_grad else None for o in outputs]
        self._backward, self._gradients = place.capture(lambda: _backward(outputs, inputs, self._output_gradients))
        self._outputs = [output.detach() for output in outputs]
        self._ticket: Callable[[], _Ticket | None] = lambda: None

    def __call__(self, x: Tensor) -> Any:
        """Return the outputs, in memory that the next pass overwrites."""
        outputs = _Replay.apply(self, x, *self._parameters)
        return outputs[0] if self._single else list(outputs)

    def ready(self) -> bool:
        """Tell whether the step can be replayed: old gradients would be in the memory of the new ones."""
        return all(p.grad is None for p in self._parameters)

    def waiting(self) -> bool:
        """Tell whether a backward pass is still to come, for a forward pass that autograd remembers."""
        return self._ticket() is not None

    def replay_forward(self, x: Tensor) -> tuple["_Ticket", tuple[Tensor, ...]]:
        """Replay the forward pass; return the ticket for its backward pass, and the outputs."""
        self._x.copy_(x)
        self._forward.replay()
        ticket = _Ticket()
        self._ticket = weakref.ref(ticket)
        return ticket, tuple(output.detach() for output in self._outputs)

    def replay_backward(self, ticket: "_Ticket", gradients: Sequence[Tensor]) -> list[Tensor | None]:
        """Replay the backward pass; return the parameters' gradients."""
        if self._ticket() is not ticket:
            raise RuntimeError(
                "The backward pass of a CUDA graph can be replayed once only; cuda_graph=False allows more"
            )
        self._ticket = lambda: None
        for own, gradient in zip(self._output_gradients, gradients, strict=True):
            if own is not None:
                own.copy_(gradient)
        self._backward.replay()
        return [None if g is None else g.detach() for g in self._gradients]


class _Ticket:
    """An object that lives as long as autograd remembers a forward pass."""


class _Replay(Function):
    @staticmethod
    def forward(ctx: Any, step: RecordedStep, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.step = step
        ctx.ticket, outputs = step.replay_forward(x)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.step.replay_backward(ctx.ticket, gradients)


def _listed(output: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


def _backward(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], gradients: Sequence[Tensor | None] | None = None
) -> tuple[Tensor | None, ...]:
    gradients = [torch.empty_like(o) for o in outputs] if gradients is None else gradients
    pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
    return torch.autograd.grad([o for o, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True)


def _under_autocast(run: Callable[[], Any], device: torch.device, autocast: Autocast) -> Callable[[], Any]:
    """Run under the outer autocast settings, but without its cache, whose copies of weights would be recorded."""
    enabled, dtype = autocast

    def call() -> Any:
        with torch.autocast(device.type, dtype=dtype, enabled=enabled, cache_enabled=False):
            return run()

    return call
