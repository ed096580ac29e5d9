"""Check and measure everything that needs a GPU, in one call of five minutes.

    python scripts/gpu_check.py --output gpu_check [--data DIR] [--minutes 5] [--stages tests,steps] [--dry]

The stages are: environment (GPU, driver, clocks, versions), compile (all kernels side by side), trial (each kernel
against the plain definitions), tests (those that need a GPU), sanitizer (wrong accesses to memory), launches (each one
timed, with its prediction), steps (training and inference: eager, as CUDA graphs, compiled), peer (another network in
turns with ours), training (the hippocampus bundle, with --data). Each has a process of its own and a time limit, and
what it has found until then is kept. After each of them `gpu_check.md` and `gpu_check.json` are written. With --dry all
of this goes through its code at tiny sizes on a CPU, which says nothing about any GPU.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmark_report import scrub
from gpu_check_processes import stop
from gpu_check_stages import STAGES, Settings
from gpu_check_training import find_data

from mednextv2.errors import InputError
from mednextv2.nets import VARIANTS
from mednextv2.paths import prepare_folder, writing

# of five minutes; what a stage leaves goes to those after it
SECONDS = {"environment": 10, "compile": 20, "trial": 45, "tests": 60, "sanitizer": 40, "launches": 25, "steps": 55,
           "peer": 25, "training": 20}  # fmt: skip
NAME = "gpu_check"
SCRIPT = Path(__file__).with_name("gpu_check_stages.py")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; a mistake ends the program with one line that names the option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.usage = "%(prog)s --output DIR [options], see --help"
    add = parser.add_argument
    add("--output", required=True, help="folder for the tables")
    add("--stages", default=",".join(STAGES), help=f"of {','.join(STAGES)} (default: all)")
    add("--minutes", type=float, default=5.0, help="for everything (default: 5)")
    add("--variant", choices=VARIANTS, help="size of MedNeXt (default: v2_base; dry: v2_tiny)")
    add("--patch", type=int, help="edge in voxels, a multiple of 16 (default: 128; dry: 32)")
    add("--peer", choices=("monai", "resenc_l", "none"), help="(default: resenc_l where its package is, else monai)")
    add("--data", help="folder of the hippocampus data set, or one that holds Task04_Hippocampus")
    add("--dry", action="store_true", help="without a GPU, at tiny sizes on the CPU")
    options = parser.parse_args(arguments)
    options.stages = list(dict.fromkeys(options.stages.split(",")))
    unknown = [stage for stage in options.stages if stage not in STAGES]
    if unknown:
        parser.error(f"argument --stages: there is no stage {unknown[0]!r}; choose of {', '.join(STAGES)}")
    if not 0.1 <= options.minutes <= 24 * 60:
        parser.error(f"argument --minutes: {options.minutes:g}: give minutes from 0.1 to 1440")
    if options.patch is not None and (options.patch < 16 or options.patch % 16):
        parser.error(f"argument --patch: {options.patch}: give a positive multiple of 16, such as 128")
    if not options.dry and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; with --dry all goes through its code on the CPU, and measures nothing")
    try:
        if options.data:
            find_data(options.data)
        options.output = prepare_folder(options.output, "output")
    except InputError as error:
        parser.error(str(error))
    if options.peer is None:
        found = importlib.util.find_spec("dynamic_network_architectures") and not options.dry
        options.peer = "resenc_l" if found else "monai"
    elif options.peer == "resenc_l" and importlib.util.find_spec("dynamic_network_architectures") is None:
        parser.error("argument --peer: resenc_l needs a package: pip install dynamic-network-architectures")
    return options


def choose_stages(options: argparse.Namespace) -> dict[str, str | None]:
    """Return the stages to run, each with the reason why it is left out, or None."""
    left_out = dict.fromkeys(options.stages)
    if "peer" in left_out and options.peer == "none":
        left_out["peer"] = "left out: --peer none"
    if "training" in left_out and not options.data and not options.dry:
        left_out["training"] = "left out: it needs the hippocampus data set, --data DIR"
    return left_out


def run_stage(name: str, settings: Settings) -> dict[str, Any]:
    """Run a stage within its time; returns what it found, and `status`: done, stopped or failed."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "result.json"), Path(folder, "log")
        command = [sys.executable, str(SCRIPT), name, json.dumps(settings._asdict()), str(result)]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                process.wait(settings.seconds)
            except subprocess.TimeoutExpired:
                pass
            finally:
                ended = process.poll()
                stop(process)
        found = {"columns": [], "rows": [], "notes": [], "well": True}
        if result.exists():
            found |= json.loads(result.read_text(encoding="utf-8"))
        status = "stopped" if ended is None else "done" if ended == 0 else "failed"
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        lines = [line for line in lines if line]
    if status == "stopped":
        error = f"stopped after {settings.seconds:.0f} s; the table has what was found until then"
    else:
        error = None if status == "done" else scrub(lines[-1] if lines else f"status {ended}")[:300]
    return {**found, "stage": name, "status": status, "error": error, "seconds": time.monotonic() - start}


