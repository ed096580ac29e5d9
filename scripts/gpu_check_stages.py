"""The stages of `gpu_check.py`: each is a command in a separate process, which writes its results as they are found.

    python scripts/gpu_check_stages.py STAGE SETTINGS RESULT

SETTINGS is a JSON object with the fields of :class:`Settings`, RESULT the file to write.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_check_processes import ROOT, run

from mednextv2.nets import VARIANTS
from mednextv2.paths import writing

DRY_ARCH = 90  # the compute capability for which a dry run compiles
NO_GPU = "no GPU: PyTorch sees no CUDA device here"
TEST_PROCESSES = 12  # each needs half a GiB of the GPU's memory, and the memory of its tests
OUTCOMES = ("passed", "failed|error", "skipped")  # results of tests in pytest's last line


class Settings(NamedTuple):
    """The settings of all stages.

    Attributes:
        variant: A key of `mednextv2.nets.VARIANTS`.
        patch: The edge of the patch in voxels.
        peer: `monai`, `resenc_l` or None.
        data: The folder of one or several data sets, or None.
        dry: Whether there is no GPU, and all code runs on the CPU.
        seconds: The time that the stage has.
    """

    variant: str
    patch: int
    peer: str | None
    data: str | None
    dry: bool
    seconds: float

    @property
    def device(self) -> str:
        """The device on which the stage runs."""
        return "cpu" if self.dry else "cuda"

    @property
    def arch(self) -> int:
        """The compute capability of the GPU as a number."""
        return (
            DRY_ARCH if self.dry else 10 * torch.cuda.get_device_capability()[0] + torch.cuda.get_device_capability()[1]
        )


class Table:
    """The results of a stage so far, in a file.

    Attributes:
        columns: The titles of the columns.
        rows: The rows of the table.
        notes: The sentences below it.
        raw: The raw numbers, only for the JSON file.
        well: Whether everything was as it should be.
    """

    def __init__(self, file: Path, columns: tuple[str, ...]) -> None:
        self.file, self.columns = file, columns
        self.rows: list[list[Any]] = []
        self.notes: list[str] = []
        self.raw: Any = None
        self.well = True
        self.save()

    def save(self, rows: list[list[Any]] | None = None, notes: list[str] | None = None, raw: Any = None) -> None:
        """Write the file, with new rows, notes and raw numbers if they are given."""
        self.rows = self.rows if rows is None else rows
        self.notes = self.notes if notes is None else notes
        self.raw = self.raw if raw is None else raw
        names = ("columns", "rows", "notes", "raw", "well")
        found = {name: getattr(self, name) for name in names}
        with writing(self.file) as temporary:
            temporary.write_text(json.dumps(found), encoding="utf-8")

    def add(self, *cells: Any, well: bool = True) -> None:
        """Add a row."""
        self.well = self.well and well
        self.rows.append(list(cells))
        self.save()


# --- the stages ------------------------------------------------------------------------------------------------------


def environment(settings: Settings, file: Path) -> None:
    """Report the GPU, its driver and clocks, and all versions."""
    from benchmark_report import describe_machine, describe_versions

    table = Table(file, ("what", "value"))
    machine = describe_machine()
    table.add("processor", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB")
    for name, version in describe_versions().items():
        table.add(name, version)
    if settings.dry:
        table.add("GPU", NO_GPU)
        return
    properties = torch.cuda.get_device_properties(0)
    table.add("GPU", f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB")
    table.add("multiprocessors", properties.multi_processor_count)
    table.add("compute capability", f"{properties.major}.{properties.minor}")
    table.add("CUDA of PyTorch", torch.version.cuda)
    asked = ["driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu"]
    if shutil.which("nvidia-smi"):
        answer = run(["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"], 20)
        for name, value in zip(asked, answer.last_line.split(", "), strict=False):
            table.add(name, value)


def compile_kernels(settings: Settings, file: Path) -> None:
    """Compile all kernels of the network in parallel; the later stages find them in Triton's cache."""
    from gpu_check_launches import COMPILE_COLUMNS, compile_step

    table = Table(file, COMPILE_COLUMNS)
    compile_step(settings.variant, settings.patch, settings.arch, settings.dry, table.save)
    table.well = not any(row[-1] for row in table.rows)
    table.save()


