"""Measure inference apart from the network: memory for a large image, and time from logits to labels on its grid.

    python scripts/benchmark_inference.py large   [--classes 117] [--shape 512,512,600] [--patch 128,128,128]
    python scripts/benchmark_inference.py export  --image CT.nii.gz --labels LABELS.nii.gz [--classes 50]
    python scripts/benchmark_inference.py air     --image CT.nii.gz

`large` segments, in a separate process, an image that is too large for MONAI's inferer. `export` compares with MONAI's
sliding window, linear `Invertd` and arg-max, on an image that fits into memory for both. `air` compares inference with
and without windows that contain only air. Each writes a table and its raw numbers to docs/benchmarks, or to --output.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_measure import PeakMemory
from benchmark_report import quartiles, scrub, write_subject
from benchmark_subjects import Answering, add_labels, make_image, make_network
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import list_data_collate
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, Invertd, SpatialResample
from torch import Tensor

from mednextv2.allocator import keep_freed_memory
from mednextv2.data import LabelScheme
from mednextv2.images.volume import read_volume
from mednextv2.inference import StreamingInferer
from mednextv2.inference.air_skipping import air_windows
from mednextv2.inference.logits_to_labels import LabelWriter
from mednextv2.inference.window_cells import most_waiting
from mednextv2.inference.window_grid import WindowGrid
from mednextv2.transforms import Resampled


def scheme_of(classes: int) -> LabelScheme:
    """Return a label scheme with this number of classes and generic names."""
    return LabelScheme(["background", *(f"class {i}" for i in range(1, classes))])


def inferer(options: argparse.Namespace, **settings: Any) -> StreamingInferer:
    """Return our inferer with the settings of a bundle."""
    window = {"sw_batch_size": 1, "overlap": options.overlap, "mode": "gaussian"}
    return StreamingInferer(options.patch, scheme_of(options.classes), **window, **settings)


# --- large -----------------------------------------------------------------------------------------------------------


def measure_large(options: argparse.Namespace) -> dict[str, Any]:
    """Segment the image in this process; return its peak memory with everything, and the time."""
    keep_freed_memory()
    network, image = make_network(options), make_image(options)[None].as_tensor().to(options.device)
    memory = PeakMemory(torch.device(options.device))
    start = time.perf_counter()
    labels = inferer(options, progress=True)(image, network)
    seconds = time.perf_counter() - start
    grid = WindowGrid.of(image[0], inferer(options))
    return {
        "peak_bytes": int(memory.peak()),
        "seconds": seconds,
        "waiting_voxels": int(most_waiting(grid.axes)),
        "windows": int(np.prod([len(axis.starts) for axis in grid.axes])),
        "labels_in_use": len(labels.unique()),
    }


def benchmark_large(options: argparse.Namespace) -> dict[str, Any]:
    """Measure in a separate process."""
    done = subprocess.run([sys.executable, __file__, "measure", *sys.argv[2:]], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    row = json.loads(done.stdout.splitlines()[-1])
    voxels = int(np.prod(options.shape))
    row |= {"shape": options.shape, "classes": options.classes, "patch": options.patch, "overlap": options.overlap}
    row |= {"monai_bytes": 4 * voxels * (options.classes + 1)}  # MONAI's sums and their weights, in float32
    size = "×".join(map(str, options.shape))
    table = [
        "| classes | image | windows | peak of the process (GiB) | MONAI's sums alone (GiB) |",
        "|---:|---|---:|---:|---:|",
        f"| {options.classes} | {size} | {row['windows']} | {row['peak_bytes'] / 2**30:.2f} "
        f"| {row['monai_bytes'] / 2**30:.0f} |",
    ]
    method = (
        f"{options.variant}{f' with {options.filters} filters' if options.filters else ''}, random weights, patch "
        f"{'×'.join(map(str, options.patch))}, overlap {options.overlap:g}; peak resident size of the whole process, "
        "libraries, network and image included; MONAI's number is what `SlidingWindowInferer` allocates for logits."
    )
    return {"title": f"Memory of streaming inference on {options.device}", "method": method, "rows": [row],
            "table": table}  # fmt: skip


# --- export ----------------------------------------------------------------------------------------------------------


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call took, and its result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


class TimedWriter:
    """Adds up the time that our labels take, in addition to the windows."""

    def __init__(self) -> None:
        self.seconds, self.finish = 0.0, LabelWriter.finish

    def __enter__(self) -> "TimedWriter":
        def finish(writer: LabelWriter, *arguments: Any) -> None:
            self.seconds += timed(lambda: self.finish(writer, *arguments))[0]

        LabelWriter.finish = finish
        return self

    def __exit__(self, *_: object) -> None:
        LabelWriter.finish = self.finish


def benchmark_export(options: argparse.Namespace) -> dict[str, Any]:
    """Compare time and labels with MONAI's route, in turns."""
    keep_freed_memory()
    network, image = make_network(options), make_image(options, options.shape)
    spacing = [side * options.zoom for side in image.pixdim.tolist()]
    transforms = Compose([Resampled("image", spacing)])
    batch = list_data_collate([transforms({"image": image})])
    if options.labels:
        network, batch["image"] = Answering(network), add_labels(batch["image"], options.labels, options.classes)
    scheme, invert = scheme_of(options.classes), Invertd("pred", transforms, "image", nearest_interp=False)
    monai = SlidingWindowInferer(options.patch, 1, options.overlap, "gaussian")
    resample = SpatialResample(mode="bilinear", padding_mode="border", align_corners=False)
    # the arguments of Spacingd's inverse; the grid is that before our resampling
    to_file = {"dst_affine": image.affine, "spatial_size": image.shape[1:]}

    def back_to(pred: Tensor) -> dict[str, Any]:
        return decollate_batch({"image": batch["image"], "pred": pred})[0]

    def one_round() -> dict[str, float]:
        windows, logits = timed(lambda: monai(batch["image"], network))
        item = back_to(logits)
        by_monai, expected = timed(lambda: resample(item["pred"], **to_file).argmax(0))
        by_ours, inverted = timed(lambda: scheme.decide(invert(item)["pred"]))
        with TimedWriter() as writer:
            whole, labels = timed(lambda: inferer(options)(batch["image"], network))
        small = back_to(labels)
        paste, found = timed(lambda: invert(small)["pred"])
        return {
            "monai_windows_seconds": windows,
            "monai_invert_argmax_seconds": by_monai,
            "our_invert_argmax_seconds": by_ours,
            "streaming_seconds": whole,
            "streaming_labels_seconds": writer.seconds,
            "streaming_invert_seconds": paste,
            "equal_to_monai": float((found.as_tensor()[0] == expected.as_tensor()).double().mean()),
            "equal_to_invert": float((found.as_tensor() == inverted.as_tensor()).double().mean()),
        }

    rows = []
    with torch.no_grad():
        network(batch["image"].as_tensor()[..., :16, :16, :16])  # the first call loads code
    for _ in range(options.rounds):
        with torch.no_grad():
            rows.append(one_round())
        print({k: round(v, 6) for k, v in rows[-1].items()}, flush=True)
    ratio = [r["streaming_seconds"] / r["monai_windows_seconds"] for r in rows]
    ours = [r["streaming_labels_seconds"] + r["streaming_invert_seconds"] for r in rows]
    export = [r["monai_invert_argmax_seconds"] / o for r, o in zip(rows, ours, strict=True)]
    size = "×".join(map(str, options.shape))
    grid = "×".join(map(str, batch["image"].shape[2:]))
    equal = min(min(r["equal_to_monai"], r["equal_to_invert"]) for r in rows)
    table = [
        "| classes | image | network's grid | ours / MONAI's windows alone | MONAI's export / ours | equal labels |",
        "|---:|---|---|---:|---:|---:|",
        f"| {options.classes} | {size} | {grid} | {statistics.median(ratio):.2f} ({_range(ratio)}) "
        f"| {statistics.median(export):.1f} ({_range(export)}) | {100 * equal:.4f} % |",
    ]
    answers = (
        "a real CT; random weights, with a lead of 6 for the classes of its label map, as trained ones would have"
        if options.labels
        else "a smooth random image; random weights, whose labels change from voxel to voxel: the worst case"
    )
    method = (
        f"{options.variant}; {answers}; patch {'×'.join(map(str, options.patch))}, overlap {options.overlap:g}, "
        f"{options.rounds} rounds in turn, medians (quartiles). MONAI's windows are `SlidingWindowInferer`; its export "
        "is the linear resampling that `Invertd` makes of `Spacingd`, then arg-max. Ours is the time between windows "
        "in which labels are decided, and `Invertd`. Labels are compared with both MONAI's resampling and the linear "
        "inverse of ours; the smaller share is shown."
    )
    return {"title": f"Back to the image's grid on {options.device}", "method": method, "rows": rows, "table": table}


