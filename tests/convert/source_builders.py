"""Small data sets in the layouts and with the names in which public data sets are downloaded, traps included."""

import csv
import gzip
import json
from functools import cache

import nibabel as nib
import numpy as np
from dicom_helpers import write_series
from rtstruct_helpers import rectangle, write_structures
from source_files import AFFINE, image, labels, save, save_mha, save_png

#: As KiTS has it: the axes are slice, row, column.
KITS_AFFINE = np.array([[0, 0, -0.78, 0], [0, -0.78, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1.0]])
TOTALSEGMENTATOR = [
    "spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas", "adrenal_gland_right",
    "adrenal_gland_left", "lung_upper_lobe_left", "lung_lower_lobe_left", "lung_upper_lobe_right",
    "lung_middle_lobe_right", "lung_lower_lobe_right", "esophagus", "trachea", "thyroid_gland", "small_bowel",
    "duodenum", "colon", "urinary_bladder", "prostate", "kidney_cyst_left", "kidney_cyst_right", "sacrum",
    "vertebrae_S1", "vertebrae_L5", "vertebrae_L4", "vertebrae_L3", "vertebrae_L2", "vertebrae_L1", "vertebrae_T12",
    "vertebrae_T11", "vertebrae_T10", "vertebrae_T9", "vertebrae_T8", "vertebrae_T7", "vertebrae_T6", "vertebrae_T5",
    "vertebrae_T4", "vertebrae_T3", "vertebrae_T2", "vertebrae_T1", "vertebrae_C7", "vertebrae_C6", "vertebrae_C5",
    "vertebrae_C4", "vertebrae_C3", "vertebrae_C2", "vertebrae_C1", "heart", "aorta", "pulmonary_vein",
    "brachiocephalic_trunk", "subclavian_artery_right", "subclavian_artery_left", "common_carotid_artery_right",
    "common_carotid_artery_left", "brachiocephalic_vein_left", "brachiocephalic_vein_right", "atrial_appendage_left",
    "superior_vena_cava", "inferior_vena_cava", "portal_vein_and_splenic_vein", "iliac_artery_left",
    "iliac_artery_right", "iliac_vena_left", "iliac_vena_right", "humerus_left", "humerus_right", "scapula_left",
    "scapula_right", "clavicula_left", "clavicula_right", "femur_left", "femur_right", "hip_left", "hip_right",
    "spinal_cord", "gluteus_maximus_left", "gluteus_maximus_right", "gluteus_medius_left", "gluteus_medius_right",
    "gluteus_minimus_left", "gluteus_minimus_right", "autochthon_left", "autochthon_right", "iliopsoas_left",
    "iliopsoas_right", "brain", "skull", "rib_left_1", "rib_left_2", "rib_left_3", "rib_left_4", "rib_left_5",
    "rib_left_6", "rib_left_7", "rib_left_8", "rib_left_9", "rib_left_10", "rib_left_11", "rib_left_12",
    "rib_right_1", "rib_right_2", "rib_right_3", "rib_right_4", "rib_right_5", "rib_right_6", "rib_right_7",
    "rib_right_8", "rib_right_9", "rib_right_10", "rib_right_11", "rib_right_12", "sternum", "costal_cartilages",
]  # fmt: skip
#: The values of ToothFairy2's files.
TEETH = [*range(1, 19), *range(21, 29), *range(31, 39), *range(41, 49)]
COLONOG = "1.3.6.1.4.1.9328.50.4."
PATIENTS = ("Pediatric-CT-SEG-00DCD4D6", "Pediatric-CT-SEG-1A2B3C4D")


def btcv(folder):
    for number in (1, 2, 40):
        save(folder / f"RawData/Training/img/img{number:04d}.nii.gz", image(number))
        save(folder / f"RawData/Training/label/label{number:04d}.nii.gz", labels(range(1, 14)))
    save(folder / "RawData/Testing/img/img0061.nii.gz", image(61))
    (folder / "RawData/Training/img/._img0001.nii.gz").write_bytes(b"left by macOS")
    return folder / "RawData"


def amos22(folder):
    root = folder / "amos22"
    for part, numbers in {"Tr": (1, 410, 507), "Va": (8, 409, 592), "Ts": (2, 500, 600)}.items():
        for number in numbers:
            save(root / f"images{part}/amos_{number:04d}.nii.gz", image(number))
            if part != "Ts":
                save(root / f"labels{part}/amos_{number:04d}.nii.gz", labels(range(1, 16)))
    (root / "dataset.json").write_text(json.dumps({"licence": "CC BY 4.0"}))
    (folder / "__MACOSX/amos22/imagesVa").mkdir(parents=True)
    return folder