def trial(settings: Settings, file: Path) -> None:
    """Try every kernel against the plain definitions: `mednextv2 doctor --repeat`."""
    table = Table(file, ("command", "status", "seconds", "last line"))
    command = ["doctor", "--network", settings.variant, "--repeat"]
    ran = run([sys.executable, "-m", "mednextv2", *command], settings.seconds)
    table.add(f"mednextv2 {' '.join(command)}", ran.status, ran.seconds, ran.last_line, well=ran.status == 0)
    table.save(notes=[line for line in ran.output.splitlines() if line.strip()][-40:])


def tests(settings: Settings, file: Path) -> None:
    """Run the tests that need a GPU, each file in a separate process, since an illegal access poisons the others."""
    table = Table(file, ("file", "passed", "failed", "skipped", "seconds", "last line"))
    if settings.dry:
        table.save(notes=["A dry run shows that the tests of one file are found and started; without a GPU none runs."])
    end = time.monotonic() + settings.seconds
    files = [f for f in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in f.read_text(encoding="utf-8")]
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--maxfail=3", "-m", "gpu"]
    if importlib.util.find_spec("xdist") and not settings.dry:  # they spend most of their time compiling
        pytest += ["--numprocesses", str(min(TEST_PROCESSES, os.cpu_count() or 1))]
    for test in files[:1] if settings.dry else files:
        # use the kernels themselves, whatever their trial has found
        more = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "MEDNEXTV2_OPS": "triton"}
        ran = run([*pytest, str(test)], end - time.monotonic(), **more)
        counts = [sum(map(int, re.findall(rf"(\d+) (?:{w})", ran.last_line))) for w in OUTCOMES]
        nothing = ran.status == 5  # no test was selected
        name = str(test.relative_to(ROOT))
        table.add(name, *counts, ran.seconds, ran.last_line, well=ran.status == 0 or nothing)
        if ran.status and not nothing:
            wrong = [line for line in ran.output.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
            table.save(notes=[*table.notes, *(f"{name}: {line[:300]}" for line in wrong[:12])])
    if not settings.dry and not any(row[1] or row[2] for row in table.rows):
        table.well = False
        table.save(notes=["No test that needs a GPU ran, so this stage shows nothing: see the last lines."])


def sanitizer(settings: Settings, file: Path) -> None:
    """Run the smallest training step of each variant under compute-sanitizer, which detects invalid memory accesses."""
    table = Table(file, ("variant", "status", "errors", "seconds", "last line"))
    end = time.monotonic() + settings.seconds
    tool = shutil.which("compute-sanitizer")
    under = [tool, "--tool", "memcheck", "--print-limit", "4", "--error-exitcode", "99"] if tool else []
    if not tool:
        table.notes.append("compute-sanitizer is not installed (it comes with the CUDA toolkit): steps run without it.")
    if settings.dry:
        table.notes.append("A dry run shows that a step's process starts; without a GPU it ends at once with status 1.")
    # the project's own sizes first: v2_base has the kernels of v1_l, v2_small those of v1_s
    names = sorted(VARIANTS, key=lambda name: (not name.startswith("v2"), name != settings.variant))
    for variant in names[:1] if settings.dry else names:
        command = [*under, sys.executable, __file__, "step", variant]
        # use the kernels themselves, whatever their trial has found
        ran = run(command, end - time.monotonic(), CUDA_LAUNCH_BLOCKING="1", MEDNEXTV2_OPS="triton")
        errors = sum(map(int, re.findall(r"ERROR SUMMARY: (\d+) error", ran.output)))
        well = ran.last_line == NO_GPU if settings.dry else ran.status == 0 and not errors
        table.add(variant, ran.status, errors, ran.seconds, ran.last_line, well=well)
        if errors:
            table.save(notes=table.notes + [line for line in ran.output.splitlines() if "=====" in line][:12])


def smallest_step(variant: str) -> int:
    """Run one training step of a variant on 32³ voxels, and print its loss."""
    from gpu_check_launches import SMALLEST
    from gpu_check_steps import Row, Subject

    if not torch.cuda.is_available():
        print(NO_GPU)
        return 1
    subject = Subject(Row("ours", "train", "eager", variant, SMALLEST, 1, "cuda"))
    subject.step()
    torch.cuda.synchronize()
    norms = [p.grad.float().norm() for p in subject.net.parameters() if p.grad is not None]
    print(f"{variant}: gradients of {len(norms)} tensors, norm {float(torch.stack(norms).norm()):.4g}")
    return 0


def launches(settings: Settings, file: Path) -> None:
    """Time every launch on random tensors of its shapes, next to its prediction."""
    from gpu_check_launches import COLUMNS, time_step

    table = Table(file, COLUMNS)
    time_step(settings.variant, settings.patch, settings.arch, settings.dry, table.save)


def steps(settings: Settings, file: Path) -> None:
    """Measure a training step and an inference: eager, as CUDA graphs, compiled."""
    from gpu_check_steps import MODES, Row

    _measure([Row("ours", what, mode, settings.variant, settings.patch, batch, settings.device)
              for what, batch in (("train", 2), ("inference", 1)) for mode in MODES], settings, file)  # fmt: skip


def profile(settings: Settings, file: Path) -> None:
    """Add up the time of each kernel in a whole step, as in our trainings and inferences."""
    from gpu_check_profile import COLUMNS, profile_rows
    from gpu_check_steps import Row

    table = Table(file, COLUMNS)
    rows = [Row("ours", what, "recorded", settings.variant, settings.patch, batch, settings.device)
            for what, batch in (("train", 2), ("inference", 1))]  # fmt: skip
    profile_rows(rows, table.save)


def peer(settings: Settings, file: Path) -> None:
    """Measure our network and a peer in turns, as the reference of this run."""
    from gpu_check_steps import Row

    if settings.peer is None:
        raise SystemExit("there is no peer: --peer none")
    whose = [("ours", "recorded"), (settings.peer, "eager"), (settings.peer, "compiled")]
    # a training step of MONAI's network takes minutes to compile, and 37 GiB without compiling
    tasks = [("inference", 1)] if settings.peer == "monai" else [("inference", 1), ("train", 2)]
    _measure([Row(name, what, mode, settings.variant, settings.patch, batch, settings.device)
              for what, batch in tasks for name, mode in whose], settings, file)  # fmt: skip


def _measure(rows: list[Any], settings: Settings, file: Path) -> None:
    from gpu_check_steps import COLUMNS, measure_rows

    table = Table(file, COLUMNS)
    measure_rows(rows, max(1.0, settings.seconds - 5), table.save, 1 if settings.dry else 3)
    table.well = all(row[-1] == "" for row in table.rows)
    table.save()


def training(settings: Settings, file: Path) -> None:
    """Train the hippocampus bundle for some epochs; report seconds per epoch, waiting for the loader, and scores."""
    from gpu_check_training import COLUMNS, train

    table = Table(file, COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        ending = train(settings.data, Path(folder), settings.device, settings.dry, settings.seconds, table.add)
    table.save(notes=[f"After it the loaders' worker processes took {ending:.1f} s to end."])


STAGES: dict[str, Callable[[Settings, Path], None]] = {
    "environment": environment,
    "compile": compile_kernels,
    "trial": trial,
    "tests": tests,
    "sanitizer": sanitizer,
    "launches": launches,
    "steps": steps,
    "profile": profile,
    "peer": peer,
    "training": training,
}


def main(arguments: list[str]) -> int:
    """Run one stage, or the smallest step of a variant."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that children are stopped
    if arguments[0] == "step":
        return smallest_step(arguments[1])
    STAGES[arguments[0]](Settings(**json.loads(arguments[1])), Path(arguments[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
