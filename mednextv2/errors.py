"""The one exception for mistakes that a user can make and correct."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: What keeps a program from a file that its user named: an impossible name or links, missing rights, a failing disk.
_NO_ACCESS = (
    errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENXIO
)  # fmt: skip
#: Messages of PyTorch when tensors of worker processes find no space in /dev/shm, or no file handle.
_SHARED_MEMORY = r"Bus error|out of shared memory|unable to (allocate|open|resize|write|mmap|map).*</torch_"
_OPEN_FILES = r"received \d+ items of ancdata|Too many open files"
SHARED_MEMORY_REMEDY = (
    "give fewer --num_workers (0 needs no shared memory), or more shared memory to the container (docker run "
    "--shm-size=8g or --ipc=host)"
)
#: The beginning of the message with which PyTorch raises the error of a worker process again, with its traceback.
_IN_WORKER = "Caught InputError in DataLoader worker process"
_PERMISSION = "ask its owner for the permission (chmod, chown), or choose another file or folder"
_GOES_ON = "A training goes on from its last epoch with the same command"


class InputError(ValueError):
    """The user gave something that cannot be used: a file, a folder, a setting.

    The message names the file or setting, what is wrong with it and what to do. The command line prints only this
    message, without a traceback.
    """


class UsageError(InputError):
    """A mistake on the command line: an option, an argument or a setting that does not exist.

    The command line then ends with exit status 2, as is usual, and with 1 for any other :class:`InputError`.
    """


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Iterate over an exception and its causes, from the last that was raised to the first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the InputError that caused an exception, such as one from a library that wraps it, or None.

    If a library ran out of a resource of the machine, that is an InputError, too: space on a disk, shared memory for
    the worker processes of a data loader, memory (so that the system killed a worker), or open files. So is a file
    that the system does not let the program use, if the error names it.
    """
    found = next((e for e in causes(error) if isinstance(e, InputError)), None)
    if found is not None and str(found).startswith(_IN_WORKER):
        return InputError(str(found).rpartition("InputError: ")[2].strip())
    if found is None and (text := next(filter(None, map(_shortage, causes(error))), None)):
        found = InputError(text)
    return found


def _shortage(error: BaseException) -> str:
    """Say which resource the machine ran out of and what to do, or return an empty text."""
    if full := find_full_disk(error):
        return (
            f"{full.filename or 'a file, or the output of the program'}: cannot be written ({full.strerror}); make "
            "room on the disk, or choose another folder, and give the same command again"
        )
    text = str(error)
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in text:
        return "no folder for temporary files can be written; make room in /tmp, or name another folder with TMPDIR"
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: this user may not read or write it ({error.strerror}); {_PERMISSION}"
    if (isinstance(error, OSError) and error.errno == errno.EMFILE) or re.search(_OPEN_FILES, text):
        return (
            "num_workers: too many files are open for this user; allow more (ulimit -n 65536), or give fewer "
            f"--num_workers. {_GOES_ON}"
        )
    if isinstance(error, (RuntimeError, OSError)) and re.search(_SHARED_MEMORY, text):
        return f"/dev/shm: is too small for the batches of the worker processes; {SHARED_MEMORY_REMEDY}. {_GOES_ON}"
    if isinstance(error, RuntimeError) and re.search(
        r"DataLoader worker .*(killed by signal|exited unexpectedly)", text
    ):
        return (
            "num_workers: a worker process was killed, probably by the system for lack of memory; give fewer "
            f"--num_workers or a smaller --batch_size. {_GOES_ON}"
        )
    if isinstance(error, OSError) and error.errno in _NO_ACCESS and error.filename:
        return f"{os.fsdecode(error.filename)}: cannot be used ({error.strerror}); give another path, or mend this one"
    return ""


def find_full_disk(error: BaseException | None) -> OSError | None:
    """Return the cause of an exception that says that a disk is full or a file larger than allowed, or None."""
    return next((e for e in causes(error) if isinstance(e, OSError) and e.errno in _NO_ROOM), None)


def show_plainly() -> None:
    """Let `python -m monai.bundle run` end with an InputError's message instead of MONAI's nested traceback.

    Programs that only use the package are left alone: the hook is set only if MONAI's command line is the program.
    """
    program = Path(sys.argv[0])
    if program.name == "__main__.py" and program.parent.name == "bundle" and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    cause = find_input_error(error)
    if issubclass(kind, KeyboardInterrupt):
        print("stopped by Ctrl-C", file=sys.stderr)
    elif cause is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        print(f"error: {cause}", file=sys.stderr)
