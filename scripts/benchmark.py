"""Compare our MedNeXt with MONAI's, nnU-Net's ResEnc-L and ONNX Runtime: time, peak memory, distance to the limit.

    python scripts/benchmark.py --variant v2_base --patch 64,64,64 --device cpu --peers monai,resenc_l,onnxruntime

Each network runs in a separate process for each setting. If one fails or runs out of memory, its row shows the error.
First, each process measures its peak memory. Then the processes take turns for several rounds, so that other work on
the machine affects all of them, and ratios are computed within a round. The tables are printed and written to
`NAME.md`, and all raw times are written to `NAME.json`.

The peer `onnxruntime` is our network with the same weights, exported in float32. It is measured in inference on a CPU,
and its labels are compared with ours.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmark_measure import run_probe
from benchmark_models import Case
from benchmark_processes import Worker, start
from benchmark_report import describe_machine, describe_versions, finish_section, format_report, say, write_report

from mednextv2.nets import VARIANTS
from mednextv2.nets.legal_sizes import DIVISOR, is_legal

WHAT = ("inference", "train")
# the packages that each peer needs, and what pip installs for them
PEERS: dict[str, tuple[tuple[str, ...], str]] = {
    "monai": ((), ""),
    "resenc_l": (("dynamic_network_architectures",), "dynamic-network-architectures"),
    "onnxruntime": (("onnx", "onnxscript", "onnxruntime"), "'mednextv2[onnx]'"),
}
# parts of a setting, in the order in its name; malloc: the C allocator keeps freed memory (mednextv2.allocator), as our
# bundles ask it to
PARTS = ("compile", "bf16", "channels_last", "malloc")
SETTINGS = {
    "cpu": "shipped,channels_last,bf16,bf16+channels_last,compile+channels_last,compile+bf16+channels_last,malloc,"
    "bf16+channels_last+malloc,compile+channels_last+malloc,compile+bf16+channels_last+malloc",
    "cuda": "shipped,channels_last,bf16,bf16+channels_last,compile,compile+bf16,compile+bf16+channels_last",
}


# --- options ---------------------------------------------------------------------------------------------------------


def parse_patch(text: str) -> tuple[int, int, int]:
    """Read `64,64,64`, or `64` for a cube."""
    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError:
        sizes = []
    sizes = sizes * 3 if len(sizes) == 1 else sizes
    if len(sizes) != 3 or not all(map(is_legal, sizes)):
        raise argparse.ArgumentTypeError(f"{text!r}: give three positive multiples of {DIVISOR}, such as 64,64,64")
    return (sizes[0], sizes[1], sizes[2])


def parse_setting(text: str, alone: str) -> str:
    """Return a setting with its parts in order; `alone` stands for none of them."""
    parts = text.split("+")
    if parts == [alone]:
        return alone
    if len(set(parts)) < len(parts) or not set(parts) <= set(PARTS):
        known = f"{alone}, or parts of {', '.join(PARTS)} joined by +"
        raise argparse.ArgumentTypeError(f"{text!r}: there is no such setting; choose {known}")
    return "+".join(part for part in PARTS if part in parts)


def parse_settings(text: str) -> list[str]:
    """Read the peers' settings."""
    return list(dict.fromkeys(parse_setting(part, "shipped") for part in text.split(",")))


def parse_ours(text: str) -> list[str]:
    """Read our settings; the network chooses its memory layout itself."""
    settings = list(dict.fromkeys(parse_setting(part, "float32") for part in text.split(",")))
    for setting in settings:
        if "channels_last" in setting:
            raise argparse.ArgumentTypeError(f"{setting!r}: ours is channels-last by itself; leave that part out")
    return settings