def kits19(folder):
    root = folder / "kits19/data"
    for number in (0, 1, 160):
        shape = (6, 8, 12) if number == 160 else (6, 8, 7)  # one case is 512×796 in plane
        save(root / f"case_{number:05d}/imaging.nii.gz", image(number, shape, np.float32), KITS_AFFINE)
        save(root / f"case_{number:05d}/segmentation.nii.gz", labels((1, 2), shape), KITS_AFFINE)
    save(root / "case_00210/imaging.nii.gz", image(210, (6, 8, 7)), KITS_AFFINE)
    (root / "kits.json").write_text("[]")
    (root / "LICENSE").write_text("CC BY-NC-SA 4.0")
    return folder / "kits19"


def brats21(folder):
    root = folder / "BraTS2021_Training_Data"
    for number in (0, 1666):
        name = f"BraTS2021_{number:05d}"
        for channel, part in enumerate(("t1", "t1ce", "t2", "flair")):
            save(root / name / f"{name}_{part}.nii.gz", image(10 * number + channel))
        save(root / name / f"{name}_seg.nii.gz", labels((1, 2, 4)))
    return root


def oaizib_cm(folder):
    for part, numbers in {"Tr": (1, 404), "Ts": (405,)}.items():
        for number in numbers:
            save(folder / f"OAIZIB-CM/images{part}/oaizib_{number:03d}.nii.gz", image(number))
            save(folder / f"OAIZIB-CM/labels{part}/oaizib_{number:03d}.nii.gz", labels(range(1, 6)))
    (folder / "OAIZIB-CM/kneeSideInfo.csv").write_text("oaizib_001.nii.gz,right\n")
    return folder / "OAIZIB-CM"


def toothfairy2(folder):
    root = folder / "Dataset112_ToothFairy2"
    for name in ("ToothFairy2F_001", "ToothFairy2P_417"):
        save_mha(root / f"imagesTr/{name}_0000.mha", image(len(name)))
        save_mha(root / f"labelsTr/{name}.mha", labels(TEETH).astype(np.uint8))
    (root / "dataset.json").write_text("{}")
    return folder


def panther(folder):
    for task, names in {1: ("10000_0001", "10001_0001"), 2: ("20000_0001", "20001_0001")}.items():
        root = folder / f"PANTHER_Task{task}"
        for name in names:
            save_mha(root / f"ImagesTr/{name}_0000.mha", image(int(name[:5])))
            save_mha(root / f"LabelsTr/{name}.mha", labels((1, 2)).astype(np.uint8))
    save_mha(folder / "PANTHER_Task1/ImagesTr_unlabeled/11000_0001_0000.mha", image(3))
    return folder


CTSPINE1K = {
    "trainset": {"COLONOG": ["0001", "0103"], "MSD-T10": ["liver_0"], "HNSCC-3DCT-RT": ["HN_P001"]},
    "test_public": {"COLONOG": ["0730"], "MSD-T10": ["liver_110"]},
    "test_private": {"COVID-19": ["volume-covid19-A-0319_ct"]},
}


def ctspine1k(folder):
    text = ""
    for section, sources in CTSPINE1K.items():
        text += f"{section}:\n"
        for source, numbers in sources.items():
            for number in numbers:
                name = COLONOG + number if source == "COLONOG" else number
                text += f"{name}.nii.gz\n"
                save(folder / f"CTSpine1K/raw_data/volumes/{source}/{name}.nii.gz", image(len(name)))
                save(folder / f"CTSpine1K/raw_data/labels/{source}/{name}_seg.nii.gz", labels(range(1, 26)))
        text += "\n"
    (folder / "CTSpine1K/metadata").mkdir()
    # in the released file, the last line is one name twice
    text = text.rstrip() + "volume-covid19-A-0319_ct.nii.gz\n"
    (folder / "CTSpine1K/metadata/data_split.txt").write_text(text)
    return folder / "CTSpine1K"


@cache
def _masks(overlap):
    """Return the content of the 117 files of masks; with overlap, the spleen's voxels are in the liver and the colon's
    in the spleen, too."""
    every, files = labels(range(1, 118)), {}
    for value, label in enumerate(TOTALSEGMENTATOR, start=1):
        own = {"liver": [value, 1], "spleen": [value, 20]}.get(label, [value]) if overlap else [value]
        mask = nib.Nifti1Image(np.isin(every, own).astype(np.uint8), AFFINE)
        files[f"{label}.nii.gz"] = gzip.compress(mask.to_bytes(), mtime=0)
    return files


def totalsegmentator(folder):
    root = folder / "Totalsegmentator_dataset_v201"
    rows = []
    for number, (name, split) in enumerate(
        {"s0000": "train", "s0001": "train", "s0004": "val", "s0013": "test"}.items()
    ):
        save(root / name / "ct.nii.gz", image(number))
        for file, content in _masks(name == "s0001").items():
            path = root / name / "segmentations" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        rows.append((name, 60, "f", "ct abdomen", split))
    with (root / "meta.csv").open("w", encoding="utf-8-sig", newline="") as f:
        writer = csv.writer(f, delimiter=";")
        writer.writerows([("image_id", "age", "gender", "study_type", "split"), *rows])
    return root


