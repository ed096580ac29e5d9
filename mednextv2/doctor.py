"""An examination of this machine: versions, the CPU library, and the verdicts on the kernels of each GPU."""

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

import torch

from mednextv2.errors import InputError
from mednextv2.nets.variants import VARIANTS, create_mednext
from mednextv2.ops import native, triton_available
from mednextv2.ops.implementations import AUTO, REFERENCE, SETTING, TORCH, TRITON, wanted
from mednextv2.ops.problem_sizes import Problem
from mednextv2.version import __version__

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


LARGEST_KERNEL = 31
_ASKED = {
    TORCH: "torch: PyTorch's operators are used, and none of the kernels below",
    REFERENCE: "reference: the plain definitions are used, and none of the kernels below",
    TRITON: "triton: GPU kernels are used without regard to their verdicts; on a CPU this changes nothing",
}


class Examination(NamedTuple):
    """The table to print, and whether everything that could work here does."""

    text: str
    well: bool


class _Row(NamedTuple):
    name: str
    text: str
    well: bool = True


def examine(
    network: str = "v2_base", kernel_size: int = 3, dtype: str = "bfloat16", repeat: bool = False
) -> Examination:
    """Look at the machine, build the CPU library and try the GPU kernels that have not been tried.

    Args:
        network: The size of the network whose kernels are tried.
        kernel_size: The kernel size of its depthwise convolutions.
        dtype: The dtype of its features: bfloat16, float16 or float32.
        repeat: Whether to try its GPU kernels again.

    Raises:
        InputError: If an argument has a value that does not exist.
    """
    problems = _problems(network, kernel_size, dtype)
    if not isinstance(repeat, bool):
        raise InputError(f"--repeat {repeat}: is a switch and takes no value")
    rows = [*_versions(), _cpu()]
    if torch.cuda.is_available():
        rows += _gpus(problems, f"{network}, kernel {kernel_size}, {dtype}", repeat)
    else:
        rows.append(_Row("GPU", f"none that PyTorch can use: {_why_no_gpu()}"))
    width = max(len(row.name) for row in rows) + 2
    return Examination(
        "\n".join(f"{row.name:<{width}}{row.text}" for row in rows), all(row.well for row in rows)
    )  # fmt: skip


def _problems(network: str, kernel_size: int, dtype: str) -> list[Problem]:
    if network not in VARIANTS:
        raise InputError(f"--network {network}: there is no such size of MedNeXt; choose one of {', '.join(VARIANTS)}")
    if (
        not isinstance(kernel_size, int)
        or isinstance(kernel_size, bool)
        or not (1 <= kernel_size <= LARGEST_KERNEL and kernel_size % 2 == 1)
    ):
        raise InputError(f"--kernel_size {kernel_size}: should be an odd number from 1 to {LARGEST_KERNEL}, such as 3")
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}: should be one of {', '.join(DTYPES)}")
    with torch.device("meta"):
        return create_mednext(network, kernel_size=kernel_size).problems(DTYPES[dtype])


def _versions() -> Iterator[_Row]:
    yield _Row("mednextv2", __version__)
    yield _Row("Python", f"{platform.python_version()}, {platform.system()} {platform.release()}")
    yield _Row("PyTorch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    for name, package in (("Triton", "triton"), ("MONAI", "monai")):
        try:
            yield _Row(name, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield _Row(name, "not installed")
    if wanted() != AUTO:
        yield _Row(SETTING, _ASKED[wanted()])


def _cpu() -> _Row:
    library = native.load()
    if library.loaded:
        return _Row("CPU kernels", f"{library.reason} ({native.built()})")
    return _Row("CPU kernels", f"none: {library.reason}", library.state is not native.State.BROKEN)


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "it was built for CPUs"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as e:
        return (str(e).strip().splitlines() or [type(e).__name__])[0]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "it finds no device" if hidden is None else f"CUDA_VISIBLE_DEVICES is {hidden!r}"


def _gpus(problems: list[Problem], words: str, repeat: bool) -> Iterator[_Row]:
    seen: dict[object, int] = {}  # by the setup of the verdicts, so that eight equal GPUs need one trial
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        properties = torch.cuda.get_device_properties(device)
        capability, gib = f"{properties.major}.{properties.minor}", properties.total_memory / 2**30
        yield _Row(f"GPU {index}", f"{properties.name}, compute capability {capability}, {gib:.0f} GiB")
        unfit = triton_available.unfit(device)
        if unfit:
            yield _Row("  kernels", f"none: {unfit}")
            continue
        from mednextv2.ops import _trial_store as store  # imported here, since only GPUs need it

        card = store.card(device)
        if card in seen:
            yield _Row("  kernels", f"as of GPU {seen[card]}")
        else:
            seen[card] = index
            yield from _verdicts(problems, device, store.Store(card), words, repeat)


def _verdicts(problems, device, kept, words, repeat) -> Iterator[_Row]:
    from mednextv2.ops import trial

    found = trial.verdicts(problems, device, repeat)
    passed = sum(verdict.passed for verdict in found.values())
    yield _Row("  driver", kept.card.driver)
    yield _Row("  kernels", f"of {words}: {passed} of {len(found)} kinds give PyTorch's numbers", passed == len(found))
    yield _Row("  kept in", str(kept.path) if os.path.exists(kept.path) else "memory alone")
    for problem, verdict in found.items():
        name = "right" if verdict.passed else "FAILED" if verdict.final else "not tried"
        text = trial.in_words(problem)
        yield _Row(f"    {name}", text if verdict.passed else f"{text}: {verdict.reason}")
