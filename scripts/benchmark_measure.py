"""Measurements that `benchmark.py` runs in separate processes: times, peak memory, and the hardware's limit."""

import contextlib
import gc
import importlib
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from benchmark_models import (
    CLASSES,
    IN_CHANNELS,
    Case,
    Stepper,
    build,
    recipe_loss,
    recipe_optimizer,
    synchronize,
    trim,
)
from benchmark_onnx import OnnxStepper, export
from benchmark_report import one_line, scrub
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mednextv2 import ops
from mednextv2.allocator import keep_freed_memory
from mednextv2.nets import create_mednext
from mednextv2.nets import explain as explain_network
from mednextv2.nets.blocks import MedNeXtBlock

# --- memory ----------------------------------------------------------------------------------------------------------


class PeakMemory:
    """The peak memory of this process in bytes.

    On CUDA, it is the memory that PyTorch's allocator had given out. On a CPU, it is resident memory: the kernel keeps
    the highest value (VmHWM of /proc/self/status) and starts again from the present size when 5 is written to
    /proc/self/clear_refs. Unlike with a sampling thread, no peak between two samples is missed, and no time is spent.
    If that file cannot be written, it is the highest value since the start of the process, which may be too high.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            self.method = "torch.cuda.max_memory_allocated"
        else:
            self.method = "VmHWM, reset" if self.reset() else "highest since the start of the process"

    def reset(self) -> bool:
        """Start again; return whether that is possible."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return True
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return False
        return True

    def now(self) -> int:
        """Return the present size."""
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else self._status("VmRSS")

    def peak(self) -> int:
        """Return the highest size since the last reset."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else self._status("VmHWM")

    def _status(self, field: str) -> int:
        if Path("/proc/self/status").exists():
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else highest * 1024


def measure_memory(stepper: Stepper) -> dict[str, Any]:
    """Run a warm-up and two steps with the default allocator; return the peak memory and the first call's seconds.

    The baseline is measured with the network and the batch in memory, before the first step; gradients and the
    optimizer's state are added to it. The peak is that of the two steps. Memory that `torch.compile` itself needs in
    the warm-up or leaves in the process is not counted (on a CPU, 50 to 200 MiB of Python objects, whatever the
    network's size).
    """
    load_lazy_code(stepper)
    memory = PeakMemory(stepper.device)
    gc.collect()
    trim()
    baseline = memory.now()
    first = stepper.seconds()
    stepper.rest()
    compiled = "compile" in stepper.case.parts
    kept = max(memory.now() - baseline - stepper.optimizer_bytes(), 0)
    left = kept if compiled and stepper.device.type == "cpu" else 0
    memory.reset()
    later = [stepper.seconds() for _ in range(2)]
    return {
        "memory": {
            "method": memory.method,
            "baseline_bytes": baseline,
            "peak_bytes": memory.peak(),
            "kept_after_warm_up_bytes": kept,  # libraries' caches and code; in eager rows, it counts as theirs
            "left_by_compiler_bytes": left,
            "peak_above_baseline_bytes": max(memory.peak() - baseline - left, 0),
        },
        "first_call_seconds": first,
        "compile_seconds": max(first - min(later), 0.0) if compiled else None,
        "parameters": stepper.parameters,
        "heads": stepper.heads,
        "equal_labels": stepper.equal_labels,
    }


def load_lazy_code(stepper: Stepper) -> None:
    """Run a toy network, so that libraries that are loaded at first use do not count towards any row's memory."""
    if "compile" in stepper.case.parts:
        importlib.import_module("torch._inductor.compile_fx")
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.GELU(), nn.Conv3d(4, CLASSES, 1)).to(stepper.device)
    x = torch.randn(1, 1, 8, 8, 8, device=stepper.device)
    with torch.autocast(stepper.device.type, torch.bfloat16, enabled=stepper.case.dtype == "bfloat16"):
        loss = recipe_loss()([net(x)], torch.ones_like(x))
    loss.backward()
    recipe_optimizer(net).step()


# --- the floor -------------------------------------------------------------------------------------------------------


def count_work(variant: str, kernel_size: int, what: str, batch: int, patch: tuple[int, ...]) -> dict[str, int]:
    """Count the work of our network for one step, without computing it.

    Multiply-accumulates are those of all convolutions in the plain definition, and a training has three times those of
    the forward pass. They are counted at the operators, since the network's fast paths do not call its convolution
    modules. The least bytes are those of the inputs and outputs of each block and of the parameters, each counted once,
    or three times in training.

    Returns:
        The counts `macs`, and `activations` and `parameters` in elements.
    """
    elements, blocks = [0], [0]

    def count(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        elements[0] += inputs[0].numel() + output.numel()
        blocks[0] += 1

    use = getattr(ops, "use", lambda _: contextlib.nullcontext())
    with FakeTensorMode(), use("reference"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        train = what == "train"
        net = create_mednext(
            variant,
            in_channels=IN_CHANNELS,
            out_channels=CLASSES,
            kernel_size=kernel_size,
            deep_supervision=train,
            activation_checkpointing=False,
        ).train(train)
        expected = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, MedNeXtBlock)]
        net(torch.empty(batch, IN_CHANNELS, *patch))
    if blocks[0] != len(expected):
        raise RuntimeError(f"{blocks[0]} of {len(expected)} blocks were counted")
    times = 3 if train else 1
    parameters = sum(p.numel() for p in net.parameters())
    return {
        "macs": times * counter.get_total_flops() // 2,
        "activations": times * elements[0],
        "parameters": times * parameters,
    }


