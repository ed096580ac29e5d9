"""A cross-validation whose folds need not be trained: predictions that are made up."""

import csv
import json
import shutil

import numpy as np
from bundle_helpers import HIPPOCAMPUS
from dataset_helpers import save
from sklearn.model_selection import KFold

CASES = 11  # folds of three, two, two, two and two
NAMES = sorted(f"case_{n:02d}" for n in range(CASES))


def truth(case):
    """Two boxes that touch; their size differs from case to case."""
    label = np.zeros((16, 20, 8), np.uint8)
    label[2:8, 2 : 8 + case % 3, 2:6] = 1
    label[8:14, 2:8, 2:6] = 2
    return label


def predicted(case):
    """The truth, and far from it an island of each label, too small to be the largest component."""
    label = truth(case)
    label[1:3, 15:18, 1:3] = 1
    label[12:14, 16:18, 1:3] = 2
    return label


def make_folds(tmp_path):
    """Write a bundle whose five folds are trained and evaluated, and its data set; return both folders."""
    root, data = tmp_path / "mednextv2_copy", tmp_path / "data"
    shutil.copytree(HIPPOCAMPUS / "configs", root / "configs")
    for case, name in enumerate(NAMES):
        save(data / "labelsTr" / f"{name}.nii.gz", truth(case))
        save(data / "imagesTr" / f"{name}.nii.gz", truth(case).astype(np.float32) + 1)
    entries = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in NAMES]
    labels = {"0": "background", "1": "anterior", "2": "posterior"}
    (data / "dataset.json").write_text(
        json.dumps({"modality": {"0": "MRI"}, "labels": labels, "training": entries[::-1]})
    )
    for fold, (_, unseen) in enumerate(KFold(5, shuffle=True, random_state=12345).split(NAMES)):
        folder = root / "output" / "evaluation" / f"fold_{fold}"
        for case, name in enumerate(NAMES):  # those that it was trained on, too: they must not count
            array = predicted(case) if case in unseen else np.zeros_like(truth(case))
            save(folder / "predictions" / f"{name}_seg.nii.gz", array)
        rows = [[NAMES[case], label, 0.01 * case + 0.5 * i, 0.5, 2.0 + i]
                for case in unseen for i, label in enumerate(("anterior", "posterior"))]  # fmt: skip
        with (folder / "cases.csv").open("w", newline="") as f:
            csv.writer(f).writerows([["case", "label", "dice", "surface_dice_1mm", "hd95_mm"], *rows])
        (root / "models" / f"fold_{fold}").mkdir(parents=True)
        (root / "models" / f"fold_{fold}" / "model.pt").touch()
    return root, data
