"""The scores of all runs, put together for each network."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mednextv2.comparison.bootstrap import paired_interval
from mednextv2.comparison.entries import Entry
from mednextv2.comparison.runs import Run
from mednextv2.data.case_groups import group_cases
from mednextv2.report.score_reading import Scores, read_scores
from mednextv2.scores.results_json import read_results

DICE, SURFACE_DICE = "dice", "surface_dice_1mm"


@dataclass(frozen=True)
class RunScores:
    """The scores of one run.

    Attributes:
        run: The run.
        outcome: What its process reported: steps, times, memory and parameters.
        dice: The mean over structures of the mean over cases, as in the evaluation's summary.
        surface_dice: Likewise.
        cases: The mean Dice over structures of each case; NaN for a case without any structure.
    """

    run: Run
    outcome: Mapping[str, Any]
    dice: float
    surface_dice: float
    cases: Mapping[str, float]


@dataclass
class Result:
    """What is known of one network.

    Attributes:
        entry: The network.
        runs: The runs that are done.
        planned: The number of runs that were asked for.
        reason: Why a run failed, or an empty text.
        rank: The place among the networks whose runs are all done, from 1; None for the others.
        difference: The mean difference of a case's Dice to the best network's; None for the best and without a rank.
        interval: Its 95 % interval.
        scratch: For a network with weights to start from, the result of the same network without, if both have ranks.
        gain: The mean difference of a case's Dice to that.
        gain_interval: Its 95 % interval.
    """

    entry: Entry
    runs: list[RunScores]
    planned: int
    reason: str = ""
    rank: int | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    cases: dict[str, float] = field(default_factory=dict)
    scratch: "Result | None" = None
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None

    @property
    def complete(self) -> bool:
        """Whether all runs are done."""
        return len(self.runs) == self.planned

    def mean(self, name: str) -> float:
        """Return the mean over runs of an attribute of :class:`RunScores`, or of a number that processes report."""
        values = [v for v in self._values(name) if v is not None and not math.isnan(v)]
        return float(np.mean(values)) if values else math.nan

    def deviation(self, name: str) -> float:
        """Return the standard deviation over runs; NaN for a single one."""
        values = self._values(name)
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    def better_runs(self) -> int:
        """Return how many runs have a higher Dice than the run from scratch with the same fold and seed."""
        before = {(s.run.fold, s.run.seed): s.dice for s in self.scratch.runs} if self.scratch else {}
        return sum(s.dice > before.get((s.run.fold, s.run.seed), math.inf) for s in self.runs)

    def _values(self, name: str) -> list[Any]:
        return [getattr(run, name) if hasattr(run, name) else run.outcome.get(name) for run in self.runs]


def read_run(run: Run) -> RunScores:
    """Read the scores of a run that is done from its evaluation.

    Raises:
        InputError: If the files of the evaluation are missing or damaged.
    """
    folder = run.folder / "evaluation"
    scores = read_scores(read_results(folder), folder)
    cases = dict(zip(scores.cases, scores.mean(DICE).tolist(), strict=True))
    return RunScores(run, run.outcome(), _summary(scores, DICE), _summary(scores, SURFACE_DICE), cases)


def _summary(scores: Scores, name: str) -> float:
    values = scores.values[name]
    of_structures = [column[~np.isnan(column)].mean() for column in values.T if not np.isnan(column).all()]
    return float(np.mean(of_structures)) if of_structures else math.nan


def gather(runs: Sequence[Run], reasons: Mapping[str, str], group: str | None = None) -> list[Result]:
    """Put the scores of all runs together, and compare every network with the best.

    Args:
        runs: All runs that were asked for.
        reasons: Why runs failed, by the name of the network.
        group: The regular expression for the patient in a case's name: see
            :func:`mednextv2.data.case_groups.group_cases`.

    Returns:
        One result for each network: first those with a rank, by rank, then the others.
    """
    results: dict[str, Result] = {}
    for run in runs:
        result = results.setdefault(run.entry.name, Result(run.entry, [], 0, reasons.get(run.entry.name, "")))
        result.planned += 1
        if run.done:
            result.runs.append(read_run(run))
    ranked = sorted((r for r in results.values() if r.complete), key=lambda r: -r.mean("dice"))
    for result in ranked:
        result.rank = 1 + sum(other.mean("dice") > result.mean("dice") for other in ranked)
        result.cases = _mean_of_cases(result.runs)
    for result in ranked[1:]:
        result.difference, result.interval = _difference(result, ranked[0], group)
    scratch = {r.entry.network: r for r in ranked if not r.entry.pretrained}
    for result in ranked:
        if result.entry.pretrained and (before := scratch.get(result.entry.network)):
            result.scratch = before
            result.gain, result.gain_interval = _difference(result, before, group)
    return [*ranked, *(r for r in results.values() if not r.complete)]


def _mean_of_cases(runs: Sequence[RunScores]) -> dict[str, float]:
    """Return the mean over seeds of each case's Dice, without cases that have no structure."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for case, dice in run.cases.items():
            if not math.isnan(dice):
                values.setdefault(case, []).append(dice)
    return {case: float(np.mean(found)) for case, found in values.items()}


def _difference(
    result: Result, other: Result, group: str | None
) -> tuple[float, tuple[float, float]] | tuple[None, None]:
    """Return the mean difference of a case's Dice between two networks, and its 95 % interval."""
    names = sorted({*result.cases} & {*other.cases})
    if not names:
        return None, None
    differences = np.array([result.cases[name] - other.cases[name] for name in names])
    return float(differences.mean()), paired_interval(differences, group_cases(names, group))
