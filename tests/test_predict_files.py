"""Masks of files: where they are written, what stays untouched, and every mistake told."""

import csv
import errno
import hashlib
import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_helpers import write_series
from forked_processes import run_module
from monai.transforms import LoadImage
from predict_helpers import AFFINE, BUNDLE, QUICK, noise, save, with_nan
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

import mednextv2.predict_files
from mednextv2.errors import InputError
from mednextv2.images.dicom import read_series
from mednextv2.label_scheme import LabelScheme
from mednextv2.predict_files import predict_files
from mednextv2.segmentation import Segmentation


def command(*arguments, **environment):
    return run_module("mednextv2", "predict", *arguments, "--device", "cpu", **environment)


def test_the_command_segments_a_folder_and_reports(tmp_path, voxels):
    for name in "ab":
        save(tmp_path / "in" / f"{name}_0000.nii.gz", voxels)
    before = {p.name: p.read_bytes() for p in (tmp_path / "in").iterdir()}
    done = command(BUNDLE, tmp_path / "in", tmp_path / "out", "--report", "--overlap", "0.25")
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a_seg.nii.gz", "b_seg.nii.gz", "report.html", "results.json", "volumes.csv"]  # fmt: skip
    assert "a_seg.nii.gz: anterior" in done.stdout
    assert " ml" in done.stdout
    assert {p.name: p.read_bytes() for p in (tmp_path / "in").iterdir()} == before
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [c["case"] for c in results["cases"]] == ["a", "b"]
    assert results["kind"] == "prediction"
    with open(tmp_path / "out" / "volumes.csv", newline="") as f:
        rows = {(row["case"], row["label"]): float(row["volume_ml"]) for row in csv.DictReader(f)}
    assert list(rows) == [(case, label) for case in "ab" for label in ("anterior", "posterior")]
    for entry in results["cases"]:
        mask = nib.load(tmp_path / "out" / entry["prediction"])
        ml = abs(np.linalg.det(mask.affine[:3, :3])) / 1000
        for value, label in ((1, "anterior"), (2, "posterior")):
            expected = int((np.asarray(mask.dataobj) == value).sum()) * ml
            assert rows[entry["case"], label] == pytest.approx(expected, rel=1e-5)
            assert entry["volumes_ml"][label] == pytest.approx(expected, rel=1e-5)
    assert "<html" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nrrd", "new/mask.mha"])
def test_the_mask_of_one_image_may_be_given_a_name(tmp_path, image, name):
    assert predict_files(BUNDLE, image, tmp_path / name, **QUICK) == [tmp_path / name]
    np.testing.assert_allclose(LoadImage()(tmp_path / name).affine.numpy(), AFFINE, atol=1e-4)


def test_a_study_of_which_all_series_are_wanted(tmp_path, voxels):
    for number, name in ((4, "T1 mprage"), (5, "T1/second")):
        write_series(tmp_path / "study" / str(number), voxels, AFFINE, SeriesNumber=number, SeriesDescription=name)
    with pytest.raises(InputError, match="holds 2 series; choose one with --series"):
        predict_files(BUNDLE, tmp_path / "study", tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()
    files = predict_files(BUNDLE, tmp_path / "study", tmp_path / "out", series="all", **QUICK)
    assert [f.name for f in files] == ["study_4_T1_mprage_seg.nii.gz", "study_5_T1_second_seg.nii.gz"]
    one = predict_files(BUNDLE, tmp_path / "study", tmp_path / "one", series=5, **QUICK)
    assert [f.name for f in one] == ["study_seg.nii.gz"]


def test_each_series_ends_on_its_own(tmp_path, voxels, caplog, capsys):
    """One series is sound, one has no pixels that can be decoded, one lacks a slice, one is of another modality."""
    study = tmp_path / "study"
    common = {"StudyInstanceUID": "1.2.3", "Modality": "MR"}
    write_series(study / "a", voxels, AFFINE, SeriesNumber=1, SeriesDescription="sound", **common)
    for file in write_series(study / "b", voxels, AFFINE, SeriesNumber=2, SeriesDescription="odd", **common):
        ds = pydicom.dcmread(file)
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.PixelData = encapsulate([b"\0" * 64])  # no picture
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.save_as(file)
    lacking = write_series(study / "c", voxels, AFFINE, SeriesNumber=3, SeriesDescription="lacking", **common)
    lacking[5].unlink()
    write_series(study / "d", voxels, AFFINE, SeriesNumber=4, SeriesDescription="other", **{**common, "Modality": "CT"})
    for file in write_series(study / "e", voxels, AFFINE, SeriesNumber=5, SeriesDescription="cut", **common):
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError) as caught:
        predict_files(BUNDLE, study, tmp_path / "out", "all", dicom_seg=True, rtstruct=True, report=True, **QUICK)
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 of 4 series could not be segmented; the others were"
    assert any("study_2_odd" in line and "cannot be decoded" in line for line in lines[1:])
    written = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert written == [
        "report.html", "results.json",
        *(f"study_{name}_seg{ending}" for name in ("1_sound", "4_other")
          for ending in (".dcm", ".nii.gz", "_rtstruct.dcm")),
        "volumes.csv",
    ]  # fmt: skip
    assert any("study_3_lacking" in line and "lacks slices" in line for line in lines[1:])
    assert f"{study}: 30 of 30 DICOM files cannot be read" in caplog.text
    assert "its modality is CT, but the bundle was trained on MR" in caplog.text
    seg = pydicom.dcmread(tmp_path / "out" / "study_1_sound_seg.dcm")
    assert "mednextv2_hippocampus" in seg.SeriesDescription
    digest = hashlib.sha256((BUNDLE / "models" / "model.pt").read_bytes()).hexdigest()
    assert digest in seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert str(tmp_path) not in (tmp_path / "out" / "results.json").read_text()
    assert "1 sound" in capsys.readouterr().out.replace('"', "")


