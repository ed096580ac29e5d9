"""Measure training apart from the network: memory of a step, loading of patches, and planning of a data set.

    python scripts/benchmark_recipe.py memory   [--variant v2_small] [--patch 48,64,48 …] [--batch 2]
    python scripts/benchmark_recipe.py loading  --dataset DIR [--bundle mednextv2_hippocampus] [--workers 2]
    python scripts/benchmark_recipe.py planning --dataset DIR [--nnunet FOLDER_OF_COMMANDS] [--rounds 3]

Each writes a table and its raw numbers to docs/benchmarks, or to --output.
"""

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmark_measure import PeakMemory
from benchmark_report import quartiles, scrub, write_subject
from monai.bundle import ConfigParser
from monai.engines.utils import default_prepare_batch

from mednextv2.allocator import keep_freed_memory
from mednextv2.bundle.run import find_bundle, workflow_files
from mednextv2.data import AugmentBatch, LabelScheme, read_dataset
from mednextv2.nets import create_mednext
from mednextv2.nets.training_memory import training_memory
from mednextv2.ops import half_is_fast
from mednextv2.training import SegmentationLoss, create_optimizer

# --- memory ----------------------------------------------------------------------------------------------------------


def measure_step(variant: str, patch: list[int], batch: int, outputs: int, device: str) -> float:
    """Return the peak memory of training steps in this process, in bytes above what a tiny network needs."""
    keep_freed_memory()
    memory = PeakMemory(torch.device(device))
    half = half_is_fast(device)
    loss = SegmentationLoss(LabelScheme([str(i) for i in range(outputs)]))

    def train(steps: int, batch: int, size: list[int], **changes: int) -> None:
        network = create_mednext(variant, out_channels=outputs, deep_supervision=True, cpu_bfloat16=half, **changes).to(
            device
        )
        optimizer = create_optimizer("adamw", network.train().parameters(), 1e-4)
        for _ in range(steps):
            image = torch.randn(batch, 1, *size, device=device)
            label = torch.randint(0, outputs, (batch, 1, *size), dtype=torch.int16, device=device)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16, enabled=device != "cpu"):
                value = loss(network(image), label)
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
            optimizer.step()

    train(1, 1, [16] * 3, init_filters=2)  # so that the libraries load and set up everything that they need
    gc.collect()
    before = memory.now()
    train(3, batch, patch)
    return memory.peak() - before


