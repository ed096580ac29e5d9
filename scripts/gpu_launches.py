"""Record every Triton launch and every call of a PyTorch operator of a network, without a GPU.

    python scripts/gpu_launches.py --variant v2_base --patch 128 --batch 2

This prints how many launches and calls of each kind a training step and an inference submit. As long as launches are
many and small, their number determines the time. The record is sufficient to compile every launch ahead of time
(`gpu_compile.py`) and to repeat it on a GPU (`gpu_check.py`).
"""

import argparse
import contextlib
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from gpu_capture import OTHER, Capture, Counts
from gpu_options import add_patch, batch, end
from gpu_standin import backward, reachable, stand_in
from torch import Tensor, nn

from mednextv2.data import LabelScheme
from mednextv2.nets import VARIANTS, create_mednext
from mednextv2.nets.blocks import MedNeXtBlock, MedNeXtDownBlock, MedNeXtUpBlock
from mednextv2.ops import hold_weights, implementations
from mednextv2.training import SegmentationLoss
from mednextv2.training.schedule import create_optimizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KINDS = {MedNeXtBlock: "standard", MedNeXtDownBlock: "down", MedNeXtUpBlock: "up"}
CLASSES = 3


@contextlib.contextmanager
def half(dtype: torch.dtype) -> Iterator[None]:
    """Compute under autocast in a half precision, or without it in float32."""
    with torch.autocast("cuda", dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32):
        yield


def build(variant: str, kernel_size: int, training: bool, **changes: Any) -> nn.Module:
    """Build one of our networks on the stand-in; it keeps all activations."""
    changes = {"out_channels": CLASSES, "activation_checkpointing": False, **changes}
    with torch.device("cuda"):
        network = create_mednext(variant, kernel_size=kernel_size, deep_supervision=training, **changes)
    return network.train(training)


def describe(block: nn.Module, x: Tensor) -> str:
    """Return the kind of a block and its sizes, such as `standard 32→32 in 96, 128×128×128`."""
    sizes = f"{block.depthwise.in_channels}→{block.compress.out_channels} in {block.expand.out_channels}"
    return f"{KINDS[type(block)]} {sizes}, {'×'.join(map(str, x.shape[2:]))}"


