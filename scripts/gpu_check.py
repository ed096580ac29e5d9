"""Check and measure everything that needs a GPU, in one call that takes five minutes.

    python scripts/gpu_check.py --output gpu_check [--data DIR] [--minutes 5] [--stages tests,steps] [--dry]

The stages are: environment (GPU, driver, clocks, versions; always), compile (all kernels in parallel), trial (each
kernel against the plain definitions), tests (those that need a GPU), sanitizer (invalid memory accesses), launches
(each one timed, with its prediction), steps (training and inference: eager, as CUDA graphs, compiled), profile (the
time of each kernel in a whole step), peer (another network in turns with ours), training (the hippocampus bundle, with
--data). Each stage runs in a separate process with a time limit; if it is stopped, the results until then are kept.
After each stage, `gpu_check.md` and `gpu_check.json` are written. Stages of an earlier run in the same folder are kept
unless they are run again, and an earlier report of another machine or version is kept under another name. With --dry,
all stages run at tiny sizes on a CPU, which takes some minutes and says nothing about any GPU.
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
from gpu_check_processes import PATIENCE, stop
from gpu_check_report import Report
from gpu_check_stages import STAGES, Settings
from gpu_check_training import find_data
from gpu_options import INTERRUPTED, add_minutes, add_patch, end, output_folder

from mednextv2.errors import InputError
from mednextv2.nets import VARIANTS

# seconds of each stage, of five minutes; time that a stage does not use goes to those after it
SECONDS = {"environment": 10, "compile": 20, "trial": 75, "tests": 60, "sanitizer": 40, "launches": 25, "steps": 55,
           "profile": 15, "peer": 45, "training": 20}  # fmt: skip
SCRIPT = Path(__file__).with_name("gpu_check_stages.py")
START = 120.0  # most seconds until a stage has imported everything, perhaps from a slow disk
GRACE = PATIENCE + 2.0  # seconds for a stage to end by itself: it stops its processes, and reports its results
LOG_LINES = 12  # number of last lines of a failed stage's output that are shown


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; a mistake ends the program with one line that names the option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.usage = "%(prog)s --output DIR [options], see --help"
    add = parser.add_argument
    add("--output", required=True, help="folder for the tables")
    add("--stages", default=",".join(STAGES), help=f"any of {','.join(STAGES)} (default: all); environment always runs")
    add_minutes(parser, 5.0, "time limit for all stages together, in minutes")
    add("--variant", choices=VARIANTS, help="size of MedNeXt (default: v2_base; dry: v2_tiny)")
    add_patch(parser, None, "128; dry: 32")
    add(
        "--peer",
        choices=("monai", "resenc_l", "none"),
        help="network for the stage peer (default: resenc_l if installed, else monai)",
    )
    add("--data", help="folder of the hippocampus data set, or one that contains Task04_Hippocampus")
    add("--dry", action="store_true", help="run at tiny sizes on the CPU, without a GPU; takes some minutes")
    options = parser.parse_args(arguments)
    chosen = options.stages.split(",")
    unknown = [stage for stage in chosen if stage not in STAGES]
    if unknown:
        parser.error(f"argument --stages: there is no stage {unknown[0]!r}; choose of {', '.join(STAGES)}")
    options.stages = list(dict.fromkeys(["environment", *chosen]))
    if not options.dry and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; with --dry all goes through its code on the CPU, and measures nothing")
    if options.peer is None:
        found = importlib.util.find_spec("dynamic_network_architectures") and not options.dry
        options.peer = "resenc_l" if found else "monai"
    elif options.peer == "resenc_l" and importlib.util.find_spec("dynamic_network_architectures") is None:
        parser.error("argument --peer: resenc_l needs a package: pip install dynamic-network-architectures")
    try:
        if options.data:
            find_data(options.data)
    except InputError as error:
        parser.error(str(error))
    options.output = output_folder(parser, options.output)
    return options


def choose_stages(options: argparse.Namespace) -> dict[str, str | None]:
    """Return the stages, each with the reason why it is left out, or None."""
    left_out = dict.fromkeys(options.stages)
    if "peer" in left_out and options.peer == "none":
        left_out["peer"] = "--peer none"
    if "training" in left_out and not options.data and not options.dry:
        left_out["training"] = "it needs the hippocampus data set, --data DIR"
    return left_out


def run_stage(name: str, settings: Settings) -> dict[str, Any]:
    """Run a stage within its time, which begins when it has imported everything.

    Returns:
        Its results, with `status` (done, failed, stopped or interrupted) and `start`, the seconds of its imports.
    """
    begin, started, ended, interrupted = time.monotonic(), 0.0, None, False
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "result.json"), Path(folder, "log")
        command = [sys.executable, str(SCRIPT), name, json.dumps(settings._asdict()), str(result)]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                while not result.exists() and process.poll() is None and started < START:
                    time.sleep(0.05)
                    started = time.monotonic() - begin
                if result.exists() or process.poll() is not None:
                    process.wait(settings.seconds + GRACE)
            except subprocess.TimeoutExpired:
                pass
            except KeyboardInterrupt:
                interrupted = True
            finally:
                ended = process.poll()
                stop(process)
        found = nothing()
        if result.exists():
            found |= json.loads(result.read_text(encoding="utf-8"))
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        lines = [line for line in lines if line]
    seconds = time.monotonic() - begin
    if interrupted or ended is None:
        status = "interrupted" if interrupted else "stopped"
        error = f"{status} after {seconds:.0f} s; the table has what was found until then"
    else:
        status = "done" if ended == 0 else "failed"
        error = None if ended == 0 else scrub(lines[-1] if lines else f"status {ended}")[:300]
    if status in ("failed", "stopped"):
        found["notes"] = [*found["notes"], *(f"printed: {line[:300]}" for line in lines[-LOG_LINES:])]
    return {**found, "stage": name, "status": status, "error": error, "seconds": seconds, "start": started}


def nothing() -> dict[str, Any]:
    """Return the results of a stage that did not begin."""
    return {"columns": [], "rows": [], "notes": [], "well": True}


def check(options: argparse.Namespace, report: Report) -> None:
    """Run the stages, and write the report after each.

    Raises:
        KeyboardInterrupt: After Ctrl-C; the results until then are written.
        InputError: If the report cannot be written.
    """
    variant = options.variant or ("v2_tiny" if options.dry else "v2_base")
    patch = options.patch or (32 if options.dry else 128)
    peer = None if options.peer == "none" else options.peer
    run = {"started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()), "variant": variant, "patch": patch}
    limit = time.monotonic() + 60 * options.minutes
    waiting, start = choose_stages(options), 0.0
    for name in list(waiting):
        reason = waiting.pop(name)
        if reason:
            found = {**nothing(), "stage": name, "status": "left out", "error": reason, "seconds": 0.0}
        else:
            later = [SECONDS[other] for other, why in waiting.items() if why is None]
            left = limit - time.monotonic() - start * (1 + len(later))
            seconds = max(5.0, left * SECONDS[name] / (SECONDS[name] + sum(later)))
            found = run_stage(name, Settings(variant, patch, peer, options.data, options.dry, seconds))
            start = found.pop("start")  # the imports of the next stage are similar
        if name == "environment":  # the first stage
            if found["status"] == "interrupted":  # the machine is unknown, so an earlier report is kept
                raise KeyboardInterrupt
            run["environment"] = dict(found["rows"]) if found["status"] == "done" else {}
            if told := report.take_over(run["environment"]):
                print(told, flush=True)
        report.add(found | run)
        print(f"{name}: {found['status']}, {found['seconds']:.0f} s {found['error'] or ''}".rstrip(), flush=True)
        if found["status"] == "interrupted":
            raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 1 if something failed or was stopped, and 130 after Ctrl-C."""
    options = parse_options(arguments)
    report = Report(options.output, options.dry)
    try:
        check(options, report)
    except KeyboardInterrupt:
        left = f"what was found until then is in {report}" if report.written else "nothing was found until then"
        print(f"interrupted; {left}", file=sys.stderr)
        return INTERRUPTED
    print(f"written: {report}")
    return 0 if all(s["status"] in ("done", "left out") and s["well"] for s in report.ran) else 1


if __name__ == "__main__":
    end(main)
