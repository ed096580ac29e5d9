"""Preprocessed cases on disk, of which training reads only the patches it needs.

A case consists of four files: the image (float16, `(C, X, Y, Z)`) and the label map (int16, `(1, X, Y, Z)`) as
memory-mapped NumPy arrays, positions of voxels of each structure, and a description, which is written last. Half
precision keeps 11 bits of a normalised intensity, which is more than the network's bfloat16, and halves the disk space
and the reading. A case without a label map consists of the image and the description.

Prepared files are used again only if they would be prepared in the same way. The name of the folder depends on the
transform with all of its arguments, the labels and the version of this package. The file names of a case depend on
where its sources are, so that cases of the same name in two data sets do not collide. The description contains the size
and times of the sources, and the size, times and checksum of the parts. A part whose times have changed is read and
compared with its checksum. This costs nothing as long as nobody has touched it, and finds files that were truncated,
exchanged or overwritten, but not a disk that lost bits.
"""

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from mednextv2.data.description import describe
from mednextv2.data.prepared_case import PreparedCase
from mednextv2.distributed import is_main_process
from mednextv2.errors import InputError, find_input_error
from mednextv2.images.label_map_files import read_label_map
from mednextv2.images.volume import SUFFIXES, VirtualVolume, stem
from mednextv2.label_scheme import LabelScheme
from mednextv2.paths import expand, prepare_folder, remove_leftovers, writing
from mednextv2.text_files import read_json
from mednextv2.version import __version__

logger = logging.getLogger(__name__)

_FORMAT = 3  # version of the file format; files with another number are prepared again
_PARTS = ("image.npy", "label.npy", "positions.npy")
_PARTS_OF_IMAGES = _PARTS[:1]  # of a case without a label map
_KEPT_VOXELS = 10_000  # positions kept for each structure, or one in a hundred if that is more
_SEED = 1234


class CaseStore:
    """Preprocess cases, each only once for the same settings and files.

    Args:
        transform: Turns an item into the tensors `image` `(C, X, Y, Z)` and `label` `(1, X, Y, Z)`.
        scheme: The label scheme; positions of the voxels of its structures are stored. None for images without labels.
        folder: Where to store cases; the files go into a subfolder that is named after the settings.
        settings: What the result depends on besides the transform, as plain data; other settings have files of their
            own.
        workers: Number of threads.
    """

    def __init__(
        self,
        transform: Callable,
        scheme: LabelScheme | None,
        folder: str | os.PathLike,
        settings: Mapping[str, Any],
        workers: int = 1,
    ) -> None:
        identity = [_FORMAT, __version__, settings, describe(transform)]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = expand(folder) / digest
        self.transform, self.scheme, self.workers = transform, scheme, max(1, workers)

    def prepare(self, items: Sequence[Mapping[str, Any]]) -> list[PreparedCase]:
        """Preprocess the cases that are missing. Under `torch.distributed`, rank 0 does it while the others wait.

        Args:
            items: Dicts with `image` and `label` (paths), and `case` (or the image's name). Without a scheme, there is
                no `label`.

        Returns:
            A prepared case for each item, in the order of the items.

        Raises:
            InputError: If a file cannot be written, or a label map has a value that the task does not define.
        """
        cases = self._cases(items)
        pairs = list(zip(cases, items, strict=True))
        distributed = dist.is_available() and dist.is_initialized()
        if not distributed or dist.get_rank() == 0:
            prepare_folder(self.folder, "prepared_dir")
            remove_leftovers(self.folder)
            with ThreadPoolExecutor(self.workers) as pool:
                current = pool.map(lambda pair: _is_current(pair[0], pair[1], check=True), pairs)
                work = [pair for pair, good in zip(pairs, current, strict=True) if not good]
            if work:
                logger.info("Preparing %d of %d cases in %s", len(work), len(cases), self.folder)
                with ThreadPoolExecutor(self.workers) as pool:
                    done = pool.map(lambda pair: _prepare(pair[0], pair[1], self.transform, self.scheme), work)
                    list(tqdm(done, total=len(work), desc="preparing", unit="case", mininterval=1))
        while distributed and not all(_is_current(case, item) for case, item in pairs):
            time.sleep(1)  # rather than a barrier, which gives up after ten minutes
        return cases

    def locate(self, items: Sequence[Mapping[str, Any]]) -> list[PreparedCase]:
        """Return a case for each item, which :meth:`prepare_case` has to prepare before it is read.

        Raises:
            InputError: If the folder cannot be written.
        """
        prepare_folder(self.folder, "prepared_dir")
        if is_main_process():
            remove_leftovers(self.folder)
        return self._cases(items)

    def prepare_case(self, case: PreparedCase, item: Mapping[str, Any]) -> None:
        """Preprocess a case if it is missing. If several processes do it at once, they write the same files.

        Raises:
            InputError: As of :meth:`prepare`.
        """
        try:
            if not _is_current(case, item, check=True):
                _prepare(case, item, self.transform, self.scheme)
        except Exception as e:
            if found := find_input_error(e):  # of a worker process, only the outermost error reaches the training
                raise InputError(str(found)) from e
            raise

    def _cases(self, items: Sequence[Mapping[str, Any]]) -> list[PreparedCase]:
        return [
            PreparedCase(self.folder, _name(item), _files(item), getattr(item.get("label"), "identity", ""))
            for item in items
        ]


def _name(item: Mapping[str, Any]) -> str:
    return str(item["case"]) if "case" in item else stem(_files(item)[0])