def test_the_bundle_is_named_where_the_callers_own_predictor_does_not_say_its_model(tmp_path, voxels, monkeypatch):
    class Threshold:
        scheme, root = LabelScheme(["background", "anterior", "posterior"]), BUNDLE

        def __init__(self, bundle, **settings):
            pass

        def __call__(self, image, case=None, probabilities=None):
            values, affine = read_series(image)
            return Segmentation((values > values.mean()).astype(np.uint8), affine, self.scheme, image)

    monkeypatch.setattr(mednextv2.predict_files, "Predictor", Threshold)
    write_series(tmp_path / "s", voxels, AFFINE)
    predict_files(BUNDLE, tmp_path / "s", tmp_path / "out", dicom_seg=True)
    seg = pydicom.dcmread(tmp_path / "out" / "s_seg.dcm")
    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    version = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["version"]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (BUNDLE.name, version)


def test_a_slice_of_the_series_is_never_replaced(tmp_path, voxels):
    files = write_series(tmp_path / "in", voxels, AFFINE)
    first = files[0].rename(files[0].with_suffix(".dcm"))
    before = first.read_bytes()
    with pytest.raises(InputError, match=r"IM0000\.dcm: is one of the images"):
        predict_files(BUNDLE, tmp_path / "in", tmp_path / "in" / "IM0000.nii.gz", dicom_seg=True, **QUICK)
    with pytest.raises(InputError, match="masks would be taken for images later"):
        predict_files(BUNDLE, tmp_path / "in", tmp_path / "in", **QUICK)
    assert first.read_bytes() == before


def test_an_evaluation_is_not_replaced_by_a_report(tmp_path, image):
    from mednextv2.report import Results, write_results

    case = {"case": "a", "image": "a.nii.gz", "prediction": "b.nii.gz", "label": "c.nii.gz"}
    write_results(tmp_path / "out", Results("evaluation", "x", ["a"], [[1]], [case]))
    before = (tmp_path / "out" / "results.json").read_bytes()
    with pytest.raises(InputError, match="holds the results of an evaluation"):
        predict_files(BUNDLE, image, tmp_path / "out", report=True, **QUICK)
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_relative_paths_of_files_that_itk_reads(tmp_path, voxels):
    for name in ("a.nrrd", "b.mha", "c.mhd"):
        save(tmp_path / "in" / name, voxels)
    done = subprocess.run(
        [sys.executable, "-m", "mednextv2", "predict", BUNDLE, "in", "out", "--device", "cpu"], cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "out").iterdir())) == 3


# --- bad input: an error, exit code 1, nothing left behind ---------------------------------------------------------


def bad_header(path, dims):
    """A header that claims more voxels than the file has."""
    save(path, np.zeros((4, 4, 4), np.int16))
    raw = bytearray(path.read_bytes())
    raw[40:56] = np.array([3, *dims, 1, 1, 1, 1], "<i2").tobytes()
    path.write_bytes(raw)
    return path


def bad_mha(path):
    save(path, np.zeros((4, 4, 4), np.int16))
    path.write_bytes(path.read_bytes().replace(b"DimSize = 4 4 4", b"DimSize = 30000 30000 30000"))
    return path


SHEAR = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
RGB = np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
BAD = {
    "NaN": (lambda p: save(p / "x.nii.gz", with_nan()), "1 NaN or infinite voxel"),
    "4D": (lambda p: save(p / "x.nii.gz", noise(6, 5, 4, 3)), "expected 3D with 1 channel"),
    "RGB": (lambda p: save(p / "x.nii.gz", RGB), "RGB"),
    "no voxels": (lambda p: save(p / "x.nii", np.zeros((0, 4, 4), np.float32)), "declares [0, 4, 4] voxels"),
    "sheared": (lambda p: save(p / "x.nii.gz", noise(20, 20, 20), SHEAR), "off right angles"),
    "huge claim": (
        lambda p: bad_header(p / "x.nii", (30000, 30000, 30000)), "x.nii: its header declares 30000×30000×30000"),
    "huge claim, MHA": (lambda p: bad_mha(p / "x.mha"), "x.mha: its header declares 30000×30000×30000"),
    "truncated": (lambda p: (p / "x.nii.gz").write_bytes(b"\x1f\x8b\x08" + bytes(50)) and p / "x.nii.gz", "truncated"),
    "empty file": (lambda p: (p / "x.nii.gz").touch() or p / "x.nii.gz", "is not what its ending says"),
    "empty folder": (lambda p: p, "holds no images"),
    "one DICOM file": (lambda p: write_series(p, np.ones((4, 4, 3), np.int16))[0], "is one DICOM file"),
    "missing slice": (
        lambda p: write_series(p, noise(9, 9, 6), change=lambda _, k: k != 2) and p, "lacks slices"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "text"), BAD.values(), ids=BAD)
