"""The trial of kernels on the GPU at hand: none is used before it has given the same numbers as PyTorch there.

A kernel that is right on one GPU, with one compiler, may read beyond its memory on another, which ends the whole
process. Kernels are therefore tried in separate processes, at first use on a combination of GPU, driver, PyTorch, CUDA,
Triton and version of the kernels. Verdicts are kept in the cache folder. A problem whose kernels fail uses PyTorch's
operators, and one line reports it. See `docs/gpu.md`.
"""

import logging
import threading
from collections.abc import Iterable
from contextlib import closing

import torch
from tqdm import tqdm

from mednextv2.ops import _trial_store as store
from mednextv2.ops import _trial_worker_pool as children
from mednextv2.ops import triton_available
from mednextv2.ops._trial_store import Verdict
from mednextv2.ops.implementations import TORCH, TRITON, Choice, of_kind
from mednextv2.ops.problem_sizes import Problem

logger = logging.getLogger(__name__)

_known: dict[tuple[int, Problem], Choice] = {}  # by index of the device; kept for the life of this process
_said: set[str] = set()  # lines about problems that no trial can change
_one_at_a_time = threading.RLock()


def choice(problem: Problem, device: torch.device) -> Choice:
    """Return the choice for a problem on a CUDA device; its kernels are tried if there is no verdict yet.

    While a CUDA graph is recorded, no trial is possible, and an unknown problem uses PyTorch's operators.
    """
    key = _key(problem, device)
    known = _known.get(key)
    if known is None:
        ensure([problem], device)
        known = _known.get(key)
    if known is None:
        reason = "not tried yet, and a CUDA graph is being recorded; run the network once before that"
        _say_once(f"The kernels for {in_words(problem)} are {reason}: PyTorch's slower operators are recorded")
        return Choice(TORCH, f"the Triton kernels are {reason}")
    return known


def ensure(problems: Iterable[Problem], device: torch.device) -> bool:
    """Try the kernels of all problems that have no verdict yet, all at once; warn of those that fail.

    Args:
        problems: The problems, as :meth:`mednextv2.nets.MedNeXt.problems` lists them.
        device: A CUDA device.

    Returns:
        Whether the choice for each is known now. It is not if a CUDA graph is being recorded, which a trial would
        disturb.
    """
    with _one_at_a_time:
        unknown = [problem for problem in dict.fromkeys(problems) if _key(problem, device) not in _known]
        if not unknown:
            return True
        chosen = {problem: of_kind(problem, "cuda") for problem in unknown}
        unfit = triton_available.unfit(device)
        if unfit:
            chosen = {p: Choice(TORCH, unfit) if c.name == TRITON else c for p, c in chosen.items()}
            if torch.cuda.is_available():
                _say_once(f"PyTorch's slower operators take the place of the GPU kernels: {unfit}")
        elif torch.cuda.is_current_stream_capturing():
            return False
        else:
            found = verdicts([p for p, c in chosen.items() if c.name == TRITON], device)
            warn(found, device)
            chosen |= {problem: _as_choice(verdict) for problem, verdict in found.items()}
        _known.update({_key(problem, device): chosen[problem] for problem in unknown})
        return True


def verdicts(problems: Iterable[Problem], device: torch.device, repeat: bool = False) -> dict[Problem, Verdict]:
    """Return the verdicts on problems that have kernels; try those without a verdict.

    Args:
        problems: The problems.
        device: A CUDA device for which :func:`mednextv2.ops.triton_available.unfit` returns None.
        repeat: Whether to try all of them again.
    """
    asked = list(dict.fromkeys(problems))
    if not asked:
        return {}
    kept = store.Store(store.card(device))
    known = kept.read()
    if repeat or any(problem not in known for problem in asked):
        with kept.lock():
            known = kept.read()  # another process may have tried them while this one waited
            if repeat:
                known = {problem: verdict for problem, verdict in known.items() if problem not in asked}
            known = _try([problem for problem in asked if problem not in known], known, kept, device)
    return {problem: known[problem] for problem in asked}


def warn(found: dict[Problem, Verdict], device: torch.device) -> None:
    """Log one line for each kind of failure."""
    by_kind: dict[str, list[Problem]] = {}
    for problem, verdict in found.items():
        if not verdict.passed:
            by_kind.setdefault(verdict.kind, []).append(problem)
    for problems in by_kind.values():
        others = f" (and for {_kinds(len(problems) - 1, 'other ')})" if len(problems) > 1 else ""
        logger.warning(
            "On %s, the kernels for %s%s %s. PyTorch's slower operators take their place",
            torch.cuda.get_device_name(device), in_words(problems[0]), others, found[problems[0]].reason.rstrip("."),
        )  # fmt: skip


def in_words(problem: Problem) -> str:
    """Describe a problem, such as `128 channels, expansion to 1024, kernel 3, bfloat16`."""
    words = [f"{problem.channels} channels"]
    if problem.expanded:
        words.append(f"expansion to {problem.expanded}")
        if problem.out_channels != problem.channels:
            words.append(f"compression to {problem.out_channels}")
    if problem.kernel_size:
        words.append(f"kernel {problem.kernel_size}")
        if problem.transposed:
            words.append("transposed")
        if problem.stride != 1:
            words.append(f"stride {problem.stride}")
    if problem.expanded:
        words += ["no GRN"] * (not problem.grn) + ["no residual"] * (not problem.residual)
    words += ["2D"] * (problem.spatial_dims == 2)
    return ", ".join([*words, str(problem.dtype).removeprefix("torch.")])


def _try(
    problems: list[Problem], known: dict[Problem, Verdict], kept: store.Store, device: torch.device
) -> dict[Problem, Verdict]:
    """Return `known` with the verdicts on `problems`, which are stored as they arrive."""
    if not problems:
        return known
    properties = torch.cuda.get_device_properties(device)
    job = children.Job(f"cuda:{_index(device)}", properties.name)
    logger.warning("Trying the kernels for %s on %s, once for this installation", _kinds(len(problems)), job.gpu)
    found = dict(known)
    steps = children.try_all(problems, job, children.workers(properties.total_memory))
    # shows a bar only on terminals
    with closing(steps), tqdm(total=len(problems), desc="GPU kernels", unit="kind", disable=None, leave=False) as bar:
        for problem, verdict in steps:
            found[problem] = verdict
            kept.write(found)
            bar.update()
    return found


def _as_choice(verdict: Verdict) -> Choice:
    if verdict.passed:
        return Choice(TRITON, "Triton kernels, tried on this GPU")
    return Choice(TORCH, f"the Triton kernels {verdict.reason}")


def _key(problem: Problem, device: torch.device) -> tuple[int, Problem]:
    return _index(device), problem


def _index(device: torch.device) -> int:
    if device.index is None and torch.cuda.is_available():
        return torch.cuda.current_device()
    return device.index or 0


def _kinds(number: int, other: str = "") -> str:
    return f"{number} {other}kind of block" if number == 1 else f"{number} {other}kinds of blocks"


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        logger.warning(line)
