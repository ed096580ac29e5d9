"""Compile and predict many launches in parallel, since reading machine code takes as long as compiling."""

from collections.abc import Iterable
from typing import NamedTuple

from gpu_capture import Launch
from gpu_compile import Compiled, Job, compile_job, prepare
from gpu_predict import MACHINES, Prediction, predict


class Work(NamedTuple):
    """A compilation, and the launches that need it."""

    job: Job
    launches: tuple[Launch, ...]


class Done(NamedTuple):
    """The result of a piece of work.

    Attributes:
        compiled: The compilation, without the code.
        predictions: One prediction for each launch; None if there is none, as for a GPU without comparisons.
    """

    compiled: Compiled
    predictions: tuple[Prediction | None, ...]


def as_work(launches: Iterable[Launch], arch: int) -> list[Work]:
    """Group the launches that need the same compilation."""
    found: dict[str, Work] = {}
    for launch in launches:
        job = prepare(launch, arch)
        own = found.get(repr(job), Work(job, ()))
        found[repr(job)] = own._replace(launches=(*own.launches, launch))
    return list(found.values())


def compile_and_predict(work: Work) -> Done:
    """Do one piece of work, for :func:`gpu_compile.side_by_side`."""
    compiled, machine = compile_job(work.job), MACHINES.get(work.job.arch)
    known = machine and not compiled.error
    found = tuple(predict(launch, compiled, machine) if known else None for launch in work.launches)
    return Done(compiled._replace(cubin=b"", ttir=""), found)