class Regions:
    """Tell a :class:`Capture` which block is at work, inside a `with` block and in the backward pass.

    Attributes:
        nodes: The region of each node of the graph.
    """

    def __init__(self, network: nn.Module, capture: Capture) -> None:
        self.capture, self.nodes = capture, {}
        self._blocks = [m for m in network.modules() if isinstance(m, MedNeXtBlock)]
        self._hooks: list[Any] = []

    def __enter__(self) -> "Regions":
        """Begin."""
        for block in self._blocks:
            self._hooks.append(block.register_forward_pre_hook(self._enter))
            self._hooks.append(block.register_forward_hook(self._leave))
        return self

    def __exit__(self, *error: Any) -> None:
        """End."""
        while self._hooks:
            self._hooks.pop().remove()

    def _enter(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.capture.region = describe(block, inputs[0])

    def _leave(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.name([output], inputs)
        self.capture.region = OTHER

    def name(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        """Assign the nodes between these tensors to the present region."""
        known = {**self.nodes, **{x.grad_fn: None for x in inputs}}
        self.nodes |= dict.fromkeys(reachable([y.grad_fn for y in outputs], known), self.capture.region)

    def visit(self, node: Any) -> None:
        """Note that a node of the graph runs now."""
        self.capture.region = self.nodes.get(node, OTHER)


def follow_step(
    variant: str,
    patch: tuple[int, ...],
    batch: int = 1,
    training: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    kernel_size: int = 3,
    capability: tuple[int, int] = (9, 0),
    whole: bool = False,
    **changes: Any,
) -> Capture:
    """Follow a network's forward pass and, in training, its backward pass.

    Args:
        variant: A key of :data:`mednextv2.nets.VARIANTS`.
        patch: The number of voxels along each axis.
        batch: The number of samples.
        training: Whether the network has five heads and a backward pass; otherwise it is in inference mode.
        dtype: The dtype: float32, or a half precision under autocast.
        kernel_size: The size of the depthwise kernels.
        capability: The compute capability of the GPU.
        whole: Whether, in training, the whole step is followed: loss, clipping and optimizer besides the network.
        **changes: Changes of the network's arguments.

    Returns:
        All launches and calls, by kind of block. `other` is everything outside blocks: stem, heads, sums of gradients.
    """
    with stand_in(capability), implementations.use("triton"):
        network = build(variant, kernel_size, training, spatial_dims=len(patch), **changes)
        x = torch.empty(batch, network.stem.in_channels, *patch, device="cuda")
        capture = Capture()
        if training:
            _train(network, x, dtype, capture, whole)
        else:
            with hold_weights():  # like a sliding window
                _infer(network, x, dtype, Capture())  # stores the results that are kept for later calls
                _infer(network, x, dtype, capture)
    return capture


def _infer(network: nn.Module, x: Tensor, dtype: torch.dtype, capture: Capture) -> None:
    with torch.inference_mode(), capture, half(dtype), Regions(network, capture):
        network(x)


def _train(network: nn.Module, x: Tensor, dtype: torch.dtype, capture: Capture, whole: bool) -> None:
    label = torch.empty(x.shape[0], 1, *x.shape[2:], device="cuda")
    scheme = LabelScheme(["background", *(f"class {i}" for i in range(1, CLASSES))])
    loss_function = SegmentationLoss(scheme)
    optimizer = create_optimizer("adamw", network.parameters(), 1e-3)
    if whole:  # creates what only the first step has to create
        _make_state(network, optimizer)
        with torch.no_grad(), Capture(), half(dtype):
            loss_function(network(x), label)
    with capture, Regions(network, capture) as regions:
        with half(dtype):
            outputs = network(x)
            if whole:
                capture.region = "loss"
                loss = loss_function(outputs, label)
                regions.name([loss], outputs)
        if not whole:
            backward(outputs, [torch.empty_like(y) for y in outputs], regions.visit)
            return
        backward([loss], [torch.ones_like(loss)], regions.visit)
        capture.region = "clipping"
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        capture.region = "optimizer"
        optimizer.step()


def _make_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer run a first step."""
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def follow_parts(
    variant: str,
    patch: tuple[int, ...],
    batch: int = 1,
    training: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    kernel_size: int = 3,
    capability: tuple[int, int] = (9, 0),
    **changes: Any,
) -> Capture:
    """Follow each kind of block of a network, the stem and the heads once and alone, to find all kernels.

    The arguments are those of :func:`follow_step`, which repeats equal blocks.
    """
    with stand_in(capability), implementations.use("triton"):
        network = build(variant, kernel_size, training, spatial_dims=len(patch), **changes)
        capture, seen = Capture(), {}
        for part in [network.stem, *(m for m in network.modules() if isinstance(m, MedNeXtBlock)), *network.heads]:
            part.forward = functools.partial(_alone, part, part.forward, training, capture, seen)
        x = torch.empty(batch, network.stem.in_channels, *patch, device="cuda")
        with contextlib.nullcontext() if training else torch.inference_mode(), hold_weights(), capture, half(dtype):
            network(x)
    return capture


def _alone(
    part: nn.Module, forward: Any, training: bool, capture: Capture, seen: dict[tuple, Tensor], *inputs: Tensor
) -> Tensor:
    """Run a part of a network forward and backward, unless one like it has run; return a tensor like its output."""
    sizes = tuple(tuple(p.shape) for p in part.parameters())
    key = (type(part), sizes, *(tuple(x.shape) for x in inputs))
    if key not in seen:
        capture.region = describe(part, inputs[0]) if isinstance(part, MedNeXtBlock) else OTHER
        own = [x.detach().requires_grad_() if training else x for x in inputs]
        output = forward(*own)
        if training:
            with torch.autocast("cuda", enabled=False):
                backward([output], [torch.empty_like(output)])
        seen[key] = output.detach()
    return seen[key]


# --- the command -----------------------------------------------------------------------------------------------------


def format_counts(title: str, counts: Counts) -> list[str]:
    """Return counts as the lines of a Markdown table, with a line for every kind of block."""
    kernels = sorted({name for found in counts.launches.values() for name in found})
    lines = [f"{title}: {counts.total} launches and calls", ""]
    lines += ["| part | " + " | ".join(kernels) + " | calls of PyTorch |", "|---|" + "---:|" * (len(kernels) + 1)]
    for region in dict.fromkeys([*counts.launches, *counts.calls]):
        own = counts.launches.get(region, Counter())
        cells = [str(own[name] or "") for name in kernels]
        lines.append("| " + " | ".join([region, *cells, str(sum(counts.calls.get(region, Counter()).values()))]) + " |")
    calls = sum(counts.calls.values(), Counter()).most_common(12)
    lines += ["", "Most frequent: " + ", ".join(f"{name.removeprefix('aten::')} {n}" for name, n in calls) + "."]
    for what, found in (("Copies between devices", counts.copies), ("Waits for the GPU", counts.waits)):
        lines.append(f"{what}: " + (", ".join(f"{name} {n}" for name, n in found.items()) or "none") + ".")
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Print the counts of a training step and of an inference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, default="v2_base", help="size of MedNeXt (default: v2_base)")
    add_patch(parser)
    parser.add_argument("--batch", type=batch, default=2, help="samples in a training step (default: 2)")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="data type (default: bfloat16)")
    options = parser.parse_args(arguments)
    edges = (options.patch,) * 3
    dtype = DTYPES[options.dtype]
    step = follow_step(options.variant, edges, options.batch, True, dtype, whole=True)
    inference = follow_step(options.variant, edges, 1, False, dtype)
    print("\n".join(format_counts(f"Training step of {options.variant}, batch {options.batch}", step.count())))
    print()
    print("\n".join(format_counts(f"Inference of {options.variant}, batch 1", inference.count())))


if __name__ == "__main__":
    end(main)
