"""The C++ kernels for CPUs: built at first use with the compiler of the system, then loaded from a cache.

The library holds the kernels for AVX2, AVX-512, AVX-512 with bfloat16 and AMX, and chooses when it is loaded. Without a
compiler, on another kind of processor or with `MEDNEXTV2_NATIVE=0` everything works on PyTorch's own operators, slower.
"""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import torch

from mednextv2.errors import InputError

logger = logging.getLogger(__name__)

SETTING = "MEDNEXTV2_NATIVE"  # environment: 0 does without the library
INSTRUCTIONS = "MEDNEXTV2_ISA"  # environment: nothing beyond one of these; read by the library when it is loaded
INSTRUCTION_SETS = ("avx2", "avx512", "avx512_bf16")
CACHE = "MEDNEXTV2_CACHE"  # environment: folder for built libraries, default ~/.cache/mednextv2
_FOLDER = Path(__file__).parent
_FLAGS = ["-O3", "-std=c++20", "-fopenmp", "-fvisibility=hidden", "-g0"]
_NAME = "mednextv2_native"


class State(Enum):
    """What became of the library."""

    LOADED = auto()
    ABSENT = auto()  # switched off, of no use to this processor, or without a compiler
    BROKEN = auto()  # could not be built or loaded, although nothing spoke against it


@dataclass(frozen=True)
class Outcome:
    """What the attempt to load the library came to.

    Attributes:
        state: What became of it.
        reason: The instructions that it uses, or why it is not there; for people to read.
    """

    state: State
    reason: str

    @property
    def loaded(self) -> bool:
        """Whether its kernels can be called."""
        return self.state is State.LOADED


def load() -> Outcome:
    """Load the library, building it where that is needed.

    Raises:
        InputError: For a value of a setting that does not exist.
    """
    for name, known in ((SETTING, ("0", "1")), (INSTRUCTIONS, INSTRUCTION_SETS)):
        if os.environ.get(name) and os.environ[name] not in known:
            raise InputError(f"{name} is {' or '.join(known)}, not {os.environ[name]!r}")
    if os.environ.get(SETTING) == "0":
        return Outcome(State.ABSENT, f"switched off by {SETTING}=0")
    return _load()


@functools.cache
def _load() -> Outcome:
    unfit = _unfit() or _without_compiler()
    if unfit:
        return Outcome(State.ABSENT, unfit)
    try:
        path = library()
        if not hasattr(torch.ops.mednextv2_native, "instructions"):  # building has loaded it already
            torch.ops.load_library(str(path))
    except Exception as e:  # a broken compiler must not keep anyone from working: the PyTorch path is there
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        if isinstance(e, OSError):
            reason += f" (the folder for built libraries is {cache_folder()}; {CACHE} names another)"
        logger.warning("The fast CPU kernels could not be built, PyTorch's slower operators take their place: %s", e)
        return Outcome(State.BROKEN, f"the library could not be built: {reason}")
    return Outcome(State.LOADED, torch.ops.mednextv2_native.instructions())


def _unfit() -> str | None:
    """Say why this machine cannot build or run the library, or return None."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        return f"the CPU kernels are for Linux on x86-64, not {sys.platform} on {platform.machine()}"
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "the CPU kernels need AVX2, which this processor or the setting ATEN_CPU_CAPABILITY does not give"
    return None


def _without_compiler() -> str | None:
    """Say that the library is not built and cannot be, or return None."""
    compiler = os.environ.get("CXX", "c++")
    if _intact(built()) or shutil.which(compiler) is not None:
        return None
    reason = "there is no C++ compiler"
    reason += f": CXX is {compiler}, which is not there" if "CXX" in os.environ else " (Debian: apt install g++)"
    logger.warning("PyTorch's slower operators take the place of the fast CPU kernels: %s", reason)
    return reason


def cache_folder() -> Path:
    """Return the folder of built libraries."""
    chosen = os.environ.get(CACHE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mednextv2"


@functools.cache
def _version() -> str:
    """Hash what the library is built from: sources, flags, PyTorch and Python."""
    digest = hashlib.sha256()
    for path in sorted(_FOLDER.glob("*.h")) + sorted(_FOLDER.glob("*.cpp")):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(repr((_FLAGS, torch.__version__, os.environ.get("CXX"))).encode())
    return digest.hexdigest()[:16]


def built() -> Path:
    """Return where the library of this version is, or will be."""
    return cache_folder() / f"{_NAME}-{_version()}.so"


def library() -> Path:
    """Return the library's path after building it where it is missing; two processes build it once."""
    target = built()
    if _intact(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as e:
        raise NotADirectoryError(f"{target.parent} is no folder") from e
    with _lock(target.with_suffix(".lock")):
        if not _intact(target):  # it may have been built while this process waited
            if target.exists():
                logger.warning("%s is damaged, or was not finished, and is built anew", target)
            logger.warning("Building the fast CPU kernels, once for this installation (about a minute): %s", target)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
                _build(Path(folder))
                library = Path(folder) / f"{_NAME}.so"
                (Path(folder) / "sum").write_text(_sum(library), encoding="utf-8")
                os.replace(library, target)
                os.replace(Path(folder) / "sum", _sum_file(target))
    return target


def _intact(library: Path) -> bool:
    """Tell whether a built library is as it was written: to load a damaged one would end the process."""
    try:
        return _sum_file(library).read_text(encoding="utf-8") == _sum(library)
    except (OSError, UnicodeDecodeError):
        return False


def _sum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _sum_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _build(folder: Path) -> None:
    from torch.utils import cpp_extension

    with _ninja_on_path():
        cpp_extension.load(
            _NAME,
            sources=[str(path) for path in sorted(_FOLDER.glob("*.cpp"))],
            extra_cflags=_FLAGS,
            extra_ldflags=["-fopenmp"],
            build_directory=str(folder),
            is_python_module=False,
            is_standalone=False,
        )


@contextlib.contextmanager
def _ninja_on_path() -> Iterator[None]:
    """Let PyTorch find ninja, which is beside Python in an environment that was not activated, while it builds.

    PyTorch looks for it in this process's own environment, which is as before afterwards.
    """
    if shutil.which("ninja") is not None:
        yield
        return
    before = os.environ.get("PATH")
    os.environ["PATH"] = os.pathsep.join([os.defpath if before is None else before, sysconfig.get_path("scripts")])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock that the system lets go of if the process dies."""
    import fcntl

    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:  # although a process that was forked meanwhile has the file open, too
            fcntl.flock(file, fcntl.LOCK_UN)
