"""Small data sets in the layouts that users have, and verbs of the command line in processes of their own."""

import json
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
from forked_processes import run_module

CHANNELS = ("CT", "PET")
SLICES = (4.0, 4.0, 3.0, 4.0, 4.0, 4.0)  # mm; the 10th percentile of these six is 3.5
TUMOUR = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
TUMOUR_ORDER = [1, 2, 3]


def run_verbs(commands: list, **kwargs) -> subprocess.CompletedProcess:
    """Run verbs of the command line one after the other; return the first failure, or all outputs together."""
    out = err = ""
    for command in commands:
        done = run_module("mednextv2", *command, **kwargs)
        if done.returncode:
            return done
        out, err = out + done.stdout, err + done.stderr
    return subprocess.CompletedProcess(commands, 0, out, err)


def make_nnunet(
    folder: Path, labels=TUMOUR, order=TUMOUR_ORDER, channels=CHANNELS, cases=6, spacing=(0.8, 0.8), values=None, **more
) -> Path:
    """Write an nnU-Net data set of thick slices; the highest values lie inside the others, and all are in each case.

    Args:
        folder: Where to.
        labels: Of `dataset.json`; the ignore label fills the last slices.
        order: Its `regions_class_order`.
        channels: Names.
        cases: Number.
        spacing: Within a slice, mm; the slices are `SLICES` thick.
        values: The label maps' values; by default those that `labels` declares.
        **more: Further entries of `dataset.json`.

    Returns:
        The folder.
    """
    declared = {v for entry in labels.values() for v in np.atleast_1d(entry).tolist()}
    ignore = labels.get("ignore")
    values = sorted(declared - {0, ignore}) if values is None else values
    for number in range(cases):
        images, label = _case(number, len(channels), values)
        if ignore is not None:
            label[..., -4:] = ignore
        affine = nib.affines.from_matvec(np.diag([-spacing[0], spacing[1], SLICES[number % 6]]), [30, -20, number])
        for c, image in enumerate(images):
            save(folder / "imagesTr" / f"case{number}_{c:04d}.nii.gz", image, affine)
        save(folder / "labelsTr" / f"case{number}.nii.gz", label, affine)
    description = {
        "channel_names": {str(c): name for c, name in enumerate(channels)},
        "labels": labels,
        "file_ending": ".nii.gz",
        "numTraining": cases,
        **({"regions_class_order": order} if order else {}),
        **more,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def make_folders(folder: Path, values=(1, 2), cases=6) -> Path:
    """Write two folders, `images` and `labels`, of equal names, without a `dataset.json`."""
    for number in range(cases):
        (image,), label = _case(number, 1, values)
        affine = np.diag([1.0, 1.0, 1.5, 1.0])
        save(folder / "images" / f"scan{number}.nii.gz", image, affine)
        save(folder / "labels" / f"scan{number}.nii.gz", label, affine)
    return folder


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def _case(number, channels, values):
    """Draw nested boxes of the values; the first channel is brighter inside, the second darker, and so on."""
    rng = np.random.default_rng(number)
    shape = (40 + number % 3, 38, 12)
    label = np.zeros(shape, np.uint8)
    for depth, value in enumerate(values):
        label[tuple(slice(1 + 2 * depth + n // 5, n - n // 5 - 1 - 2 * depth) for n in shape[:2])][..., 2:10] = value
    depth = np.searchsorted([0, *values], label)
    images = [
        (200 * sign * depth + 50 * rng.standard_normal(shape) + 1000).astype(np.int16)
        for sign in [1, -1, 1, -1][:channels]
    ]
    return images, label