def parse_peers(text: str) -> list[str]:
    """Read the names of peers; `none` for none."""
    peers = [] if text == "none" else list(dict.fromkeys(text.split(",")))
    for peer in peers:
        if peer not in PEERS:
            raise argparse.ArgumentTypeError(f"{peer!r}: there is no such peer; choose of {', '.join(PEERS)}, or none")
        packages, source = PEERS[peer]
        if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
            raise argparse.ArgumentTypeError(
                f"{peer} needs {' and '.join(missing)}: pip install {source}, or leave {peer} out"
            )
    return peers


def parse_what(text: str) -> list[str]:
    """Read the names of the steps to measure."""
    wanted = list(dict.fromkeys(text.split(",")))
    if not set(wanted) <= set(WHAT):
        raise argparse.ArgumentTypeError(f"{text!r}: choose of {', '.join(WHAT)}, joined by a comma")
    return wanted


def parse_count(text: str) -> int:
    """Read a positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1")
    return int(text)


def parse_seconds(text: str) -> float:
    """Read a number of seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: give seconds from 0 to 3600")
    return seconds


def parse_name(text: str) -> str:
    """Read a file name without a folder."""
    if not text or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"{text!r}: give a name without folder; --output names the folder")
    return text


def parse_output(text: str) -> Path:
    """Read a folder that exists or can be created."""
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise argparse.ArgumentTypeError(f"{text!r}: no folder can be made there: {e.strerror}") from None
    return folder