# --- output ----------------------------------------------------------------------------------------------------------


def format_cell(value: Any) -> str:
    """Return a cell as text: a dash for nothing, three digits of a fraction."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return scrub(str(value)).replace("|", "\\|")


def format_report(report: dict[str, Any]) -> str:
    """Return everything as Markdown."""
    lines = [f"# Check on a GPU: {report['variant']}, {report['patch']}³", ""]
    if report["dry"]:
        lines += ["**A dry run on a CPU at tiny sizes: no number says anything about a GPU.**", ""]
    lines += ["| stage | status | seconds |", "|---|---|---:|"]
    for found in report["stages"]:
        text = found["status"] if found["well"] or found["status"] != "done" else "done, with failures"
        text += f": {found['error']}" if found["error"] else ""
        lines.append(f"| {found['stage']} | {format_cell(text)} | {found['seconds']:.0f} |")
    for found in report["stages"]:
        lines += ["", f"## {found['stage']}", ""]
        if found["rows"]:
            lines += ["| " + " | ".join(found["columns"]) + " |", "|---" * len(found["columns"]) + "|"]
            lines += ["| " + " | ".join(map(format_cell, row)) + " |" for row in found["rows"]]
            lines.append("")
        if "predicted (ms)" in found["columns"]:
            lines += ["Predicted: from compiled code, not measured; see `scripts/gpu_predict.py`.", ""]
        lines += [f"- {scrub(note)}" for note in found["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def write(report: dict[str, Any], folder: Path) -> None:
    """Write the tables and their numbers."""
    texts = {
        f"{NAME}.json": json.dumps(report, indent=1, ensure_ascii=False) + "\n",
        f"{NAME}.md": format_report(report),
    }
    for name, text in texts.items():
        with writing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 1 where something failed or was stopped."""
    options = parse_options(arguments)
    variant = options.variant or ("v2_tiny" if options.dry else "v2_base")
    patch = options.patch or (32 if options.dry else 128)
    report: dict[str, Any] = {"variant": variant, "patch": patch, "dry": options.dry, "stages": []}
    end = time.monotonic() + 60 * options.minutes
    waiting = choose_stages(options)
    for name in list(waiting):
        reason = waiting.pop(name)
        if reason:
            found = {"columns": [], "rows": [], "notes": [], "well": True}
            found |= {"stage": name, "status": "left out", "error": reason.removeprefix("left out: "), "seconds": 0.0}
        else:
            later = sum(SECONDS[other] for other, why in waiting.items() if why is None)
            seconds = max(5.0, (end - time.monotonic()) * SECONDS[name] / (SECONDS[name] + later))
            peer = None if options.peer == "none" else options.peer
            found = run_stage(name, Settings(variant, patch, peer, options.data, options.dry, seconds))
        report["stages"].append(found)
        write(report, options.output)
        print(f"{name}: {found['status']}, {found['seconds']:.0f} s {found['error'] or ''}".rstrip(), flush=True)
    print(f"written: {options.output / NAME}.md and .json")
    return 0 if all(s["status"] in ("done", "left out") and s["well"] for s in report["stages"]) else 1


if __name__ == "__main__":
    sys.exit(main())
