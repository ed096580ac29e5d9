"""Small data sets whose patches are drawn."""

import numpy as np
import torch

from mednextv2.data import CaseStore, LabelScheme, PatchDataset

LABELS = ["background", "liver", "vein", "tumour"]
SCHEME = LabelScheme(LABELS)
SHAPE = (16, 14, 12)
PATCH = (6, 5, 4)


def make_dataset(folder, labels, patch_size=PATCH, scheme=SCHEME, image=None, **options):
    """A dataset of cases with these label maps, `(X, Y, Z)`."""
    items = []
    for i, label in enumerate(labels):
        file = folder / f"case_{i}.npy"
        np.save(file, np.asarray(label, np.int16)[None])
        items.append({"case": f"case_{i}", "image": str(file), "label": str(file)})

    def load(item):
        label = torch.from_numpy(np.load(item["label"]))
        picture = torch.randn(2, *label.shape[1:]) if image is None else image
        return {"image": picture, "label": label}

    return PatchDataset(items, CaseStore(load, scheme, folder / "prepared", {}), patch_size, **options)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)
