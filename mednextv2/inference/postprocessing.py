"""Removal of small components from predictions: decided on the cross-validation's predictions, then applied."""

import json
import logging
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from mednextv2.errors import InputError
from mednextv2.images.volume import read_volume
from mednextv2.labels import LabelScheme
from mednextv2.paths import writing

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20  # voxels counted at a time: np.bincount makes 8 bytes of each

Box = tuple[slice, ...]


def keep_largest(mask: np.ndarray) -> np.ndarray:
    """Keep the largest connected component of a mask; voxels that touch at a corner are connected.

    Components that share the largest size are all kept; MONAI's `KeepLargestConnectedComponent` keeps only one of them.

    Args:
        mask: Booleans, `(X, Y)` or `(X, Y, Z)`.

    Returns:
        A new mask.
    """
    kept = np.zeros_like(mask)
    box = _bounding_box(mask)
    if box is None:
        return kept
    inside = mask[box]
    components, _ = ndimage.label(inside, np.ones((3,) * mask.ndim))
    numbers = components[inside]
    sizes = np.bincount(numbers)
    kept[box][inside] = (sizes == sizes.max())[numbers]
    return kept


def apply_steps(label_map: np.ndarray, steps: Sequence[Sequence[int]]) -> np.ndarray:
    """Remove small components from a label map, one step after the other.

    Args:
        label_map: Whole numbers of any type, `(X, Y)` or `(X, Y, Z)`.
        steps: Each a list of label values, of whose union only the largest component stays (see
            :func:`keep_largest`); what is removed becomes 0, the background.

    Returns:
        A new label map of the same type.
    """
    label_map = np.array(label_map)
    boxes = _boxes(label_map) if steps else []
    for values in steps:
        if (found := _removed(label_map, values, boxes)) is not None:
            box, removed = found
            label_map[box][removed] = 0
    return label_map