def test_bad_input_is_told_and_leaves_nothing(tmp_path, make, text):
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in")
    before = {p: p.read_bytes() for p in (tmp_path / "in").rglob("*") if p.is_file()}
    with pytest.raises(InputError) as caught:
        predict_files(BUNDLE, source, tmp_path / "out" / "mask.nii.gz", **QUICK)
    assert text in str(caught.value)
    assert str(tmp_path / "in") in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert {p: p.read_bytes() for p in (tmp_path / "in").rglob("*") if p.is_file()} == before


def test_the_images_of_a_data_set_are_segmented(tmp_path):
    save(tmp_path / "imagesTs" / "a.nii.gz", noise(9, 9, 9))
    save(tmp_path / "imagesTr" / "b.nii.gz", noise(9, 9, 9))
    assert predict_files(BUNDLE, tmp_path, tmp_path / "masks", **QUICK) == [tmp_path / "masks" / "a_seg.nii.gz"]


@pytest.mark.parametrize("output", ["imagesTs", ""])
def test_masks_are_not_put_among_the_images_of_a_data_set(tmp_path, output):
    save(tmp_path / "imagesTs" / "a.nii.gz", noise(9, 9, 9))
    with pytest.raises(InputError, match="holds the images; choose another output"):
        predict_files(BUNDLE, tmp_path, tmp_path / output, **QUICK)


def test_all_bad_images_of_a_folder_are_told_at_once(tmp_path):
    save(tmp_path / "a.nii.gz", with_nan())
    save(tmp_path / "b.nii.gz", noise(20, 20, 20))
    save(tmp_path / "c.nii.gz", noise(4, 4, 4, 2))
    done = command(BUNDLE, tmp_path, tmp_path / "out")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "2 of 3 images cannot be segmented" in done.stderr
    assert "a.nii.gz" in done.stderr
    assert "c.nii.gz" in done.stderr
    assert "b.nii.gz" not in done.stderr


@pytest.mark.parametrize(
    ("output", "options", "text"),
    [
        ("in/case.nii.gz", {}, "is one of the images"),
        ("mask.dcm", {}, "give a folder, or a file that ends in"),
        ("mask.png", {}, "give a folder, or a file that ends in"),
        ("file.txt", {}, "give a folder, or a file that ends in"),
        ("file.txt/x", {}, "cannot be written"),
        ("out", {"dicom_seg": True}, "case is no DICOM series"),
        ("out", {"dicom_seg_storage": "binary"}, "ask for one with --dicom_seg"),
        ("out", {"output_dir": "x"}, "--output_dir: predict takes it as an argument"),
        ("out", {"dicom_sge": True}, "did you mean --dicom_seg"),
        ("out", {"series": 3}, "--series 3: is for a folder of DICOM files"),
        ("in", {"folder": True}, "masks would be taken for images later"),
        ("x.mhd", {}, "give a folder, or a file that ends in"),
    ],
)
def test_orders_that_cannot_be_carried_out(tmp_path, image, output, options, text):
    (tmp_path / "file.txt").touch()
    source = image.parent if options.pop("folder", False) else image
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    with pytest.raises(InputError) as caught:
        predict_files(BUNDLE, source, tmp_path / output, **QUICK, **options)
    assert text in str(caught.value)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_a_full_disk_leaves_nothing(tmp_path, image):
    """On a real file system of 8 KiB where one can be mounted; else of one process that may write no more."""
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", full], capture_output=True).returncode
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900)); "
    limit += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    code = limit + "from mednextv2.__main__ import main; import sys; sys.argv.insert(1, 'predict'); main()"
    try:
        if mounted:
            words = [sys.executable, "-c", code, BUNDLE, image, full, "--device", "cpu"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        else:
            (full / "filler").write_bytes(bytes(4096))
            (full / "filler2").write_bytes(bytes(3000))
            done = command(BUNDLE, image, full)
        left = {p.name for p in full.iterdir()} - {"filler", "filler2"}
    finally:
        if not mounted:
            subprocess.run(["umount", full], check=True)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.strerror(errno.EFBIG if mounted else errno.ENOSPC) in done.stderr
    assert not left


def test_probabilities_by_command(tmp_path, image):
    files = predict_files(BUNDLE, image, tmp_path / "out", probabilities=True, **QUICK)
    assert [f.name for f in files] == ["case_seg.nii.gz", "case_seg_probabilities.npy"]
    labels = np.asarray(nib.load(files[0]).dataobj)
    stored = np.load(files[1])
    assert (stored.argmax(0) == labels).mean() > 0.999  # half precision knows some ties
    np.testing.assert_allclose(stored.astype(np.float32).sum(0), 1, atol=2e-3)
