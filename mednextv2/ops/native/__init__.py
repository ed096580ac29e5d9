"""The C++ kernels for CPUs: built at first use with the compiler of the system, then loaded from a cache.

The library contains the kernels for AVX2, AVX-512, AVX-512 with bfloat16 and AMX, and chooses between them when it is
loaded. Without a compiler, on another kind of processor, or with `MEDNEXTV2_NATIVE=0`, everything works with PyTorch's
own operators, but slower.
"""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import torch

from mednextv2.errors import InputError
from mednextv2.machine import home_folder

logger = logging.getLogger(__name__)

SETTING = "MEDNEXTV2_NATIVE"  # environment variable: 0 disables the library
INSTRUCTIONS = "MEDNEXTV2_ISA"  # environment variable: the highest instructions to use; read when it is loaded
INSTRUCTION_SETS = ("avx2", "avx512", "avx512_bf16")
CACHE = "MEDNEXTV2_CACHE"  # environment variable: folder for built libraries, default ~/.cache/mednextv2
_FOLDER = Path(__file__).parent
_FLAGS = ["-O3", "-std=c++20", "-fopenmp", "-fvisibility=hidden", "-g0"]
_NAME = "mednextv2_native"
_FULL = ("No space left on device", "Disk quota exceeded")


class State(Enum):
    """The state of the library."""

    LOADED = auto()
    ABSENT = auto()  # switched off, unsuitable for this processor, or without a compiler
    BROKEN = auto()  # could not be built or loaded, for no expected reason


@dataclass(frozen=True)
class Outcome:
    """The outcome of the attempt to load the library.

    Attributes:
        state: The state of the library.
        reason: The instructions that it uses, or the reason why it is not available, for people to read.
    """

    state: State
    reason: str

    @property
    def loaded(self) -> bool:
        """Whether its kernels can be called."""
        return self.state is State.LOADED


def load() -> Outcome:
    """Load the library, building it if necessary.

    Raises:
        InputError: If an environment variable has a value that does not exist.
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
        if not hasattr(torch.ops.mednextv2_native, "instructions"):  # building already loads it
            torch.ops.load_library(str(path))
    except Exception as e:  # a broken compiler must not prevent use, since there is the PyTorch path
        reason = _cause(str(e)) or type(e).__name__
        if isinstance(e, OSError) or any(words in reason for words in _FULL):
            reason += f" (the folder for built libraries is {cache_folder()}; {CACHE} names another)"
        logger.warning(
            "The fast CPU kernels could not be built, so PyTorch's slower operators take their place: %s", reason
        )
        logger.debug("The whole message: %s", e)
        return Outcome(State.BROKEN, f"the library could not be built: {reason}")
    return Outcome(State.LOADED, torch.ops.mednextv2_native.instructions())


def _cause(message: str) -> str:
    """Return the line of a compiler's output that says what is wrong, which is seldom the first."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    for words in (*_FULL, "fatal error", "cannot execute", "error:", "Error:"):
        for line in lines:
            if words in line:
                found = line.find(words) if words in _FULL else 0
                return line[found : found + 300]
    return lines[0][:300] if lines else ""


