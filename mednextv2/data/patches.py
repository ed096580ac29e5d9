"""Random training patches, drawn as nnU-Net draws them, from prepared cases."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from monai.data import MetaTensor
from monai.transforms import Compose, Randomizable
from torch.utils.data import Dataset, Sampler

from mednextv2.data.partial_labels import STRUCTURES, PartialLabels, with_structures
from mednextv2.data.prepared_case import PreparedCase
from mednextv2.data.prepared_store import CaseStore
from mednextv2.transforms.sampling import extract_patch
from mednextv2.transforms.spatial import RandPlacement, draw_centre

#: The key of a patch: index of the case, whether it is centred on a labelled voxel, seed of its random numbers.
PatchKey = tuple[int, bool, int]


class PatchSampler(Sampler[PatchKey]):
    """Choose the cases of an epoch's patches, and which of them are centred on a labelled voxel.

    Cases are drawn with replacement, all with the same probability unless others are given. The last patches of a batch
    are centred on a labelled voxel: patch `j` of `b` if `j >= round(b * (1 - foreground))`. In a batch of two it is one
    patch, and in a batch of one it is none. The batch is the joint batch of all processes. Every patch gets its own
    seed from PyTorch's random numbers, so that it does not depend on the number of worker processes.

    Args:
        cases: Number of cases.
        batch_size: Number of patches in a step of each process.
        steps: Number of steps in an epoch.
        foreground: The fraction of patches that are centred on a labelled voxel.
        chances: The probability of each case: see :func:`mednextv2.data.collection_sampling.add_chances`.

    Source:
        nnU-Net's data loader: fraction 0.33, batches in an endless loop.
    """

    def __init__(
        self,
        cases: int,
        batch_size: int,
        steps: int,
        foreground: float = 0.33,
        chances: Sequence[float] | None = None,
    ) -> None:
        self.cases, self.batch_size, self.steps = cases, batch_size, steps
        self._limits = None if chances is None else torch.tensor(chances, dtype=torch.float64).cumsum(0)
        distributed = dist.is_available() and dist.is_initialized()
        rank, processes = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        total = batch_size * processes
        self.centred = [rank * batch_size + j >= round(total * (1 - foreground)) for j in range(batch_size)]

    def __len__(self) -> int:
        return self.batch_size * self.steps

    def __iter__(self) -> Iterator[PatchKey]:
        for _ in range(self.steps):
            for centred in self.centred:
                yield self._draw_case(), centred, int(torch.randint(2**31, ()))

    def _draw_case(self) -> int:
        if self._limits is None:
            return int(torch.randint(self.cases, ()))
        place = torch.rand((), dtype=torch.float64) * self._limits[-1]
        return int(torch.searchsorted(self._limits, place, right=True))


class PatchDataset(Dataset, Randomizable):
    """Patches of prepared cases, indexed by the keys of :class:`PatchSampler`.

    Args:
        data: Items with `image` and `label` paths.
        store: The store that prepares them.
        patch_size: Voxels along each axis.
        placement: Draws rotation and scale; None for plain crops.
        transform: Applied to each item, with random numbers from the item's seed.
        substitute: The items that are used if `data` has none, which MONAI Label may give for validation.
        prepare_ahead: Whether all cases are prepared now. Otherwise, each is prepared when it is first drawn.

    Attributes:
        chances: The probability with which each case of a collection is to be drawn; None for a single data set.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        store: CaseStore,
        patch_size: Sequence[int],
        placement: RandPlacement | None = None,
        transform: Callable | None = None,
        substitute: Sequence[Mapping[str, Any]] = (),
        prepare_ahead: bool = True,
    ) -> None:
        items = data or substitute
        self.cases = store.prepare(items) if prepare_ahead else store.locate(items)
        self.structures = [torch.as_tensor(item[STRUCTURES]) if STRUCTURES in item else None for item in items]
        self.chances = [item["chance"] for item in items] if all("chance" in item for item in items) else None
        self._waiting = None if prepare_ahead else dict(enumerate(items))
        self.store = store
        self.patch_size, self.scheme = tuple(patch_size), store.scheme
        self.placement, self.transform = placement, transform

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: PatchKey) -> dict[str, Any]:
        """Return `image` `(C, *patch)` float32, `label` `(1, *patch)` int16, `seed`, and maybe `structures`."""
        index, centred, seed = key
        case = self.cases[index]
        if self._waiting and index in self._waiting:
            self.store.prepare_case(case, self._waiting[index])
            del self._waiting[index]
        self.set_random_state(seed)
        voxel = self._choose_voxel(case, centred)
        centre = draw_centre(self.R, case.label.shape[1:], self.patch_size, voxel)
        matrix = None
        if self.placement is not None:
            self.placement.set_random_state(state=self.R)
            matrix = self.placement.draw()
        image, label = extract_patch(case.image, case.label, centre, self.patch_size, matrix, fill_label=-1)
        item = {"image": image, "label": label, "seed": seed}
        if self.transform is not None:
            item = apply_seeded(self.transform, item)
        structures = self.structures[index]
        return item if structures is None else {**item, STRUCTURES: structures}

    def _choose_voxel(self, case: PreparedCase, centred: bool) -> tuple[int, ...] | None:
        """Return the voxel to centre the patch on: a voxel of a random structure of the case, or any annotated one."""
        counts = case.counts
        assert self.scheme is not None  # these cases have labels
        structures = len(self.scheme.foreground)
        present = [s for s in range(structures) if counts[s]]
        if centred and present:
            structure = present[self.R.randint(len(present))]
        elif self.scheme.ignore_label is not None and counts[structures]:
            structure = structures  # most of the volume may not be annotated, and nothing is learnt from it
        else:
            return None
        return case.position(structure, self.R.randint(counts[structure]))


def apply_seeded(transform: Callable, item: dict[str, Any]) -> dict[str, Any]:
    """Apply random transforms to an item, with random numbers that depend on the item's `seed` alone.

    Args:
        transform: A MONAI transform or Compose.
        item: A dict with `seed`.

    Returns:
        The item. Its tensors are without MONAI's metadata, which every operation of the network would carry along.
    """
    _share_state(transform, np.random.RandomState((item["seed"] + 1) % 2**32))
    return {k: v.as_tensor() if isinstance(v, MetaTensor) else v for k, v in transform(item).items()}


def _share_state(transform: Any, state: np.random.RandomState) -> None:
    """Let all transforms draw from one generator: seeding one for each takes longer than most transforms do."""
    if isinstance(transform, Compose):
        for part in transform.transforms:
            _share_state(part, state)
    elif isinstance(transform, Randomizable):
        transform.set_random_state(state=state)


class AugmentBatch:
    """Apply random transforms to a batch on its device: a `prepare_batch` of MONAI's trainer.

    Args:
        transform: Takes a dict with `image` `(C, ...)`, `label` `(1, ...)` and `seed`.
    """

    def __init__(self, transform: Callable) -> None:
        self.transform = transform

    def __call__(
        self, batch: dict[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | PartialLabels]:
        """Return images and label maps, `(B, C, ...)` and `(B, 1, ...)`; of a collection, partly annotated ones."""
        images, labels = (batch[key].to(device=device, non_blocking=non_blocking) for key in ("image", "label"))
        items = [
            apply_seeded(self.transform, {"image": image, "label": label, "seed": int(seed)})
            for image, label, seed in zip(images, labels, batch["seed"], strict=True)
        ]
        label = with_structures(torch.stack([i["label"] for i in items]), batch)
        return torch.stack([i["image"] for i in items]), label
