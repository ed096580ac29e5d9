"""One run of a comparison, in a process of its own: `python -m mednextv2.comparison.child JOB.json`.

Training and evaluation are the bundle's own workflows. Whatever happens to this process, the comparison goes on: a file
`outcome.json` says that the run is done, or why it failed, and if there is none, the process was killed.
"""

import json
import shutil
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from mednextv2.comparison.budget import MEASURED, TRIAL_VALIDATIONS, WARM_UP, Schedule, Trial, fit_schedule
from mednextv2.comparison.memory import peak_memory
from mednextv2.comparison.parent import end_with_parent
from mednextv2.comparison.runs import OUTCOME, PROGRESS, Job, read_job
from mednextv2.comparison.watch import RunWatch, watched
from mednextv2.errors import causes, find_input_error
from mednextv2.paths import prepare_folder, writing
from mednextv2.text_files import read_json
from mednextv2.training.engine import is_out_of_memory

_LONGEST = 400  # characters of a reason


def main(arguments: list[str]) -> int:
    """Run a job, and write its outcome.

    Args:
        arguments: The file of the job.

    Returns:
        The exit status: 0 if the run is done.
    """
    job = read_job(Path(arguments[0]))
    try:
        outcome: dict[str, Any] = {"status": "done", **run(job)}
    except KeyboardInterrupt:
        return 130
    except Exception as e:
        traceback.print_exc()  # to the run's log
        outcome = {"status": "failed", "reason": reason_of(e)}
    with writing(job.folder / OUTCOME) as temporary:
        temporary.write_text(json.dumps(outcome) + "\n", encoding="utf-8")
    return int(outcome["status"] != "done")


def run(job: Job) -> dict[str, Any]:
    """Train and evaluate.

    Returns:
        What the table needs besides the scores: steps, times, memory and parameters.
    """
    from mednextv2.bundle import run_bundle

    schedule = job.schedule or _schedule_by_trial(job)
    watch = RunWatch(job.folder / PROGRESS, None if job.minutes is None else 60 * job.minutes)
    training = job.folder / "training"
    if not watch.progress.finished:
        run_bundle(
            job.bundle,
            job.workflow,
            **{**job.train, **schedule.settings(), **watched(watch), "output_dir": str(training)},
        )
    evaluation = {"weights": str(training / "model.pt"), "output_dir": str(job.folder / "evaluation")}
    run_bundle(job.bundle, "evaluate", **{**job.evaluate, **evaluation})
    for name in ("checkpoint_latest.pt", "checkpoint_previous.pt"):  # large, and a run that is done needs them no more
        (training / name).unlink(missing_ok=True)
    progress = watch.progress
    trial = job.trial  # of a run that made too few steps to measure them
    step = progress.step_seconds if progress.measured_steps else read_json(trial)["step"] if trial.is_file() else None
    return {
        "parameters": progress.parameters,
        "epochs": len(progress.seconds),
        "planned_epochs": schedule.epochs,
        "steps": progress.steps[-1] if progress.steps else 0,
        "step_seconds": step,
        "training_seconds": progress.seconds[-1] if progress.seconds else 0.0,
        "stopped": progress.stopped,
        "peak_memory": progress.peak_memory,
        "memory_of": progress.memory_of,
    }


def _schedule_by_trial(job: Job) -> Schedule:
    """Measure the network in a short training, once for all of its runs, and plan with the result."""
    assert job.minutes is not None
    file = job.trial
    if not file.is_file():
        trial = measure(job)
        prepare_folder(file.parent, "output")
        with writing(file) as temporary:
            temporary.write_text(json.dumps(asdict(trial)) + "\n", encoding="utf-8")
    return fit_schedule(job.minutes, Trial(**read_json(file)))


def measure(job: Job) -> Trial:
    """Return how long a step of a training takes, and the end of an epoch."""
    from mednextv2.bundle import run_bundle

    folder = prepare_folder(job.folder / "trial", "output")
    watch = RunWatch(folder / PROGRESS, every_step=True)
    length = {"epochs": 1, "iterations_per_epoch": WARM_UP + MEASURED, "val_iterations": TRIAL_VALIDATIONS}
    more = {"output_dir": str(folder), "resume": False}
    try:
        run_bundle(job.bundle, job.workflow, **{**job.train, **length, **watched(watch), **more})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Trial(median(watch.durations), watch.ends[0])  # a busy moment of the machine does not count


def reason_of(error: BaseException) -> str:
    """Say in a sentence why a run failed."""
    found = find_input_error(error)
    if found is not None:
        text = "; ".join(str(found).splitlines())
    elif any(map(is_out_of_memory, causes(error))):
        most, whose = peak_memory()
        text = f"ran out of memory (the {whose} had used {most / 2**30:.1f} GiB)"
    else:
        deepest = list(causes(error))[-1]  # MONAI's own message only says which part of the configuration it was
        first = str(deepest).strip().splitlines() or ["no message"]
        text = f"crashed with {type(deepest).__name__}: {first[0]}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(sys.argv[1:]))
