"""Compare the loss for partly annotated labels with the loss for ordinary ones: time of the forward and backward pass.

    python scripts/benchmark_loss.py [--size 64] [--classes 41,4] [--batch 2] [--rounds 15] [--threads 1]

Both compute the same five heads, one after the other in every round, so that other work on the machine affects both.
A table and its raw numbers are written to docs/benchmarks/partial_loss, or to --output.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from benchmark_report import quartiles, write_subject

from mednextv2.allocator import keep_freed_memory
from mednextv2.data import LabelScheme, PartialLabels
from mednextv2.training import SegmentationLoss

_HEADS = 5
_LEAST_S = 0.1  # seconds of one measurement


def choices(structures: int) -> dict[str, list[list[bool]]]:
    """Return what the samples of a batch annotate, by the words for it: a cycle of sets."""
    half, other = ([n % 2 == k for n in range(structures)] for k in (0, 1))
    one = [n == 0 for n in range(structures)]
    return {
        "all": [[True] * structures],
        "every second": [half],
        "every second, and the others": [half, other],
        "one": [one],
        "one, and the others": [one, [not known for known in one]],
    }


def measure(scheme: LabelScheme, sets: list[list[bool]], options: argparse.Namespace) -> list[dict[str, float]]:
    """Return the seconds of both losses in every round."""
    loss, device = SegmentationLoss(scheme), torch.device(options.device)
    structures = torch.tensor([sets[b % len(sets)] for b in range(options.batch)])
    heads = [
        torch.randn(options.batch, scheme.outputs, *[options.size // 2**i] * 3, device=device)
        .contiguous(memory_format=torch.channels_last_3d)  # as the network returns them
        .requires_grad_()
        for i in range(_HEADS)
    ]
    known = [torch.tensor([0, *(n + 1 for n, there in enumerate(row) if there)]) for row in structures.tolist()]
    label = torch.stack([row[torch.randint(len(row), (1, *[options.size] * 3))] for row in known]).to(device)

    # of a single thread, the time in which others had the processor does not count
    clock = time.process_time if device.type == "cpu" and options.threads == 1 else time.perf_counter

    def timed(labels: Any, repeats: int) -> float:
        _wait(device)
        start = clock()
        for _ in range(repeats):
            torch.autograd.grad(loss(heads, labels), heads)
        _wait(device)
        return (clock() - start) / repeats

    both = {"ordinary_seconds": label, "partly_seconds": PartialLabels(label, structures)}
    longest = max(timed(labels, 2) for labels in both.values())
    repeats = max(1, round(_LEAST_S / longest))
    return [{name: timed(labels, repeats) for name, labels in both.items()} for _ in range(options.rounds)]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every case, and return the report."""
    rows = []
    table = [
        "| outputs | annotated by the samples | time of the partly annotated loss / the ordinary one | quartiles |",
        "|---|---|---:|---|",
    ]
    for classes in options.classes:
        names = ["background", *(f"structure {n}" for n in range(1, classes))]
        regions = [{"name": name, "values": [n], "paint": n} for n, name in enumerate(names) if n]
        for kind, scheme in (("classes", LabelScheme(names)), ("regions", LabelScheme(names, regions))):
            for words, sets in choices(classes - 1).items():
                rounds = measure(scheme, sets, options)
                found = quartiles([r["partly_seconds"] / r["ordinary_seconds"] for r in rounds])
                assert found is not None  # there is at least one round
                rows.append({"outputs": scheme.outputs, "kind": kind, "annotated": words, "rounds": rounds})
                low, middle, high = found
                table.append(f"| {scheme.outputs} {kind} | {words} | {middle:.3f} | {low:.3f} to {high:.3f} |")
                print(table[-1], flush=True)
    method = (
        f"Forward and backward pass of the loss at five heads, {options.size}³ voxels in the first, {options.batch} "
        f"samples, float32, on {options.device}; both losses in turn in one process, {options.rounds} rounds of at "
        f"least {_LEAST_S:g} s (of one thread on a CPU, the time of the process, without that of others); median "
        "of the rounds' ratios. The samples of a batch take the named sets in turn; all is what ordinary labels are."
    )
    return {"title": "Loss for partly annotated labels", "method": method, "rows": rows, "table": table}


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="voxels of the first head along each axis (default: 64)")
    parser.add_argument(
        "--classes",
        type=lambda text: [int(n) for n in text.split(",")],
        default=[41, 4],
        help="numbers of label values, with the background (default: 41,4)",
    )
    parser.add_argument("--batch", type=int, default=2, help="samples (default: 2)")
    parser.add_argument("--rounds", type=int, default=15, help="number of rounds (default: 15)")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default: 1)")
    parser.add_argument("--device", default="cpu", help="device to measure on (default: cpu)")
    folder = Path(__file__).parents[1] / "docs" / "benchmarks" / "partial_loss"
    parser.add_argument("--output", type=Path, default=folder, help="folder for results")
    options = parser.parse_args()
    if options.size % 2 ** (_HEADS - 1) or options.size < 1:
        parser.error(f"--size {options.size}: give a multiple of {2 ** (_HEADS - 1)}, such as 64")
    if min(options.classes) < 3:
        parser.error("--classes: give numbers from 3, since some structures shall be annotated and others not")
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    name = "partial_loss" + ("" if options.device == "cpu" else f"-{options.device}")
    write_subject(benchmark(options), options.output, name, torch.get_num_threads())


if __name__ == "__main__":
    main()
