"""The choice of a post-processing on the predictions of a cross-validation: which steps improve the mean Dice."""

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mednextv2.errors import InputError
from mednextv2.images.label_map_files import read_label_map
from mednextv2.inference.components import apply_steps, bounding_box, bounding_boxes, removed_by
from mednextv2.inference.postprocessing import Postprocessing
from mednextv2.label_scheme import LabelScheme

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20  # number of voxels counted at a time, since np.bincount needs 8 bytes for each


class _Candidate(NamedTuple):
    name: str
    values: tuple[int, ...]
    structure: int | None  # its index in the scheme's foreground; None for the union of all values


def choose_postprocessing(
    pairs: Iterable[tuple[str | os.PathLike, str | os.PathLike]], scheme: LabelScheme, workers: int = 4
) -> Postprocessing:
    """Decide where keeping the largest component improves the predictions of a cross-validation.

    The union of all foreground values is tried first, and accepted if the mean foreground Dice rises and no structure's
    Dice falls. Then, if there are several structures, each is tried in its order, on top of what was accepted, and
    accepted if its own Dice rises. The Dice of a structure is the mean over the cases in which the prediction or the
    reference has it. The Dice of the foreground is the mean over structures, without those that no case has (nnU-Net
    rejects the union if there is such a structure).

    A pass over the cases tries all open candidates at once. Another pass follows only for candidates that share values
    with a candidate accepted before them: there are one or two passes in all for classes, and at most one more than
    there are regions for regions. Files are read again in each pass: they are compressed, and nothing kept in memory
    could be read faster. Threads suffice, since decompression and the search for components run without Python's lock.

    Args:
        pairs: The files of the prediction and of the reference for each case, label maps on the same grid.
        scheme: The meaning of the label values.
        workers: Number of cases that are processed at the same time; each needs about 12 bytes per voxel.

    Returns:
        The decision.

    Raises:
        InputError: When there are no cases, or a file cannot be read, has values that are not labels, or has a
            different shape from the other file.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods), with the rule of nnU-Net v2 for regions.
    """
    pairs = list(pairs)
    if not pairs:
        raise InputError("post-processing: there are no predictions to decide on; run the cross-validation first")
    candidates = _candidates(scheme)
    rows: dict[int, dict] = {}
    accepted: list[int] = []
    undecided = list(range(len(candidates)))
    while undecided:
        steps = [candidates[i].values for i in sorted(accepted)]
        before, *after = _mean_scores(pairs, scheme, steps, [candidates[i].values for i in undecided], workers)
        waiting: list[int] = []
        unsettled: set[int] = set()
        for i, scores in zip(undecided, after, strict=True):
            if unsettled.intersection(candidates[i].values):
                waiting.append(i)
                unsettled.update(candidates[i].values)
                continue
            rows[i] = _judge(candidates[i], scheme.foreground, before, scores)
            if rows[i]["accepted"]:
                accepted.append(i)
                unsettled.update(candidates[i].values)
        undecided = waiting
    decision = Postprocessing(
        [list(candidates[i].values) for i in sorted(accepted)], [rows[i] for i in sorted(rows)], len(pairs)
    )
    logger.info("Post-processing keeps the largest component of: %s", decision.steps or "nothing")
    return decision


def _candidates(scheme: LabelScheme) -> list[_Candidate]:
    union = _Candidate("foreground", tuple(range(1, len(scheme.labels))), None)
    named = zip(scheme.foreground, scheme.members, strict=True)
    structures = [_Candidate(name, values, i) for i, (name, values) in enumerate(named)]
    return [union, *(structures if len(structures) > 1 else [])]


