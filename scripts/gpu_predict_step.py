"""Predict how long the Triton launches of a training step and of an inference take on an H100, without a GPU.

    python scripts/gpu_predict_step.py --variant v2_base --patch 128 --output docs/benchmarks

The prediction leaves out calls of PyTorch and cuBLAS, and the time of the CPU. docs/gpu.md explains how a prediction is
made and how accurate it was.
"""

import argparse
import json
from collections import Counter
from typing import Any

import triton
from gpu_check_launches import follow
from gpu_compile import side_by_side
from gpu_options import add_patch, end, output_folder
from gpu_predict_launches import as_work, compile_and_predict

from mednextv2.nets import VARIANTS
from mednextv2.paths import writing

ARCH = 90
COLUMNS = ("kernel", "launches", "predicted (ms)", "launches limited by")


def predict_step(variant: str, patch: int) -> dict[str, dict[str, Any]]:
    """Return by step (`train`, batch 2; `inference`, batch 1) and kernel: launches, milliseconds and limits."""
    found: dict[str, dict[str, Any]] = {}
    for what, launches, times in follow(variant, patch, divmod(ARCH, 10)):
        works = as_work(launches, ARCH)
        guesses = {}
        for work, done in zip(works, side_by_side(compile_and_predict, works), strict=True):
            guesses |= {key.key(): guess for key, guess in zip(work.launches, done.predictions, strict=True)}
        rows: dict[str, dict[str, Any]] = {}
        for launch, number in zip(launches, times, strict=True):
            row = rows.setdefault(launch.name, {"launches": 0, "ms": 0.0, "limits": Counter(), "unknown": 0})
            guess = guesses[launch.key()]
            row["launches"] += number
            row["unknown"] += 0 if guess else number
            if guess:
                row["ms"] += number * guess.seconds * 1e3
                row["limits"][guess.limit] += number
        found[what] = dict(sorted(rows.items(), key=lambda item: -item[1]["ms"]))
    return found


def format_step(variant: str, patch: int, found: dict[str, dict[str, Any]]) -> str:
    """Return the tables."""
    lines = [
        f"# Predicted, not measured: the Triton launches of {variant} on an H100", "",
        f"{patch}³ voxels, bfloat16; training with batch 2, inference with batch 1. Triton {triton.__version__}. "
        "Calls of PyTorch and cuBLAS are not in the sums. What limits a launch: docs/gpu.md, section Predictions.", "",
    ]  # fmt: skip
    for what, rows in found.items():
        total = sum(row["ms"] for row in rows.values())
        lines += [f"## {what}: {total:.1f} ms predicted", "", "| " + " | ".join(COLUMNS) + " |", "|---|---:|---:|---|"]
        for name, row in rows.items():
            limits = ", ".join(f"{limit} {number}" for limit, number in row["limits"].most_common())
            limits += f", not predicted {row['unknown']}" if row["unknown"] else ""
            lines.append(f"| `{name}` | {row['launches']} | {row['ms']:.2f} | {limits} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, and write them to the folder of `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="v2_base", choices=VARIANTS, help="size of MedNeXt (default: v2_base)")
    add_patch(parser)
    parser.add_argument("--output", help="folder for gpu-predicted-VARIANT.md and .json")
    options = parser.parse_args(arguments)
    folder = None if options.output is None else output_folder(parser, options.output)
    found = predict_step(options.variant, options.patch)
    text = format_step(options.variant, options.patch, found)
    print(text)
    if folder:
        for ending, content in (("md", text), ("json", json.dumps(found, indent=1) + "\n")):
            with writing(folder / f"gpu-predicted-{options.variant}.{ending}") as temporary:
                temporary.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    end(main)
