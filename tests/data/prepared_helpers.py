"""Small cases, and their store of prepared arrays."""

import re

import numpy as np
import torch

from mednextv2.data import CaseStore, LabelScheme

LABELS = ["background", "liver", "vein"]
SCHEME = LabelScheme(LABELS)
SHAPE = (4, 5, 6)
SETTINGS = {"spacing": [1.0, 1.0, 2.0]}


def item(folder, name, shape=SHAPE, seed=0):
    """Save a random case as `.npy`; the preprocessing of these tests only reads it."""
    random = np.random.default_rng(seed)
    files = {"image": folder / f"{name}_i.npy", "label": folder / f"{name}_l.npy"}
    np.save(files["image"], random.normal(size=(2, *shape)).astype(np.float32))
    np.save(files["label"], random.integers(0, 3, (1, *shape)).astype(np.uint8))
    return {"case": name} | {key: str(file) for key, file in files.items()}


class Loading:
    """A preprocessing that counts its calls, and fails for chosen cases; what it counts does not describe it."""

    __slots__ = ("before", "calls", "fails")

    def __init__(self):
        self.calls, self.fails, self.before = [], set(), None

    def __call__(self, data):
        if self.before is not None:
            self.before(data)
        self.calls.append(data.get("case"))
        if data.get("case") in self.fails:
            raise RuntimeError("the power went off")
        return {key: torch.from_numpy(np.load(data[key])) for key in ("image", "label")}


def make_store(folder, transform=None, scheme=SCHEME, settings=SETTINGS, workers=1):
    return CaseStore(transform or Loading(), scheme, folder / "prepared", settings, workers)


def files(folder):
    """The names of all files, without what tells the places of their sources."""
    names = [p.name for p in (folder / "prepared").rglob("*") if p.is_file()]
    return sorted(re.sub(r"[0-9a-f]{10}-", "", name) for name in names)


def store_label(folder, label, scheme=SCHEME, image=None):
    """Prepare one case with this label map, `(X, Y, Z)`."""
    label = torch.as_tensor(np.ascontiguousarray(label)[None])
    image = torch.zeros(1, *label.shape[1:]) if image is None else image
    source = item(folder, "a", (1, 1, 1))
    (case,) = make_store(folder, lambda data: {"image": image, "label": label}, scheme).prepare([source])
    return case


def all_positions(case, structure):
    return [case.position(structure, i) for i in range(case.counts[structure])]
