"""A stand-in for CUDA graphs on the CPU: captured calls are written down, and done again on the same memory."""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mednextv2.nets import cuda_graph


class StandIn:
    """Takes the place of `torch.cuda` where graphs are recorded.

    Attributes:
        captured: Number of captures that were begun.
        replayed: Number of replays.
        undone: What was told to the allocator after a failure.
        warm_ups: Number of times that something ran on the side stream before a capture.
        operations: Number of operations that were captured.
        failing: After how many of them which exception is raised.
    """

    def __init__(self, monkeypatch):
        self.captured, self.replayed, self.warm_ups, self.undone = 0, 0, 0, []
        self.failing, self.operations = None, 0
        self.main = self.stream = Stream(self)
        self.capturing = False
        for name in ("graph", "CUDAGraph", "Stream", "graph_pool_handle"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, f"make_{name}"))
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.stream)
        monkeypatch.setattr(torch.cuda, "set_stream", self.set_stream)
        monkeypatch.setattr(torch.cuda, "stream", self.on_stream)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        monkeypatch.setattr(torch.cuda, "default_generators", [Generator(self)])
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_allocate)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda *where: self.undone.append(("release", *where)))
        monkeypatch.setattr(cuda_graph, "_on_gpu", lambda x: True)

    def make_graph(self, graph, pool, stream, capture_error_mode):
        assert pool == "pool"
        assert capture_error_mode == "thread_local"  # others break when a data loader takes pinned memory
        return self._capture(graph, stream)

    @contextlib.contextmanager
    def _capture(self, graph, stream):
        before, self.stream, self.capturing = self.stream, stream, True
        self.captured += 1
        try:
            with graph:
                yield
        finally:
            self.capturing = False
        graph.check()
        self.stream = before  # as in PyTorch: not where the capture cannot be ended

    def make_CUDAGraph(self):  # noqa: N802
        return Graph(self)

    def make_Stream(self):  # noqa: N802
        return Stream(self)

    def make_graph_pool_handle(self):
        return "pool"

    def set_stream(self, stream):
        self.stream = stream

    @contextlib.contextmanager
    def on_stream(self, stream):
        before, self.stream = self.stream, stream
        self.warm_ups += 1
        yield
        self.stream = before

    def end_allocate(self, index, pool):
        if self.failing is None:
            raise RuntimeError("not currently recording to mempool_id")
        self.undone.append(("end", index, pool))


class Stream:
    def __init__(self, owner):
        self.owner = owner

    def wait_stream(self, other):
        assert isinstance(other, Stream)


class Generator:
    def __init__(self, owner):
        self.owner = owner

    def clone_state(self):
        return "state"

    def graphsafe_set_state(self, state):
        self.owner.undone.append(("random numbers", state))


class Graph(TorchDispatchMode):
    """What happened in a capture."""

    def __init__(self, owner):
        super().__init__()
        self.owner, self.calls, self.broken = owner, [], False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        failing = self.owner.failing
        self.owner.operations += 1
        if failing and self.owner.operations > failing[0]:
            self.broken = True
            raise failing[1]
        out = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, out))
        return out

    def check(self):
        if self.broken:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    @torch.no_grad()
    def replay(self):
        self.owner.replayed += 1
        for function, args, kwargs, out in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.untyped_storage()._cdata != new.untyped_storage()._cdata:
                    old.copy_(new)
