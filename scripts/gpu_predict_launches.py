"""Compile the kernels of many launches and predict these, side by side: reading machine code takes as long, too."""

from collections.abc import Iterable
from typing import NamedTuple

from gpu_capture import Launch
from gpu_compile import Compiled, Job, compile_job, prepare
from gpu_predict import MACHINES, Prediction, predict


class Work(NamedTuple):
    """A compilation, and the launches that it is for."""

    job: Job
    launches: tuple[Launch, ...]


class Done(NamedTuple):
    """What came out.

    Attributes:
        compiled: Without the code.
        predictions: One for each launch; None where there is none, as on a GPU that nobody compared with predictions.
    """

    compiled: Compiled
    predictions: tuple[Prediction | None, ...]


def as_work(launches: Iterable[Launch], arch: int) -> list[Work]:
    """Put the launches together that need the same compilation."""
    found: dict[str, Work] = {}
    for launch in launches:
        job = prepare(launch, arch)
        own = found.get(repr(job), Work(job, ()))
        found[repr(job)] = own._replace(launches=(*own.launches, launch))
    return list(found.values())


def compile_and_predict(work: Work) -> Done:
    """Do one work; for :func:`gpu_compile.side_by_side`."""
    compiled, machine = compile_job(work.job), MACHINES.get(work.job.arch)
    known = machine and not compiled.error
    found = tuple(predict(launch, compiled, machine) if known else None for launch in work.launches)
    return Done(compiled._replace(cubin=b"", ttir=""), found)
