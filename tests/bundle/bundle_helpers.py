"""What the tests of bundles share."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from forked_processes import run_module

ROOT = Path(__file__).parents[2]
BUNDLES = ROOT / "bundles"
HIPPOCAMPUS = BUNDLES / "mednextv2_hippocampus"

# small enough for seconds on a CPU
QUICK = {
    "patch_size": [16, 32, 16], "batch_size": 1, "epochs": 1, "iterations_per_epoch": 2, "val_iterations": 1,
    "num_workers": 0,
}  # fmt: skip


def as_arguments(settings: dict) -> list[str]:
    """Turn settings into `--key value` arguments; what training prepares goes beside its output, not into bundles."""
    if "iterations_per_epoch" in settings and "output_dir" in settings:
        settings = {"prepared_dir": f"{settings['output_dir']}_prepared", **settings}
    return [str(part) for key, value in settings.items() for part in (f"--{key}", value)]


def run_python(*arguments, cwd=None, timeout=300, **environment) -> subprocess.CompletedProcess:
    """Run this interpreter with arguments, in a folder of one's own."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd, timeout=timeout, capture_output=True, text=True, env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def run_monai(workflow: str, settings: dict, bundle: Path = HIPPOCAMPUS, **kwargs) -> subprocess.CompletedProcess:
    """Run MONAI's own command line on a bundle."""
    return run_module(
        "monai.bundle", "run", "--config_file", bundle / "configs" / f"{workflow}.yaml", "--bundle_root", bundle,
        *as_arguments(settings), **kwargs,
    )  # fmt: skip


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))