def _range(values: list[float]) -> str:
    low, _, high = quartiles(values)
    return f"{low:.2f} to {high:.2f}"


# --- air -------------------------------------------------------------------------------------------------------------


def benchmark_air(options: argparse.Namespace) -> dict[str, Any]:
    """Compare inference with and without windows of air."""
    keep_freed_memory()
    array, affine = read_volume(options.image)
    if options.field:
        sides = [divmod(n - m, 2) for n, m in zip(options.field, array.shape, strict=True)]
        around = np.random.default_rng(0).normal(-1000, 15, options.field)
        around[tuple(slice(a, a + m) for (a, _), m in zip(sides, array.shape, strict=True))] = array
        array = around
    hu = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    level = -0.9  # -900 HU
    image = MetaTensor(hu[None] / 1000, affine=torch.from_numpy(affine))[None]
    network, inside = make_network(options), (image > level).as_tensor()
    grid = WindowGrid.of(image[0], inferer(options))
    windows = int(np.prod([len(axis.starts) for axis in grid.axes]))
    skipped = len(air_windows(image[0].as_tensor(), grid.axes, level))
    rows = []
    for _ in range(options.rounds):
        full, everything = timed(lambda: inferer(options)(image, network))
        fast, labels = timed(lambda: inferer(options, air=level)(image, network))
        equal = bool((everything == labels)[inside].all())
        rows.append({"all_seconds": full, "skipping_seconds": fast, "equal_inside": equal})
        print(rows[-1], flush=True)
    ratios = [r["skipping_seconds"] / r["all_seconds"] for r in rows]
    table = [
        "| image | windows | skipped | time with skipping / of all | labels inside the body |",
        "|---|---:|---:|---:|---|",
        f"| {'×'.join(map(str, array.shape))} | {windows} | {skipped} | {statistics.median(ratios):.2f} "
        f"({_range(ratios)}) | {'equal' if all(r['equal_inside'] for r in rows) else 'NOT equal'} |",
    ]
    field = ", set in a larger field of view of noisy air" if options.field else ""
    method = (
        f"A real CT{field}; {options.variant}, random weights, patch {'×'.join(map(str, options.patch))}, overlap "
        f"{options.overlap:g}, {options.rounds} rounds in turn, medians (quartiles). Inside are voxels above -900 HU."
    )
    return {"title": f"Windows of air on {options.device}", "method": method, "rows": rows, "windows": windows,
            "skipped": skipped, "table": table}  # fmt: skip


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=("large", "export", "air", "measure"), help="see above; the script uses measure itself"
    )
    parser.add_argument("--image", help="image file to use instead of a random image")
    parser.add_argument("--labels", help="label map that replaces the output of the network, for export")
    parser.add_argument("--shape", type=_sizes, help="size in voxels of the random image, or of the resized real image")
    parser.add_argument("--classes", type=int, help="number of classes")
    parser.add_argument("--patch", type=_sizes, help="patch size in voxels, such as 128,128,128")
    parser.add_argument("--overlap", type=float, default=0.5, help="overlap of windows (default: 0.5)")
    parser.add_argument("--zoom", type=float, default=1.5, help="network spacing divided by image spacing, for export")
    parser.add_argument("--variant", default="v2_tiny", help="size of MedNeXt (default: v2_tiny)")
    parser.add_argument("--filters", type=int, help="channels of the first level, instead of the variant's")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help="device to measure on (default: cuda, without a GPU cpu)")
    parser.add_argument("--field", type=_sizes, help="size in voxels of the field of view around the CT, for air")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    folder = Path(__file__).parents[1] / "docs" / "benchmarks"
    parser.add_argument("--output", type=Path, default=folder, help="folder for results (default: docs/benchmarks)")
    options = parser.parse_args()
    large = options.what in ("large", "measure")
    options.classes = options.classes or {"export": 50, "air": 5}.get(options.what, 117)
    options.shape = options.shape or ([512, 512, 600] if large else [160, 160, 160])
    options.patch = options.patch or ([128] * 3 if large else [64] * 3)
    if options.what == "air" and not options.image:
        parser.error("--image is needed")
    if options.labels and not options.image:
        parser.error("--labels are of an image: give --image, too")
    if options.what == "measure":
        print(json.dumps(measure_large(options)))
        return
    report = {"large": benchmark_large, "export": benchmark_export, "air": benchmark_air}[options.what](options)
    report = json.loads(scrub(json.dumps(report)))
    name = f"inference-{options.what}" + ("" if options.device == "cpu" else "-cuda")
    write_subject(report, options.output, name, torch.get_num_threads())


def _sizes(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


if __name__ == "__main__":
    main()