def _judge(candidate: _Candidate, names: Sequence[str], before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Return a candidate's row of the table, from the mean Dice of all structures without and with it."""
    if candidate.structure is None:
        old, new = (s[~np.isnan(s)].mean() if not np.isnan(s).all() else np.nan for s in (before, after))
        worse = [name for name, fell in zip(names, after < before, strict=True) if fell]
    else:
        old, new = before[candidate.structure], after[candidate.structure]
        worse = []
    row = {
        "name": candidate.name,
        "values": list(candidate.values),
        "dice_before": None if np.isnan(old) else float(old),
        "dice_after": None if np.isnan(new) else float(new),
        "accepted": bool(new > old) and not worse,
    }
    return row | ({"worse": worse} if candidate.structure is None else {})


def _mean_scores(
    pairs: Sequence[tuple], scheme: LabelScheme, steps: Sequence, candidates: Sequence, workers: int
) -> np.ndarray:
    """Return the Dice of each structure, averaged over the cases, after `steps` alone and then with each candidate."""
    total = np.zeros((1 + len(candidates), len(scheme.foreground)))
    count = np.zeros_like(total)
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda pair: _case_scores(pair[0], pair[1], scheme, steps, candidates), pairs)
        # The scores are summed in the order of cases, so that means of the same numbers are equal to the last bit.
        for scores in tqdm(found, total=len(pairs), desc="deciding the post-processing", unit="case", mininterval=1):
            present = ~np.isnan(scores)
            total[present] += scores[present]
            count += present
    with np.errstate(invalid="ignore"):
        return total / count


def _case_scores(
    prediction: str | os.PathLike, label: str | os.PathLike, scheme: LabelScheme, steps: Sequence, candidates: Sequence
) -> np.ndarray:
    """Return the scores of one case, which :func:`_mean_scores` averages."""
    pred, ref = _read_pair(prediction, label, scheme)
    pred = apply_steps(pred, steps)
    members = np.zeros((len(scheme.members), len(scheme.labels)))  # float64, whose products BLAS computes, exactly
    for row, values in zip(members, scheme.members, strict=True):
        row[list(values)] = 1
    counts = _confusion(pred, ref, len(scheme.labels))
    scores = [_dice(counts, members)]
    boxes = bounding_boxes(pred)
    for values in candidates:
        found = removed_by(pred, values, boxes)
        if found is None or not found[1].any():
            scores.append(scores[0])
            continue
        box, removed = found
        moved = _confusion(pred[box][removed], ref[box][removed], len(scheme.labels))
        changed = counts - moved
        changed[0] += moved.sum(0)
        scores.append(_dice(changed, members))
    return np.stack(scores)


def _read_pair(
    prediction: str | os.PathLike, label: str | os.PathLike, scheme: LabelScheme
) -> tuple[np.ndarray, np.ndarray]:
    """Read a prediction and its reference, both cut to the box that holds the foreground of both."""
    pred, _ = read_label_map(prediction, scheme.labels)
    ref, _ = read_label_map(label, scheme.declared)
    if pred.shape != ref.shape:
        raise InputError(
            f"{prediction}: has shape {pred.shape}, but {label} has {ref.shape}; predict on the images of these labels"
        )
    if pred.flags.f_contiguous:
        pred, ref = pred.T, ref.T  # files are stored in this order, and loops are fast along the last axis
    box = bounding_box((pred > 0) | (ref > 0)) or np.s_[:1]
    return np.ascontiguousarray(pred[box]), np.ascontiguousarray(ref[box])


def _confusion(pred: np.ndarray, ref: np.ndarray, labels: int) -> np.ndarray:
    """Count voxels by predicted value (rows) and by the reference's (columns), without the ignore label."""
    pred, ref = pred.ravel(), ref.ravel()
    columns = labels + 1  # the last one is the ignore label
    counts = np.zeros(labels * columns, dtype=np.int64)
    for start in range(0, pred.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        counts += np.bincount(pred[part].astype(np.intp) * columns + ref[part], minlength=counts.size)
    return counts.reshape(labels, columns)[:, :labels]


def _dice(counts: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return the Dice of each structure (a row of `members`, 1 for each of its values), NaN if it occurs in neither."""
    overlap = (members @ counts * members).sum(1)
    with np.errstate(invalid="ignore"):
        return 2 * overlap / (members @ (counts.sum(0) + counts.sum(1)))