def _files(item: Mapping[str, Any]) -> list[str]:
    images = item["image"] if isinstance(item["image"], (list, tuple)) else [item["image"]]
    label = item.get("label")
    labels = label.files if isinstance(label, VirtualVolume) else [] if label is None else [label]
    return [*images, *labels]


def _signature(item: Mapping[str, Any]) -> list:
    """Return what changes when a source file is exchanged: the name, size and times of each file."""
    return [[os.path.abspath(f), *_status(Path(f))] for f in _files(item)]


def _status(file: Path) -> list[int]:
    """Return the size and times; only the system can set the time at which the file's entry was last changed."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _is_current(case: PreparedCase, item: Mapping[str, Any], check: bool = False) -> bool:
    """Tell whether a case is prepared from these files; with `check`, also whether its parts are unchanged."""
    try:
        facts = read_json(case.file("case.json"))
        if facts["source"] != _signature(item):
            return False
        parts = _PARTS if "label" in item else _PARTS_OF_IMAGES
        if check and (damaged := [part for part in parts if not _is_whole(case.file(part), facts["parts"][part])]):
            logger.warning(
                "case %s: its prepared files (%s) were damaged, and are prepared anew", case.name, ", ".join(damaged)
            )
            _forget(case)
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _forget(case: PreparedCase) -> None:
    """Let a case count as not prepared, until its last file is written."""
    try:
        case.file("case.json").unlink(missing_ok=True)
    except OSError as e:
        raise InputError(
            f"prepared_dir {case.file('case.json')}: cannot be removed ({e.strerror}); delete the folder above it"
        ) from e


def _is_whole(file: Path, written: Mapping[str, Any]) -> bool:
    if not file.is_file() or file.stat().st_size != written["status"][0]:
        return False
    return _status(file) == written["status"] or _checksum(file) == written["crc32"]


def _checksum(file: Path) -> int:
    found = 0
    with file.open("rb") as f:
        while piece := f.read(1 << 24):
            found = zlib.crc32(piece, found)
    return found


def _prepare(case: PreparedCase, item: Mapping[str, Any], transform: Callable, scheme: LabelScheme | None) -> None:
    if _is_current(case, item):
        return  # another training that shares the folder has prepared the case meanwhile and may be reading the files
    source = _signature(item)
    _forget(case)
    own_file = not isinstance(item.get("label"), VirtualVolume)
    if scheme is not None and own_file and str(item["label"]).lower().endswith(SUFFIXES):
        read_label_map(item["label"], scheme.declared)  # refuses values that the task does not define
    data = transform(dict(item))
    voxels = torch.as_tensor(data["image"])
    if not voxels.isfinite().all():
        raise InputError(
            f"{_files(item)[0]}: has NaN or infinite voxels; replace or recompute them, or leave the case out"
        )
    image = voxels.clamp(-65504, 65504).to(torch.float16).numpy()
    facts: dict[str, Any] = {"source": source, "shape": list(image.shape)}
    if scheme is None:
        facts["parts"] = {part: _save(case.file(part), image) for part in _PARTS_OF_IMAGES}
        _describe(case, facts)
        return
    label = torch.as_tensor(data["label"]).to(torch.int16)
    if image.shape[1:] != tuple(label.shape[1:]):
        raise InputError(
            f"case {case.name}: image and label map have the shapes {image.shape[1:]} and {tuple(label.shape[1:])} "
            "after preprocessing; run mednextv2 check on the data set"
        )
    positions = _draw_positions(label, scheme)
    arrays = (image, label.numpy(), np.concatenate(positions) if positions else np.zeros(0, np.int64))
    facts["counts"] = [len(p) for p in positions]
    facts["parts"] = {part: _save(case.file(part), array) for part, array in zip(_PARTS, arrays, strict=True)}
    _describe(case, facts)


def _describe(case: PreparedCase, facts: Mapping[str, Any]) -> None:
    """Write the description, with which the case is complete."""
    with writing(case.file("case.json")) as temporary, temporary.open("w", encoding="utf-8") as f:
        json.dump(facts, f)
        f.flush()
        os.fsync(f.fileno())


def _save(path: Path, array: np.ndarray) -> dict[str, Any]:
    """Write a part to the disk, and return the numbers by which it can later be checked."""
    with writing(path) as temporary:
        with temporary.open("wb") as f:
            np.save(f, np.ascontiguousarray(array))
            f.flush()
            os.fsync(f.fileno())
        checksum = _checksum(temporary)
    return {"status": _status(path), "crc32": checksum}


def _draw_positions(label: torch.Tensor, scheme: LabelScheme) -> list[np.ndarray]:
    """Choose voxels of each structure at random; with an ignore label, also among all annotated voxels.

    Source:
        nnU-Net: all voxels up to 10,000; of more voxels, 10,000 or one in a hundred, whichever is more; no replacement.
    """
    random = np.random.RandomState(_SEED)
    masks = [mask.reshape(-1) for mask in scheme.masks(label)]
    valid = scheme.valid(label)
    if valid is not None:
        masks.append(valid.reshape(-1))
    positions = []
    for mask in masks:
        flat = mask.nonzero().squeeze(1).numpy()
        if len(flat) > _KEPT_VOXELS:
            flat = random.choice(flat, max(_KEPT_VOXELS, len(flat) // 100), replace=False)
        positions.append(np.sort(flat).astype(np.int64))
    return positions