def benchmark_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the planner's estimate with the measured peak, each patch in a separate process."""
    rows = []
    for variant in options.variant:
        for patch in options.patch:
            arguments = ["measure", "--variant", variant, "--patch", ",".join(map(str, patch))]
            arguments += ["--batch", str(options.batch), "--outputs", str(options.outputs), "--device", options.device]
            done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(scrub(done.stderr[-2000:]))
            measured = float(done.stdout.split()[-1])
            estimate = training_memory(variant, patch, options.batch, 1, options.outputs, half_is_fast(options.device))
            rows.append({"variant": variant, "patch": patch, "batch": options.batch, "outputs": options.outputs,
                         "estimate_bytes": estimate, "measured_bytes": measured})  # fmt: skip
            print(
                f"{variant} {patch}: estimate {estimate / 2**30:.2f} GiB, measured {measured / 2**30:.2f}", flush=True
            )
    lines = ["| variant | patch | batch | outputs | estimate (GiB) | measured (GiB) | estimate / measured |",
             "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for r in rows:
        e, m = r["estimate_bytes"], r["measured_bytes"]
        size = "×".join(map(str, r["patch"]))
        lines.append(
            f"| {r['variant']} | {size} | {r['batch']} | {r['outputs']} | {e / 2**30:.2f} | {m / 2**30:.2f} "
            f"| {e / m:.2f} |"
        )
    dtype = "half precision" if half_is_fast(options.device) else "float32"
    method = (
        "Peak of a process over three training steps (forward, loss at five heads, backward, clipping, AdamW) above "
        f"what it had after a step of a tiny network; {dtype}; freed memory is kept, as our bundles ask for."
    )
    return {"title": f"Memory of a training step on {options.device}", "method": method, "rows": rows, "table": lines}


# --- loading ---------------------------------------------------------------------------------------------------------


def benchmark_loading(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the time of a step with the real loader to that with a batch that is always the same."""
    with tempfile.TemporaryDirectory() as folder:
        root = find_bundle(options.bundle)
        parser = ConfigParser()
        parser.read_config(workflow_files(root, "train"))
        settings = {"bundle_root": str(root), "dataset_dir": options.dataset, "output_dir": folder,
                    "prepared_dir": folder, "device": options.device, "num_workers": options.workers,
                    "iterations_per_epoch": 10**6, "augment_on": options.augment_on}  # fmt: skip
        settings |= {"variant": options.variant[0]} if options.variant else {}
        for name, value in settings.items():
            parser[name] = value
        keep_freed_memory()
        take = parser.get_parsed_content
        network, loss, optimizer = take("network").train(), take("loss"), take("optimizer")
        loader = iter(take("train::dataloader"))
        device = torch.device(options.device)
        fixed = next(loader)

        augment = (
            AugmentBatch(take("train::preprocessing")) if options.augment_on == "device" else default_prepare_batch
        )

        def step(batch: dict[str, Any]) -> None:
            prepare = default_prepare_batch if batch is fixed else augment
            image, label = prepare(batch, device)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
                value = loss(network(image), label)
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
            optimizer.step()
            value.item()

        def block(get: Callable[[], dict]) -> float:
            # batches that the workers had ready, and those that refill their queues, are not counted
            for _ in range(4 * max(options.workers, 1) + 2):
                step(get())
            start = time.perf_counter()
            for _ in range(options.steps):
                step(get())
            return (time.perf_counter() - start) / options.steps

        step(fixed)
        rounds = []
        for _ in range(options.rounds):
            pair = {"fixed_seconds": block(lambda: fixed), "loader_seconds": block(lambda: next(loader))}
            rounds.append(pair)
            print({k: round(v, 4) for k, v in pair.items()}, flush=True)
        ratios = [r["loader_seconds"] / r["fixed_seconds"] for r in rounds]
        shape = list(fixed["image"].shape)
        variant = take("variant")
    low, middle, high = quartiles(ratios)
    size = "×".join(map(str, shape))
    table = [
        "| network | batch | workers | time of a step with the loader / on a fixed batch | quartiles |",
        "|---|---|---:|---:|---|",
        f"| {variant} | {size} | {options.workers} | {middle:.3f} | {low:.3f} to {high:.3f} |",
    ]
    method = (
        f"{options.rounds} rounds, each {options.steps} steps on one batch that stays and {options.steps} on what "
        f"the loader brings, with all augmentation on {options.augment_on}; what the workers had prepared before is "
        "used up first. Median of the rounds' ratios."
    )
    return {"title": f"Loading on {options.device}", "method": method, "rows": rounds, "ratio": middle, "table": table}


# --- planning --------------------------------------------------------------------------------------------------------


def timed(command: list[str], environment: dict[str, str] | None = None) -> float:
    """Run a command and return its seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}
    )
    if done.returncode:
        raise SystemExit(f"{Path(command[0]).name} failed: {scrub(done.stderr[-2000:])}")
    return time.perf_counter() - start


def write_nnunet_dataset(source: Path, raw: Path) -> None:
    """Create links to a data set in nnU-Net's layout, as Dataset001_Peer."""
    dataset, target = read_dataset(source), raw / "Dataset001_Peer"
    for name in ("imagesTr", "labelsTr"):
        (target / name).mkdir(parents=True)
    ending = "".join(Path(dataset.cases[0].label).suffixes[-2:])
    for case in dataset.cases:
        for channel, image in enumerate(case.images):
            shutil.copyfile(image, target / "imagesTr" / f"{case.name}_{channel:04d}{ending}")
        shutil.copyfile(case.label, target / "labelsTr" / f"{case.name}{ending}")
    description = {"channel_names": {str(i): n for i, n in enumerate(dataset.channels)}, "labels": dataset.labels,
                   "numTraining": len(dataset.cases), "file_ending": ending}  # fmt: skip
    (target / "dataset.json").write_text(json.dumps(description))


