"""What the machine gives to this process: its processors, a home folder, and a name for its user."""

import atexit
import getpass
import locale
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def usable_cpus() -> int:
    """Return how many processors this process may use, at least 1.

    It is the smallest of the number of processors on which the system schedules it (affinity), the quota of its control
    group (containers), and the number that Slurm gave to the task; the machine may have many more.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [affinity, _cgroup_limit(), _whole(os.environ.get("SLURM_CPUS_PER_TASK"))]
    return max(1, min(limit for limit in limits if limit is not None))


def machine_memory() -> float:
    """Return the bytes of memory of this machine; infinity where the system does not tell, as Windows."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf


def free_memory() -> float:
    """Return the bytes of memory that processes can still use; infinity where the system does not tell.

    It is what the system could give without swapping, but at most what the control group (containers) leaves.
    """
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        free = next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        free = math.inf
    most, now = _whole(_read(_CGROUP / "memory.max")), _whole(_read(_CGROUP / "memory.current"))
    if most is not None and now is not None:
        stat = dict(line.split()[:2] for line in (_read(_CGROUP / "memory.stat") or "").splitlines() if " " in line)
        cached = _whole(stat.get("inactive_file")) or 0  # of files, which the system drops when memory is needed
        free = min(free, max(0.0, most - now + cached))
    return free


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def home_folder() -> Path | None:
    """Return the home folder of the user, or None if there is none, as for a user whom the system does not know."""
    try:
        home = Path.home()
    except (RuntimeError, KeyError, OSError):
        return None
    return home if home.is_absolute() else None


def use_utf8() -> None:
    """Start this program again in Python's UTF-8 mode, if the locale says that files are in another encoding.

    MONAI and other libraries read files in the encoding of the locale. Bundles, data lists and reports are UTF-8
    everywhere, and would fail or be misread, as with `LC_ALL=C PYTHONUTF8=0` or a locale such as de_DE.ISO-8859-1. Only
    the command line calls this.
    """
    encoding = locale.getpreferredencoding(False).lower().replace("-", "")
    if encoding != "utf8" and not sys.flags.utf8_mode and sys.executable:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def name_user() -> None:
    """Give a user without a name one in the environment variable USER, without which importing MONAI would fail.

    In a container that runs as `docker run --user 12345`, nothing else identifies the user. If there is no home folder
    either, Matplotlib before 3.11, which MONAI imports, needs a folder in MPLCONFIGDIR, and gets a temporary one. Only
    the command line calls this function.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user{os.getuid()}"
    if home_folder() is None and not any(os.environ.get(name) for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME")):
        os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="matplotlib-")
        atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)


def _cgroup_limit() -> int | None:
    """Return the quota of the control group in whole processors, for both versions of control groups."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip()
                for name in ("quota", "period")
            )
        except (OSError, ValueError):
            return None
    found, each = _whole(quota), _whole(period)
    return math.ceil(found / each) if found and each else None


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() and int(text) > 0 else None
