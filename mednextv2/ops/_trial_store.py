"""The store of verdicts on kernels: one JSON file for each combination of GPU, driver, versions and kernels."""

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mednextv2.ops import native
from mednextv2.ops.problem_sizes import Problem
from mednextv2.version import __version__

DRIVER_FILE = Path("/proc/driver/nvidia/version")

logger = logging.getLogger(__name__)

PASSED, WRONG, COMPILE, ENDED, HUNG = "passed", "wrong", "compile", "ended", "hung"
MEMORY, UNABLE = "memory", "unable"  # not a verdict on the kernels, which are tried again later


class Card(NamedTuple):
    """The setup of a verdict: a GPU model and everything that compiles and runs kernels on it, as text."""

    gpu: str
    capability: str
    driver: str
    torch: str
    cuda: str
    triton: str
    kernels: str


class Verdict(NamedTuple):
    """The result of a trial.

    Attributes:
        kind: One of the names at the top of this file.
        reason: What is wrong, as a continuation of "The kernels …"; empty if nothing is wrong.
    """

    kind: str
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the kernels may be used."""
        return self.kind == PASSED

    @property
    def final(self) -> bool:
        """Whether the verdict is about the kernels, and not about an obstacle to their trial."""
        return self.kind not in (MEMORY, UNABLE)


def card(device: torch.device) -> Card:
    """Describe a CUDA device, and the software that runs kernels on it."""
    import triton

    properties = torch.cuda.get_device_properties(device)
    return Card(
        properties.name, f"{properties.major}.{properties.minor}", _driver(), torch.__version__,
        str(torch.version.cuda), triton.__version__, _kernels(),
    )  # fmt: skip


def _driver() -> str:
    """Return the version of the driver; if there is no file about it (WSL), the version of CUDA that it supports."""
    with contextlib.suppress(OSError):
        text = DRIVER_FILE.read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"\d+\.\d+(\.\d+)?", text):
            return found[0]
    version = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]  # PyTorch's stubs lack it
    return f"for CUDA {version}"


@functools.cache
def _kernels() -> str:
    """Hash the sources of the kernels and their trial."""
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def to_json(problem: Problem) -> dict[str, Any]:
    """Return a problem as values that JSON has."""
    return {**problem._asdict(), "dtype": str(problem.dtype).removeprefix("torch.")}


def from_json(value: dict[str, Any]) -> Problem:
    """Undo :func:`to_json`; raise ValueError or TypeError for anything else."""
    fields = dict(value)
    dtype = getattr(torch, str(fields.pop("dtype", None)), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"no problem: {value}")
    return Problem(**fields, dtype=dtype)


class Store:
    """The verdicts of one combination, in the cache folder; kept only in memory if that cannot be written.

    Args:
        card: The combination.
    """

    def __init__(self, card: Card) -> None:
        digest = hashlib.sha256(repr(tuple(card)).encode()).hexdigest()[:16]
        self.card = card
        self.path = native.cache_folder() / f"kernels-{digest}.json"
        self._complained = False

    def read(self) -> dict[Problem, Verdict]:
        """Return the known verdicts; a damaged file is discarded with a warning."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return {from_json(each["case"]): _verdict(each) for each in content["verdicts"]}
        except FileNotFoundError:
            return {}
        except OSError as e:
            self._complain(e)
            return {}
        except (ValueError, TypeError, KeyError, AttributeError):
            logger.warning("%s is damaged: the verdicts on the GPU kernels in it are made anew", self.path)
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            return {}

    def write(self, verdicts: dict[Problem, Verdict]) -> None:
        """Replace the stored verdicts with those of these that are final."""
        rows = [{"case": to_json(c), "kind": v.kind, "reason": v.reason} for c, v in verdicts.items() if v.final]
        text = json.dumps({"combination": self.card._asdict(), "verdicts": rows}, indent=1)
        temporary = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".kernels-")
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, self.path)
        except OSError as e:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            self._complain(e)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold a lock that the system releases if the process dies; if files cannot be written, hold none."""
        with contextlib.ExitStack() as stack:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(self.path.with_suffix(".lock"), "w", encoding="utf-8"))
                _wait_for(file)
                stack.callback(_release, file)
            except OSError as e:
                self._complain(e)
            yield

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            logger.warning(
                "The verdicts on the GPU kernels are not kept, and every process tries them anew: %s (%s); "
                "%s names another folder", self.path.parent, error.strerror or error, native.CACHE
            )  # fmt: skip


def _verdict(row: dict[str, Any]) -> Verdict:
    verdict = Verdict(row["kind"], row["reason"])
    if verdict.kind not in (PASSED, WRONG, COMPILE, ENDED, HUNG) or not isinstance(verdict.reason, str):
        raise ValueError(f"no verdict: {row}")
    return verdict


def _release(file: Any) -> None:
    """Release the lock even if a process that was forked meanwhile also has the file open."""
    import fcntl

    fcntl.flock(file, fcntl.LOCK_UN)


def _wait_for(file: Any) -> None:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.warning("Another process is trying the GPU kernels; this one waits for its verdicts")
        fcntl.flock(file, fcntl.LOCK_EX)
