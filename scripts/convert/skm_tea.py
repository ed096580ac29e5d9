"""Convert SKM-TEA (Stanford AIMI), which has cartilage and menisci of the knee in quantitative DESS MR of two echoes.

SOURCE holds image_files/*.h5 and annotations/v1.0.0/{train,val,test}.json; the JSON files, which are also in the
repository StanfordMIMI/skm-tea, give the split, the voxel size and the orientation of each scan. Training and
validation scans become fold 0, test scans become test cases with label maps. This needs h5py: pip install
"mednextv2[convert]".

Example:
    python scripts/convert/skm_tea.py skm-tea Dataset302_SKMTEA --masks hdf5
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mednextv2.data.conversion_cases import Converted, DatasetFacts, SourceCase
from mednextv2.data.conversion_command import main, need
from mednextv2.data.conversion_sources import Found, find_root, identity, list_files, missing_files, read_labels
from mednextv2.errors import InputError
from mednextv2.text_files import read_json
from mednextv2.wording import times

FACTS = DatasetFacts(
    id="skm_tea",
    title="SKM-TEA (Stanford Knee MRI Multi-Task Evaluation)",
    channels=("echo1", "echo2"),
    labels={
        1: "patellar_cartilage",
        2: "femoral_cartilage",
        3: "tibial_cartilage_medial",
        4: "tibial_cartilage_lateral",
        5: "meniscus_medial",
        6: "meniscus_lateral",
    },
    reference="https://github.com/StanfordMIMI/skm-tea",
    licence="Stanford University Dataset Research Use Agreement",
)
ANNOTATIONS = "annotations/v1.0.0"
MASKS = "segmentation_masks/dicom-track"
LAYOUT = f"the folder of SKM-TEA, which holds image_files and {ANNOTATIONS}"
#: The direction, in RAS, of an axis that runs towards a side.
_TOWARDS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def find(source: Path, options: Mapping[str, Any]) -> Found:
    """Find the scans that the annotations list."""
    root = find_root(source, ["image_files"], LAYOUT)
    found = Found()
    files = list_files(root / "image_files", r"(.+)\.h5", found)
    sides: dict[str, list[str]] = {}
    for split in ("train", "val", "test"):
        scans = read_scans(root / ANNOTATIONS / f"{split}.json")
        sides[split] = list(scans)
        for name, scan in scans.items():
            own = [files.pop(name, root / "image_files" / f"{name}.h5")]
            if options["masks"] == "nifti":
                own.append(root / MASKS / f"{name}.nii.gz")
            if missing := [file for file in own if not file.is_file()]:
                found.incomplete[name] = missing_files(missing, "download the rest of the data set")
            else:
                found.cases.append(SourceCase(name, tuple(own), "Ts" if split == "test" else "Tr", scan))
    found.ignored += files.values()
    found.split = [(sides["train"], sides["val"])]
    return found


def read_scans(file: Path) -> dict[str, dict[str, Any]]:
    """Return spacing, shape and orientation of the scans that an annotation file lists."""
    content = read_json(file, "copy it from the repository StanfordMIMI/skm-tea")
    scans: dict[str, dict[str, Any]] = {}
    for entry in content.get("images", []) if isinstance(content, dict) else []:
        try:
            name = str(entry["file_name"]).removesuffix(".h5")
            scan = {key: list(entry[key]) for key in ("voxel_spacing", "matrix_shape", "orientation")}
            to_affine(scan["orientation"], scan["voxel_spacing"])
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(
                f"{file}: an entry of images lacks file_name, voxel_spacing, matrix_shape or a valid orientation; copy "
                "the file again"
            ) from e
        scans[name] = scan
    if not scans:
        raise InputError(f"{file}: lists no images; copy it from the repository StanfordMIMI/skm-tea")
    return scans


def to_affine(orientation: Sequence[str], spacing: Sequence[float]) -> np.ndarray:
    """Return the affine of axes such as SI, AP, LR: from superior to inferior, and so on. The origin is 0."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (pair, size) in enumerate(zip(orientation, spacing, strict=True)):
        axis, sign = _TOWARDS[pair[1]]
        affine[axis, column] = sign * float(size)
    if len(orientation) != 3 or not abs(np.linalg.det(affine)) > 0:
        raise ValueError(f"{orientation} with {spacing} are no three axes in space")
    return affine


def convert(case: SourceCase, options: Mapping[str, Any]) -> Converted:
    """Read both echoes, and the label map from the HDF5 file or from NIfTI."""
    file, scan = case.files[0], case.extra
    affine, shape = to_affine(scan["orientation"], scan["voxel_spacing"]), tuple(scan["matrix_shape"])
    h5py = need("h5py", "SKM-TEA")
    try:
        with h5py.File(file, "r") as f:
            found = {key: f[key][()] for key in ("echo1", "echo2", "seg") if key in f}
    except OSError as e:
        raise InputError(f"{file}: is truncated, damaged or no HDF5 file; download it again") from e
    for echo in FACTS.channels:
        if echo not in found or found[echo].shape != shape:
            has = times(found[echo].shape) if echo in found else "no such data"
            raise InputError(f"{file}: {echo}: should be of {times(shape)} voxels (its annotation), but has {has}")
    own = from_one_hot(found["seg"], file, shape) if "seg" in found else None
    label, notes, origin = own, (), file
    if options["masks"] == "nifti":
        origin = case.files[1]
        label, notes = _from_nifti(origin, shape, own)
    if label is None:
        raise InputError(f"{file}: has no seg; give --masks nifti, or download it again")
    return Converted([(found[echo], affine) for echo in FACTS.channels], (label, affine), notes, (file, file, origin))


def from_one_hot(seg: np.ndarray, file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return a label map of one-hot masks `(X, Y, Z, 6)`."""
    classes = len(FACTS.labels)
    if seg.shape != (*shape, classes):
        raise InputError(
            f"{file}: seg has {times(seg.shape)} values, not {times((*shape, classes))}; download it again"
        )
    inside = seg != 0
    if (seg[inside] != 1).any() or (several := np.count_nonzero(inside.sum(axis=-1) > 1)):
        what = "values other than 0 and 1" if (seg[inside] != 1).any() else f"{several} voxels of several structures"
        raise InputError(f"{file}: seg is not one-hot ({what}); download it again")
    return np.where(inside.any(axis=-1), inside.argmax(axis=-1) + 1, 0).astype(np.uint8)


def _from_nifti(file: Path, shape: tuple[int, ...], own: np.ndarray | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a mask of the DICOM track, whose first two axes are exchanged against the HDF5 file."""
    labels, _ = read_labels(file, identity(FACTS.labels))
    labels = labels.transpose(1, 0, 2)
    if labels.shape != shape:
        raise InputError(f"{file}: has {times(labels.shape)} voxels with its axes exchanged, the images {times(shape)}")
    if own is not None and not np.array_equal(labels, own):
        raise InputError(f"{file}: differs from seg in the HDF5 file; give --masks hdf5, and tell the authors")
    unchecked = () if own is not None else ("the axes of its NIfTI mask were exchanged, and nothing confirms them",)
    return labels, unchecked


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this converter."""
    parser.add_argument(
        "--masks", choices=("hdf5", "nifti"), default="hdf5",
        help=f"hdf5: label maps are those in the HDF5 files (seg); nifti: they are in {MASKS} (default: hdf5)",
    )  # fmt: skip


if __name__ == "__main__":
    main(FACTS, find, convert, __doc__, add_options)