def brainmetshare(folder):
    for part, names in {"train": ("Mets_005", "Mets_010"), "test": ("Mets_001",)}.items():
        for name in names:
            case = folder / f"mets_stanford_release_{part}" / name
            for stack in ("0", "1", "2", "3", *(["seg"] if part == "train" else [])):
                volume = image(int(name[-3:]) * 5 + len(stack) + ord(stack[0]), (8, 7, 12)) % 256
                volume = np.where(volume > 200, 255, 0) if stack == "seg" else volume
                for k in range(12):  # of these names, 10 is sorted before 2 as a text
                    save_png(case / stack / f"{k}.png", volume[:, :, k].T.astype(np.uint8))
    return folder


SKM_TEA = {"train": ("MTR_005", "MTR_006"), "val": ("MTR_013",), "test": ("MTR_001",)}
SKM_SHAPE = (8, 7, 6)


def skm_tea(folder):
    import h5py

    root = folder / "skm-tea"
    for split, names in SKM_TEA.items():
        entries = []
        for name in names:
            number = int(name[-3:])
            label = labels(range(1, 7), SKM_SHAPE)
            one_hot = (label[..., None] == np.arange(1, 7)).astype(np.uint8)
            (root / "image_files").mkdir(parents=True, exist_ok=True)
            with h5py.File(root / "image_files" / f"{name}.h5", "w") as f:
                f["echo1"], f["echo2"] = image(number, SKM_SHAPE), image(number + 100, SKM_SHAPE)
                f["seg"] = one_hot
                f["stats/echo1/mean"] = 500.0
            save(root / f"segmentation_masks/dicom-track/{name}.nii.gz", label.transpose(1, 0, 2).astype(np.uint8))
            orientation = ["SI", "AP", "RL" if name == "MTR_006" else "LR"]
            entries.append({
                "id": number, "file_name": f"{name}.h5", "scan_id": name, "voxel_spacing": [0.3125, 0.3125, 0.8],
                "matrix_shape": list(SKM_SHAPE), "orientation": orientation, "num_echoes": 2,
            })  # fmt: skip
        file = root / "annotations/v1.0.0" / f"{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"info": {}, "images": entries, "annotations": []}))
    return root


def pediatric_ct_seg(folder):
    for number, name in enumerate(PATIENTS):
        patient(folder / "Pediatric-CT-SEG" / name, number)
    (folder / "metadata.csv").write_text("Series UID,Collection\n")
    return folder


#: The grid of the children's CT: 0.8 mm × 0.9 mm × 2 mm.
CT_SHAPE = (20, 18, 5)


def patient(folder, seed=0, rois=None, files=None, name="1-1.dcm", **more):
    """Write a patient's CT, unless `files` has it, and an RTSTRUCT with `rois` in pixels and slices; returns the CT."""
    if files is None:
        ct = folder / "01-01-2000-CT/2.000000-AXIAL-12345"
        files = write_series(ct, image(seed, CT_SHAPE), np.diag([0.8, 0.9, 2.0, 1.0]), PatientID=folder.name)
        for file in files:
            file.rename(file.with_suffix(".dcm"))
        files = [file.with_suffix(".dcm") for file in files]
    drawn = {label: [box(*corners) for corners in boxes] for label, boxes in (rois or ROIS).items()}
    write_structures(folder / f"01-01-2000-CT/1.000000-RTSTRUCT-{name[0]}" / name, files, drawn, **more)
    return files


def box(c0, c1, r0, r1, k):
    """Return the outline of the pixels `c0` to `c1 - 1` and `r0` to `r1 - 1` of slice k, in mm; LPS."""
    # the helper's series has its affine in RAS, so that x and y are negative in LPS
    x0, x1, y0, y1 = -0.8 * (c0 - 0.5), -0.8 * (c1 - 0.5), -0.9 * (r0 - 0.5), -0.9 * (r1 - 0.5)
    return rectangle((x0, y0), (x1, y1), 2.0 * k)


def boxes(c0, c1, r0, r1, slices):
    return [(c0, c1, r0, r1, k) for k in slices]


#: Structures that overlap: the skin is around everything, the bones lie in it, the liver over both.
ROIS = {
    "Liver": boxes(4, 10, 4, 10, (1, 2, 3)),
    "Bones": boxes(8, 16, 6, 12, (1, 2, 3)),
    "Skin": boxes(1, 19, 1, 17, (0, 1, 2, 3, 4)),
    "Lt Adrenal": boxes(5, 6, 5, 6, (2,)),
    "Lung_R": boxes(2, 4, 2, 4, (3,)),
    "BODY": boxes(0, 20, 0, 18, (0, 1)),
    "Heart": [],
}

BUILDERS = {
    "btcv": btcv,
    "amos22": amos22,
    "kits19": kits19,
    "brats21": brats21,
    "pediatric_ct_seg": pediatric_ct_seg,
    "oaizib_cm": oaizib_cm,
    "skm_tea": skm_tea,
    "toothfairy2": toothfairy2,
    "brainmetshare": brainmetshare,
    "panther": panther,
    "ctspine1k": ctspine1k,
    "totalsegmentator": totalsegmentator,
}