def benchmark_planning(options: argparse.Namespace) -> dict[str, Any]:
    """Compare check, plan and preparation of a data set with nnU-Net's command for the same, alternately."""
    peer = shutil.which("nnUNetv2_plan_and_preprocess", path=options.nnunet)
    if peer is None:
        raise SystemExit("nnUNetv2_plan_and_preprocess is not there: pip install nnunetv2, or give --nnunet its folder")
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_nnunet_dataset(Path(options.dataset), work / "raw")
        for number in range(options.rounds):
            bundle, data = work / f"mednextv2_{number}", str(options.dataset)
            run = [sys.executable, "-m", "mednextv2"]
            plan = timed([*run, "plan", data, "--output", str(bundle)])
            timed([*run, "bundle", str(bundle / "task.yaml")])
            prepare = timed([sys.executable, "-m", "monai.bundle", "run", "prepare_cases", "--config_file",
                             str(bundle / "configs" / "train.yaml"), "--bundle_root", str(bundle), "--dataset_dir",
                             data, "--check_data", "False", "--num_workers", str(options.workers)])  # fmt: skip
            preprocessed = work / f"preprocessed_{number}"
            preprocessed.mkdir()
            folders = {"nnUNet_raw": str(work / "raw"), "nnUNet_preprocessed": str(preprocessed),
                       "nnUNet_results": str(work)}  # fmt: skip
            theirs = timed([peer, "-d", "1", "--verify_dataset_integrity", "-c", "3d_fullres", "-np",
                            str(options.workers), "-npfp", str(options.workers)], folders)  # fmt: skip
            rounds.append({"plan_seconds": plan, "prepare_seconds": prepare, "nnunet_seconds": theirs})
            print({k: round(v, 2) for k, v in rounds[-1].items()}, flush=True)
        version = subprocess.run([str(Path(peer).parent / "python"), "-c",
                                  "from importlib.metadata import version; print(version('nnunetv2'))"],
                                 capture_output=True, text=True, check=False).stdout.strip()  # fmt: skip
    planning = statistics.median(r["plan_seconds"] / r["nnunet_seconds"] for r in rounds)
    both = statistics.median((r["plan_seconds"] + r["prepare_seconds"]) / r["nnunet_seconds"] for r in rounds)
    cases = len(read_dataset(options.dataset).cases)
    table = [
        "| cases | check and plan | check, plan and preparation |",
        "|---:|---:|---:|",
        f"| {cases} | {planning:.2f} | {both:.2f} |",
    ]
    method = (
        f"Time of ours over that of nnU-Net {version}'s nnUNetv2_plan_and_preprocess --verify_dataset_integrity "
        f"-c 3d_fullres, {options.workers} processes or threads each, whole commands; {options.rounds} rounds in turn, "
        "medians."
    )
    return {"title": "Planning against nnU-Net", "method": method, "rows": rounds, "nnunetv2": version, "table": table}


# --- the command -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=("memory", "loading", "planning", "measure"), help="see above; the script uses measure itself"
    )
    parser.add_argument("--dataset", help="folder of the data set, for loading and planning")
    parser.add_argument("--bundle", default="mednextv2_hippocampus", help="bundle that is trained, for loading")
    parser.add_argument("--variant", action="append", help="size of the network; repeatable")
    parser.add_argument(
        "--patch",
        action="append",
        type=lambda t: [int(n) for n in t.split(",")],
        help="patch in voxels, as 48,64,48; repeatable",
    )
    parser.add_argument("--batch", type=int, default=2, help="patches in a training step (default: 2)")
    parser.add_argument("--outputs", type=int, default=3, help="output channels (default: 3)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help="device to measure on (default: cuda, without a GPU cpu)")
    parser.add_argument(
        "--augment_on",
        choices=("workers", "device"),
        default="workers",
        help="where images are augmented, for loading: in worker processes, or on the device (default: workers)",
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--steps", type=int, default=30, help="steps in each block of steps, for loading")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--nnunet", help="folder of nnU-Net's commands, if they are not on the PATH")
    folder = Path(__file__).parents[1] / "docs" / "benchmarks"
    parser.add_argument("--output", type=Path, default=folder, help="folder for results (default: docs/benchmarks)")
    options = parser.parse_args()
    if options.what in ("loading", "planning") and not options.dataset:
        parser.error("--dataset is needed")
    if options.what == "measure":
        print(measure_step(options.variant[0], options.patch[0], options.batch, options.outputs, options.device))
        return
    if options.what == "memory":
        options.variant = options.variant or ["v2_small"]
        options.patch = options.patch or [[48, 64, 48], [64, 64, 64], [96, 96, 96]]
    report = {"memory": benchmark_memory, "loading": benchmark_loading, "planning": benchmark_planning}[options.what](
        options
    )
    names = {"memory": "training_memory", "loading": "loading", "planning": "planning"}
    names["loading"] += "-augment-on-device" if options.augment_on == "device" else ""
    name = names[options.what] + ("" if options.device == "cpu" else "-cuda")
    write_subject(report, options.output, name, torch.get_num_threads())


if __name__ == "__main__":
    main()