def check_kernel_and_device(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program if there can be no kernel of this size, or there is no such device."""
    if options.kernel_size % 2 == 0:
        parser.error(f"argument --kernel-size: {options.kernel_size}: give an odd number such as 3, 5 or 7")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: cuda: PyTorch sees no GPU here; use --device cpu")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; a mistake ends the program with one line that names the option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.usage = "%(prog)s [options], see --help"  # short, so that the line about a mistake stands out
    add = parser.add_argument
    defaults = "; ".join(f"on {device}: {settings}" for device, settings in SETTINGS.items())
    add("--variant", choices=VARIANTS, default="v2_tiny", help="size of MedNeXt (default: %(default)s)")
    add("--kernel-size", type=parse_count, default=3, help="size of the depthwise kernels, an odd number (default: 3)")
    add("--patch", type=parse_patch, action="append", help="patch in voxels, as 64,64,64; repeatable (default: 64)")
    add("--batch", type=parse_count, default=1, help="number of samples in a step (default: 1)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="device to measure on (default: cpu)")
    add("--what", type=parse_what, default=list(WHAT), help="inference, train or inference,train (the default)")
    add("--settings", type=parse_settings, help=f"settings of MONAI's network and ResEnc-L, {defaults}")
    add("--ours", type=parse_ours, default=["float32", "bf16"], help="settings of our network (default: float32,bf16)")
    add("--checkpointing", action="store_true", help="also train our network with activation checkpointing")
    add(
        "--peers",
        type=parse_peers,
        default=["monai"],
        help=f"{', '.join(PEERS)}, several joined by a comma, or none (default: monai)",
    )
    add("--rounds", type=parse_count, default=5, help="number of rounds (default: 5)")
    add("--repeats", type=parse_count, default=3, help="minimum number of timed steps in a turn (default: 3)")
    add("--min-time", type=parse_seconds, default=0.0, help="minimum seconds of timed steps in a turn (default: 0)")
    add("--threads", type=parse_count, help="number of PyTorch's threads on a CPU (default: PyTorch's choice)")
    add("--output", type=parse_output, default="docs/benchmarks", help="folder for results (default: docs/benchmarks)")
    add("--name", type=parse_name, help="name of the files (default: VARIANT-DEVICE)")
    options = parser.parse_args(arguments)
    check_kernel_and_device(parser, options)
    if "onnxruntime" in options.peers and (options.device != "cpu" or "inference" not in options.what):
        parser.error("argument --peers: onnxruntime is measured in inference on a CPU; leave it out")
    options.patch = list(dict.fromkeys(options.patch or [(64, 64, 64)]))
    options.settings = options.settings or SETTINGS[options.device].split(",")
    options.name = options.name or f"{options.variant}-{options.device}"
    return options


# --- the benchmark ---------------------------------------------------------------------------------------------------


def list_cases(options: argparse.Namespace, what: str, patch: tuple[int, int, int], cache: Path) -> list[Case]:
    """Return the rows of one table, ours first."""
    ours = list(options.ours)
    if options.checkpointing and what == "train":
        ours += [f"{setting}+checkpointing" for setting in ours]
    names = [("ours", setting) for setting in ours]
    for peer in options.peers:
        if peer != "onnxruntime":
            names += [(peer, setting) for setting in options.settings]
        elif what == "inference":
            names += [(peer, "float32")]
    shared = {
        "what": what,
        "variant": options.variant,
        "patch": patch,
        "batch": options.batch,
        "kernel_size": options.kernel_size,
        "device": options.device,
        "threads": options.threads,
    }
    place = f"{what}-{'-'.join(map(str, patch))}"
    return [Case(name, setting, cache=str(cache / f"{place}-{name}-{setting}"), **shared) for name, setting in names]


def run_section(options: argparse.Namespace, cases: list[Case], log: Path) -> dict[str, Any]:
    """Measure the rows of one table."""
    rows, workers = [], []
    title = f"{cases[0].what} {'×'.join(map(str, cases[0].patch))}"
    try:
        for case in cases:
            worker, answer = start(case, log)
            workers.append(worker)
            first = {"memory": None, "compile_seconds": None, "equal_labels": None, "error": None, **answer}
            row = {"competitor": case.competitor, "setting": case.setting, "dtype": case.dtype, "rounds": [], **first}
            rows.append(row)
            say(f"{title}: {case.competitor} {case.setting}: " + (row["error"] or f"{row['first_call_seconds']:.2f} s"))
        for number in range(options.rounds):
            for i in range(len(rows)):
                i = (i + number) % len(rows)  # so that no row always follows the same one
                if workers[i].error is None:
                    reply = workers[i].answer((options.repeats, options.min_time))
                    rows[i]["error"] = workers[i].error
                    rows[i]["rounds"] += [reply["times"]] if "times" in reply else []
            say(f"{title}: round {number + 1} of {options.rounds}")
    finally:
        for worker in workers:
            worker.close()
    return {"what": cases[0].what, "patch": cases[0].patch, "batch": options.batch, "rows": rows}


def run_benchmark(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything; after every table, the results are on disk."""
    tables = [list_cases(options, what, patch, folder) for patch in options.patch for what in options.what]
    say("measuring the machine")
    asked = [case for cases in tables for case in cases if case.competitor == "ours"]
    worker = Worker(run_probe, asked, folder / "log")
    try:
        probe = worker.answer()
    finally:
        worker.close()
    if worker.error:
        raise SystemExit(f"benchmark.py: error: the machine could not be measured: {worker.error}")
    shown = {k: v for k, v in vars(options).items() if k != "output"}
    report = {"machine": describe_machine(), "versions": describe_versions(), "options": shown, "sections": []}
    report |= {k: probe[k] for k in ("gpu", "threads", "rates", "explain")}
    for cases in tables:
        section = run_section(options, cases, folder / "log")
        key = (cases[0].what, cases[0].patch)
        finish_section(section, probe["rates"], next(w for w in probe["work"] if (w["what"], w["patch"]) == key))
        report["sections"].append(section)
        write_report(report, options.output, options.name)
    return report


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status: 1 if none of our rows could be measured."""
    options = parse_options(arguments)
    if options.threads:  # set before any of the processes loads the OpenMP library
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        report = run_benchmark(options, Path(folder))
    print(format_report(report))
    for item in report["explain"]:
        print(f"Operators, {item['case']}:\n{item['text']}\n")
    say(f"written: {options.name}.md and {options.name}.json in {options.output}")
    return 0 if all(section["reference"] for section in report["sections"]) else 1


if __name__ == "__main__":
    sys.exit(main())