@dataclass(frozen=True)
class Decision:
    """Which steps of post-processing improve the predictions, and how it was found out.

    Attributes:
        steps: For :func:`apply_steps`.
        table: One row a candidate, in the order of the steps: `name`, `values`, `dice_before` and `dice_after` (None
            where no case has the structure), `accepted`; for the foreground also `worse`, the structures whose Dice
            falls.
        cases: Number of cases that it rests on.
    """

    steps: list[list[int]]
    table: list[dict[str, Any]]
    cases: int

    def to_json(self) -> str:
        """Return the decision as JSON, one line a candidate."""
        rows = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in self.table)
        return (
            f'{{\n  "steps": {json.dumps(self.steps)},\n  "decided_on": {{"cases": {self.cases}}},\n'
            f'  "candidates": [\n{rows}\n  ]\n}}\n'
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write the decision as JSON.

        Raises:
            InputError: When the file cannot be written.
        """
        with writing(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    @staticmethod
    def load(path: str | os.PathLike) -> list[list[int]]:
        """Read the steps of a saved decision; of a file written by hand, `steps` is all that is needed.

        Raises:
            InputError: When the file is missing, damaged, or of other content.
        """
        advice = "decide the post-processing again, or remove the file to go without"
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise InputError(f"{path}: cannot be read as JSON ({e}); {advice}") from e
        steps = content.get("steps") if isinstance(content, dict) else None
        if not isinstance(steps, list) or not all(map(_is_step, steps)):
            raise InputError(f'{path}: should have "steps", a list of lists of label values such as [[1, 2]]; {advice}')
        return steps


def _is_step(step: Any) -> bool:
    return isinstance(step, list) and bool(step) and all(type(value) is int and value > 0 for value in step)


class _Candidate(NamedTuple):
    name: str
    values: tuple[int, ...]
    structure: int | None  # its place in the scheme's foreground; None for the union of all values


def decide(
    pairs: Iterable[tuple[str | os.PathLike, str | os.PathLike]], scheme: LabelScheme, workers: int = 4
) -> Decision:
    """Decide where keeping the largest component improves the predictions of a cross-validation.

    First for the union of all foreground values: accepted if the mean foreground Dice rises and no structure's Dice
    falls. Then, if there are several, for each structure in its order, on top of what was accepted: accepted if its own
    Dice rises. A structure's Dice is the mean over the cases where the prediction or the label has it. The foreground's
    is the mean over structures, without those that no case has (nnU-Net rejects the union if there is such a one).

    A pass over the cases tries all open candidates at once. Another one follows only for candidates that share values
    with an accepted one before them: one or two passes in all for classes, at most one more than regions for regions.
    Files are read anew in each pass: compressed as they are, nothing kept in memory would be read faster. Threads
    suffice, since decompression and the search for components run without Python's lock.

    Args:
        pairs: For each case the files of the predicted and of the true label map, on the same grid.
        scheme: What the label values mean.
        workers: Cases worked on at the same time; each needs about 12 bytes a voxel.

    Returns:
        The decision.

    Raises:
        InputError: When there are no cases, or a file cannot be read, has values that are no labels or is of another
            shape than the other one.

    Source:
        nnU-Net (Isensee et al. 2021, Nature Methods, online methods), with the rule for regions of nnU-Net v2.
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
        waiting, unsettled = [], set()
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
    decision = Decision(
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
        found = pool.map(lambda pair: _case_scores(*pair, scheme, steps, candidates), pairs)
        # Summed in the order of cases: means of the same numbers are then the same to the last bit.
        for scores in tqdm(found, total=len(pairs), desc="deciding the post-processing", unit="case", mininterval=1):
            present = ~np.isnan(scores)
            total[present] += scores[present]
            count += present
    with np.errstate(invalid="ignore"):
        return total / count


def _case_scores(
    prediction: str | os.PathLike, label: str | os.PathLike, scheme: LabelScheme, steps: Sequence, candidates: Sequence
) -> np.ndarray:
    """Return what :func:`_mean_scores` averages, of one case."""
    pred, ref = _read_pair(prediction, label, scheme)
    pred = apply_steps(pred, steps)
    members = np.zeros((len(scheme.members), len(scheme.labels)))  # of float64, whose products BLAS does, exactly
    for row, values in zip(members, scheme.members, strict=True):
        row[list(values)] = 1
    counts = _confusion(pred, ref, len(scheme.labels))
    scores = [_dice(counts, members)]
    boxes = _boxes(pred)
    for values in candidates:
        found = _removed(pred, values, boxes)
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
    """Read a predicted and a true label map, both cut to the box that holds the foreground of both."""
    highest = len(scheme.labels) - 1
    pred = _read_label_map(prediction, highest)
    ref = _read_label_map(label, highest if scheme.ignore_label is None else scheme.ignore_label)
    if pred.shape != ref.shape:
        raise InputError(
            f"{prediction}: has shape {pred.shape}, but {label} has {ref.shape}; predict on the images of these labels"
        )
    if pred.flags.f_contiguous:
        pred, ref = pred.T, ref.T  # files are in this order, and loops are fast along the last axis
    box = _bounding_box((pred > 0) | (ref > 0)) or np.s_[:1]
    return np.ascontiguousarray(pred[box]), np.ascontiguousarray(ref[box])


def _read_label_map(path: str | os.PathLike, highest: int) -> np.ndarray:
    array, _ = read_volume(path)
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    label_map = array
    if array.size and array.min() >= 0 and array.max() <= highest:
        label_map = array.astype(np.uint8 if highest < 256 else np.uint16, copy=False)
        if array.dtype.kind in "iub" or np.array_equal(label_map, array):
            return label_map
    raise InputError(f"{path}: should have whole numbers from 0 to {highest}, the declared labels, as voxel values")


def _confusion(pred: np.ndarray, ref: np.ndarray, labels: int) -> np.ndarray:
    """Count voxels by predicted value (rows) and true value (columns), without the ignore label."""
    pred, ref = pred.ravel(), ref.ravel()
    columns = labels + 1  # the last one is the ignore label
    counts = np.zeros(labels * columns, dtype=np.int64)
    for start in range(0, pred.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        counts += np.bincount(pred[part].astype(np.intp) * columns + ref[part], minlength=counts.size)
    return counts.reshape(labels, columns)[:, :labels]


def _dice(counts: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return the Dice of each structure (row of `members`, 1 where it has a value), NaN where it is in neither."""
    overlap = (members @ counts * members).sum(1)
    with np.errstate(invalid="ignore"):
        return 2 * overlap / (members @ (counts.sum(0) + counts.sum(1)))


def _removed(
    label_map: np.ndarray, values: Sequence[int], boxes: Sequence[Box | None]
) -> tuple[Box, np.ndarray] | None:
    """Return a box of the label map and where in it the smaller components of a union of values are; None if empty."""
    found = [boxes[v - 1] for v in values if v <= len(boxes) and boxes[v - 1] is not None]
    if not found:
        return None
    box = tuple(slice(min(s.start for s in along), max(s.stop for s in along)) for along in zip(*found, strict=True))
    part = label_map[box]
    low, high = min(values), max(values)
    inside = (part >= low) & (part <= high)  # a whole range at once: the union of a hundred classes is one
    for value in set(range(low, high + 1)).difference(values):
        inside &= part != value
    return box, inside & ~keep_largest(inside)


def _boxes(label_map: np.ndarray) -> list[Box | None]:
    """Return the bounding box of each value from 1 on."""
    return ndimage.find_objects(label_map if label_map.dtype.kind in "iu" else label_map.astype(np.int32))


def _bounding_box(mask: np.ndarray) -> Box | None:
    return ndimage.find_objects(mask.view(np.uint8), max_label=1)[0]


class ApplyPostprocessingd(MapTransform):
    """Apply the steps of a saved :class:`Decision` to label maps.

    Without a file it does nothing: a bundle names the file that a cross-validation may leave there later.

    Args:
        keys: Of the label maps, tensors `(1, X, Y, Z)` of whole numbers on any device.
        path: The file, or None.
        allow_missing_keys: Whether a key may be missing.

    Raises:
        InputError: When the file is there and damaged.
    """

    def __init__(
        self, keys: KeysCollection, path: str | os.PathLike | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        file = Path(path).expanduser() if path else None
        self.steps = Decision.load(file) if file is not None and file.exists() else []

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with new label maps, of the same type, device and metadata."""
        result = dict(data)
        for key in self.key_iterator(data) if self.steps else ():
            given = data[key]
            if given.shape[0] != 1:
                raise ValueError(f"a label map has one channel; {key} has the shape {tuple(given.shape)}")
            array = given.as_subclass(Tensor).cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
            result[key] = convert_to_dst_type(apply_steps(array[0], self.steps)[None], given)[0]
        return result
