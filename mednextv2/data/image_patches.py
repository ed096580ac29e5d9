"""Patches of images without labels: random ones for training, and always the same ones for validation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch.distributed as dist
from monai.transforms import Randomizable
from torch.utils.data import Dataset, Sampler

from mednextv2.data.patches import apply_seeded
from mednextv2.data.prepared_store import CaseStore
from mednextv2.transforms.sampling import extract_patch
from mednextv2.transforms.spatial import RandPlacement, draw_centre

#: The key of a patch: index of the image, number of the patch among those of a validation, seed of its random numbers.
ImageKey = tuple[int, int, int]


class ImagePatches(Dataset, Randomizable):
    """Patches of prepared images, indexed by the keys of :class:`PatchSampler` or :class:`FixedPatches`.

    Patches lie anywhere in an image; images that are smaller along an axis are padded with 0, which is their mean after
    normalisation.

    Args:
        data: Items with an `image`, and a `channel` if it has several.
        store: The store that prepares them, without a label scheme.
        patch_size: Voxels along each axis.
        placement: Draws rotation and scale; None for plain crops.
        transform: Applied to each item, with random numbers from the item's seed.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        store: CaseStore,
        patch_size: Sequence[int],
        placement: RandPlacement | None = None,
        transform: Callable | None = None,
    ) -> None:
        self.cases = store.prepare(data)
        self.patch_size = tuple(patch_size)
        self.placement, self.transform = placement, transform

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: ImageKey) -> dict[str, Any]:
        """Return `image` `(C, *patch)` float32, the name of its `case`, the `seed`, and the `number` of the patch."""
        index, number, seed = key
        image = self.cases[index].image
        self.set_random_state(seed)
        centre = draw_centre(self.R, image.shape[1:], self.patch_size)
        matrix = None
        if self.placement is not None:
            self.placement.set_random_state(state=self.R)
            matrix = self.placement.draw()
        nowhere = np.broadcast_to(np.zeros((), np.int16), (1, *image.shape[1:]))  # takes no memory
        item: dict[str, Any] = {
            "image": extract_patch(image, nowhere, centre, self.patch_size, matrix)[0],
            "case": self.cases[index].name,
            "seed": seed,
            "number": int(number),
        }
        return item if self.transform is None else apply_seeded(self.transform, item)


class FixedPatches(Sampler[ImageKey]):
    """Keys of patches that are the same in every validation, whatever was trained before.

    All images take turns, and the patches of an image lie at different places. Under `torch.distributed`, the processes
    share the patches that a single one would take with a batch of the size of all their batches.

    Args:
        cases: Number of images.
        batch_size: Number of patches in a step of each process.
        steps: Number of steps of each process.
        seed: The seed of the places.
    """

    def __init__(self, cases: int, batch_size: int, steps: int, seed: int = 0) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        rank, processes = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        seeds = np.random.RandomState(seed).randint(2**31, size=processes * batch_size * steps)
        keys = [(number % cases, number, int(seed)) for number, seed in enumerate(seeds)]
        batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
        self.keys = [key for batch in batches[rank::processes] for key in batch]

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[ImageKey]:
        return iter(self.keys)