def _unfit() -> str | None:
    """Say why this machine cannot build or run the library, or return None."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        return f"the CPU kernels are for Linux on x86-64, not {sys.platform} on {platform.machine()}"
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "the CPU kernels need AVX2, which this processor or the setting ATEN_CPU_CAPABILITY does not give"
    return None


def _without_compiler() -> str | None:
    """Say that the library is not built and cannot be, or return None."""
    compiler = os.environ.get("CXX") or "c++"
    if _intact(built()) or _restorable(built()) or shutil.which(compiler) is not None:
        return None
    reason = "there is no C++ compiler"
    named = f": CXX is {compiler}, which is not there or cannot be run"
    reason += named if os.environ.get("CXX") else " (Debian: apt install g++)"
    logger.warning("PyTorch's slower operators take the place of the fast CPU kernels: %s", reason)
    return reason


def cache_folder() -> Path:
    """Return the folder of built libraries.

    If there is no home folder or the user may not write to it, as in a container that runs as another user, it is a
    folder for this user alone in the folder for temporary files.
    """
    chosen = os.environ.get(CACHE)
    home = home_folder()
    if chosen:
        return (home / chosen[2:] if home and chosen.startswith("~/") else Path(chosen)).absolute()
    named = os.environ.get("XDG_CACHE_HOME")
    base = Path(named).absolute() if named else home / ".cache" if home else None
    if base is not None and (named or _writable(base / "mednextv2")):
        return base / "mednextv2"
    return _own_temporary()


def _writable(folder: Path) -> bool:
    """Tell whether a folder can be written to, or created if it is missing."""
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return os.access(there, os.W_OK | os.X_OK)


@functools.cache
def _own_temporary() -> Path:
    """Return a folder for temporary files to which nobody else can write, since code is loaded from it."""
    folder = Path(tempfile.gettempdir()) / f"mednextv2-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat(follow_symlinks=False)
        if found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077:
            logger.warning("There is no home folder that can be written to: built kernels are kept in %s", folder)
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="mednextv2-"))


@functools.cache
def _version() -> str:
    """Hash everything from which the library is built: sources, flags, PyTorch and Python."""
    digest = hashlib.sha256()
    for path in sorted(_FOLDER.glob("*.h")) + sorted(_FOLDER.glob("*.cpp")):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(repr((_FLAGS, torch.__version__, os.environ.get("CXX") or None)).encode())
    return digest.hexdigest()[:16]


def built() -> Path:
    """Return the path of the library of this version, which may not exist yet."""
    return cache_folder() / f"{_NAME}-{_version()}.so"


def library() -> Path:
    """Return the library's path after building it if it is missing; two processes build it only once."""
    target = built()
    if _intact(target):
        return target
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as e:
        raise NotADirectoryError(f"{target.parent} is no folder") from e
    with _lock(target.with_suffix(".lock")):
        if not _intact(target):  # it may have been built while this process waited
            for left in target.parent.glob(".build-*"):  # left by a killed build, since this process has the lock
                if left.is_file():
                    left.unlink()
                else:
                    shutil.rmtree(left, ignore_errors=True)
            if _restore(target):
                return target
            if target.exists():
                logger.warning("%s is damaged, or was not finished, and is built anew", target)
            logger.warning("Building the fast CPU kernels, once for this installation (about a minute): %s", target)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
                _build(Path(folder))
                library = Path(folder) / f"{_NAME}.so"
                (Path(folder) / "sum").write_text(_sum(library), encoding="utf-8")
                shutil.copy(library, Path(folder) / "spare")
                os.replace(library, target)
                os.replace(Path(folder) / "spare", _spare(target))
                os.replace(Path(folder) / "sum", _sum_file(target))
    return target


def _restore(target: Path) -> bool:
    """Put the spare copy in the place of a damaged one, since building takes a minute; say whether that was done."""
    if not _restorable(target):
        return False
    logger.warning("%s is missing or damaged, and is restored from the copy beside it", target)
    copy = target.with_name(f".build-spare-{os.getpid()}")
    try:
        shutil.copy(_spare(target), copy)
        os.replace(copy, target)
    finally:
        copy.unlink(missing_ok=True)
    return _intact(target)


def _intact(library: Path) -> bool:
    """Tell whether a built library is unchanged: loading a damaged one would end the process."""
    return _has_sum(library, library)


def _restorable(library: Path) -> bool:
    return _has_sum(library, _spare(library))


def _has_sum(library: Path, file: Path) -> bool:
    try:
        return _sum_file(library).read_text(encoding="utf-8") == _sum(file)
    except (OSError, UnicodeDecodeError):
        return False


def _sum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _sum_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _spare(library: Path) -> Path:
    return library.with_suffix(".spare")


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
    """Let PyTorch find ninja while it builds; in an environment that was not activated, ninja is beside Python.

    PyTorch looks for it in the environment of this process, which is restored afterwards.
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
    """Hold a lock that the system releases if the process dies."""
    import fcntl

    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("Waiting for another process, which is building the fast CPU kernels (about a minute)")
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:  # even if a process that was forked meanwhile also has the file open
            fcntl.flock(file, fcntl.LOCK_UN)