def measure_rates(device: torch.device) -> dict[str, Any]:
    """Measure the multiply-accumulates per second of matrix products by dtype, and the bytes per second of a copy.

    On CUDA, a float32 product may use TF32 if convolutions may, which is PyTorch's default.
    """
    n = 8192 if device.type == "cuda" else 2048
    rates: dict[str, Any] = {"matrix_size": n}
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
        rates["tf32"] = torch.backends.cudnn.allow_tf32
    for dtype in (torch.float32, torch.bfloat16):
        seconds = _product(n // 8, device, dtype)
        size = n if seconds * 8**3 < 2 else n // 8  # without instructions for the dtype, a large product takes minutes
        seconds = _product(n, device, dtype) if size == n else seconds
        rates[f"{str(dtype).removeprefix('torch.')}_macs"] = size**3 / seconds
    source = torch.zeros(2**29 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    rates["copy_bytes"] = 2 * source.nbytes / _best(device, lambda: target.copy_(source))
    return rates


def _product(n: int, device: torch.device, dtype: torch.dtype) -> float:
    a = torch.randn(n, n, device=device, dtype=dtype)
    b, out = torch.randn_like(a), torch.empty_like(a)
    return _best(device, lambda: torch.mm(a, b, out=out))


def _best(device: torch.device, call: Callable[[], Any]) -> float:
    times: list[float] = []
    while len(times) < 4 or (len(times) < 12 and sum(times) < 1):  # the first is the warm-up, which is hardly the best
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def explain(case: Case) -> str | None:
    """Return a text about the implementations that the operators choose, or None if they cannot tell."""
    try:
        stepper_net = build(case).to(case.device).train(case.what == "train")
        shape = (case.batch, IN_CHANNELS, *case.patch)
        return scrub(str(explain_network(stepper_net, shape, torch.device(case.device), getattr(torch, case.dtype))))
    except Exception as error:
        return one_line(error)


# --- the processes ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _child(connection: Connection, log: str) -> Iterator[None]:
    """Send errors as `{"error": …}`, and write the output of libraries to the log."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    with contextlib.suppress(OSError):  # if memory runs out, the system shall end this process and no other
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    try:
        yield
    except EOFError:  # the parent has ended
        pass
    except Exception as error:
        print(repr(error), file=sys.stderr)
        connection.send({"error": one_line(error)})


def run_case(connection: Connection, log: str, case: Case) -> None:
    """Measure a case's memory, then its times whenever the parent asks with `(repeats, min_time)`."""
    with _child(connection, log):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = case.cache
        if "malloc" in case.parts and not keep_freed_memory():
            raise RuntimeError("malloc: the C library of this system has no such setting")
        stepper = (OnnxStepper if case.competitor == "onnxruntime" else Stepper)(case)
        first = measure_memory(stepper)
        stepper.rest()
        connection.send(first)
        while True:
            repeats, min_time = connection.recv()
            connection.send({"times": stepper.turn(repeats, min_time)})


def run_export(connection: Connection, log: str, case: Case) -> None:
    """Export our network for a case in ONNX Runtime."""
    with _child(connection, log):
        export(case)
        connection.send({})


def run_probe(connection: Connection, log: str, cases: list[Case]) -> None:
    """Measure the machine's rates, count the work of our network, and ask it which implementations it uses."""
    with _child(connection, log):
        if cases[0].threads:
            torch.set_num_threads(cases[0].threads)
        work, explanations = [], []
        for case in cases:
            shape = (case.what, case.batch, case.patch)
            if shape not in [(w["what"], w["batch"], w["patch"]) for w in work]:
                counted = count_work(case.variant, case.kernel_size, *shape)
                work.append({"what": case.what, "batch": case.batch, "patch": case.patch, **counted})
            if (text := explain(case)) is not None:
                explanations.append({"case": _short(case), "text": text})
        rates = measure_rates(torch.device(cases[0].device))
        gpu = None
        if cases[0].device == "cuda":
            properties = torch.cuda.get_device_properties(0)
            gpu = {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        connection.send(
            {"rates": rates, "work": work, "explain": explanations, "gpu": gpu, "threads": torch.get_num_threads()}
        )


def _short(case: Case) -> dict[str, Any]:
    return {k: v for k, v in asdict(case).items() if k in ("what", "setting", "patch", "device")}
