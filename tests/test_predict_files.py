"""One call: images of every kind in, masks in their geometry out, and every mistake told."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_helpers import LPS, write_series
from monai.data import MetaTensor
from monai.transforms import LoadImage

import mednextv2
from mednextv2.errors import InputError
from mednextv2.predict_files import predict_files

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundles" / "mednextv2_hippocampus"
QUICK = {"device": "cpu", "test_mirror_axes": []}
OBLIQUE = nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([-1.0, 1.0, 1.1])
AFFINE = nib.affines.from_matvec(OBLIQUE, [20.0, -13.0, 40.0])
SHAPE = (34, 44, 30)


@pytest.fixture(scope="module")
def predictor():
    return mednextv2.Predictor(BUNDLE, **QUICK)


@pytest.fixture(scope="module")
def voxels(phantom):
    """Whole numbers of at most 12 bits, which every format holds."""
    array = np.asarray(nib.load(next((phantom / "imagesTr").glob("*.nii.gz"))).dataobj, dtype=np.float32)
    padded = np.zeros(SHAPE, np.float32)
    part = tuple(slice(0, min(n, m)) for n, m in zip(array.shape, SHAPE, strict=True))
    padded[part] = array[part]
    return (1500 * (padded - padded.min()) / np.ptp(padded) + 20).astype(np.int16)


@pytest.fixture
def image(tmp_path, voxels):
    return save(tmp_path / "in" / "case.nii.gz", voxels)


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii.gz", ".nii")):
        nib.save(nib.Nifti1Image(array, affine), path)
    else:
        lps = LPS @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        picture = itk.image_from_array(np.ascontiguousarray(array.T))
        picture.SetSpacing(spacing)
        picture.SetOrigin(lps[:3, 3])
        picture.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / spacing)))
        itk.imwrite(picture, str(path))
    return path


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# --- from Python -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha"])
def test_every_file_format_gives_the_same_mask_in_its_geometry(tmp_path, predictor, voxels, image, ending):
    expected = predictor(image)
    assert expected.labels.shape == SHAPE
    assert expected.labels.any()
    assert expected.labels.dtype == np.uint8
    np.testing.assert_allclose(expected.affine, nib.load(image).affine, atol=1e-6)
    other = predictor(save(tmp_path / f"x{ending}", voxels))
    assert np.array_equal(other.labels, expected.labels)
    np.testing.assert_allclose(other.affine, expected.affine, atol=1e-4)


def test_images_in_memory_give_the_mask_of_their_file(predictor, voxels, image):
    expected = predictor(image).labels
    loaded = LoadImage(ensure_channel_first=True)(image)
    for given in (nib.load(image), (voxels, AFFINE), loaded, loaded[0], [str(image)]):
        found = predictor(given)
        assert np.array_equal(found.labels, expected)
        np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)
    assert torch.equal(loaded, LoadImage(ensure_channel_first=True)(image))  # untouched


def test_a_dicom_series_gives_the_mask_of_the_nifti(tmp_path, predictor, voxels, image):
    write_series(tmp_path / "dicom", voxels, AFFINE, slope=1.0, intercept=0.0)
    found, expected = predictor(tmp_path / "dicom"), predictor(image)
    to_file = np.linalg.inv(expected.affine) @ found.affine  # the order of slices may be the other way round
    where = np.indices(found.labels.shape).reshape(3, -1)
    place = np.rint(to_file[:3, :3] @ where + to_file[:3, 3:]).astype(int)
    assert np.array_equal(found.labels.reshape(-1), expected.labels[tuple(place)])


def test_it_is_what_the_inference_workflow_writes(tmp_path, predictor, image):
    from mednextv2.bundle import run_bundle

    run_bundle(BUNDLE, "inference", input=str(image), output_dir=str(tmp_path / "out"), **QUICK)
    written = nib.load(tmp_path / "out" / "case_seg.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), predictor(image).labels)


def test_one_call(image, predictor):
    found = mednextv2.predict(BUNDLE, image, **QUICK)
    assert np.array_equal(found.labels, predictor(image).labels)
    ml = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    counts = np.bincount(found.labels.ravel(), minlength=3)
    assert found.volumes == pytest.approx({"anterior": counts[1] * ml, "posterior": counts[2] * ml})
    assert np.array_equal(np.asarray(found.to_nibabel().dataobj), found.labels)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_masks_are_saved_in_every_format(tmp_path, predictor, image, ending):
    found = predictor(image)
    loaded = LoadImage(image_only=True)(found.save(tmp_path / f"mask{ending}"))
    assert np.array_equal(loaded.numpy(), found.labels)
    np.testing.assert_allclose(loaded.affine.numpy(), AFFINE, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((np.zeros((4, 4, 4)), np.eye(3)), "affine should be 4×4"),
        ((np.zeros((4, 4)), np.eye(4)), "has the shape (4, 4)"),
        ((np.full((4, 4, 4), "a"), np.eye(4)), "not one number each"),
        ((np.full((20, 20, 20), np.nan), np.eye(4)), "NaN"),
        ((np.zeros((20, 20, 20)), np.eye(4)), "constant"),
        ((np.zeros((0, 20, 20)), np.eye(4)), "has no voxels"),
        ((noise(20, 20, 20, 3), np.eye(4)), "expected 3D with 1 channel"),
        ((noise(20, 20, 20), np.diag([1, 1, 0, 1.0])), "no position in space"),
        (MetaTensor(torch.rand(2, 1, 20, 20, 20)), "expected (C, X, Y, Z)"),
        (np.zeros((4, 4, 4)), "is a ndarray; give a path"),
        ((np.zeros((4, 4, 4)), "abc"), "an array and a 4×4 affine"),
        ("nowhere.nii.gz", "nowhere.nii.gz: there is no such image"),
    ],
)
def test_what_is_no_image_is_refused(predictor, given, text):
    with pytest.raises(InputError) as caught:
        predictor(given)
    assert text in str(caught.value)


def test_several_images_are_refused_where_one_is_wanted(tmp_path, predictor, voxels):
    for name in "ab":
        save(tmp_path / f"{name}.nii.gz", voxels)
    with pytest.raises(InputError, match="holds 2 images"):
        predictor(tmp_path)


def test_settings_and_weights_are_checked(tmp_path):
    with pytest.raises(InputError, match="did you mean --overlap"):
        mednextv2.Predictor(BUNDLE, overlab=0.25)
    with pytest.raises(InputError, match="overlap 2"):
        mednextv2.Predictor(BUNDLE, overlap=2)
    with pytest.raises(InputError, match="device gpu: cannot be used here"):
        mednextv2.Predictor(BUNDLE, device="gpu")
    with pytest.raises(InputError, match="each once"):
        mednextv2.Predictor(BUNDLE, test_mirror_axes=[0, 0])
    with pytest.raises(InputError, match=r"none\.pt"):
        mednextv2.Predictor(BUNDLE, weights=tmp_path / "none.pt")
    with pytest.raises(AttributeError, match="no attribute 'predictt'"):
        mednextv2.predictt  # noqa: B018


def test_masks_have_an_ending_of_a_mask(tmp_path, predictor, image):
    (tmp_path / "x.png").write_bytes(b"mine")
    for name in ("x.png", "x.mhd", "x"):
        with pytest.raises(InputError, match="a mask's file ends in"):
            predictor(image).save(tmp_path / name)
    assert (tmp_path / "x.png").read_bytes() == b"mine"


def test_half_precision_in_memory(predictor, voxels):
    tensor = MetaTensor(torch.from_numpy(voxels)[None].bfloat16(), affine=torch.from_numpy(AFFINE))
    assert predictor(tensor).labels.shape == SHAPE


# --- the command -----------------------------------------------------------------------------------------------------


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "mednextv2", "predict", *map(str, arguments), "--device", "cpu"],
        capture_output=True, text=True, timeout=300, env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def test_the_command_segments_a_folder_and_reports(tmp_path, voxels):
    for name in "ab":
        save(tmp_path / "in" / f"{name}_0000.nii.gz", voxels)
    before = {p.name: p.read_bytes() for p in (tmp_path / "in").iterdir()}
    done = command(BUNDLE, tmp_path / "in", tmp_path / "out", "--report", "--overlap", "0.25")
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a_seg.nii.gz", "b_seg.nii.gz", "report.html", "results.json"]  # fmt: skip
    assert "a_seg.nii.gz: anterior" in done.stdout
    assert " ml" in done.stdout
    assert {p.name: p.read_bytes() for p in (tmp_path / "in").iterdir()} == before
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [c["case"] for c in results["cases"]] == ["a", "b"]
    assert results["kind"] == "prediction"
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


def test_a_mirrored_image_gives_the_same_mask(tmp_path, voxels, predictor, image):
    mirrored = nib.Nifti1Image(voxels, AFFINE).slicer[::-1]
    nib.save(mirrored, tmp_path / "mirrored.nii.gz")
    assert np.array_equal(predictor(tmp_path / "mirrored.nii.gz").labels[::-1], predictor(image).labels)


def test_an_image_smaller_than_a_patch(tmp_path, voxels, predictor):
    found = predictor(save(tmp_path / "small.nii.gz", voxels[8:20, 8:20, 8:18]))
    assert found.labels.shape == (12, 12, 10)


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


def with_nan():
    array = noise(20, 20, 20)
    array[3, 4, 5] = np.nan
    return array


SHEAR = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
RGB = np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
BAD = {
    "NaN": (lambda p: save(p / "x.nii.gz", with_nan()), "1 NaN or infinite voxel"),
    "4D": (lambda p: save(p / "x.nii.gz", noise(6, 5, 4, 3)), "expected 3D with 1 channel"),
    "RGB": (lambda p: save(p / "x.nii.gz", RGB), "RGB"),
    "no voxels": (lambda p: save(p / "x.nii", np.zeros((0, 4, 4), np.float32)), "at least one voxel each"),
    "sheared": (lambda p: save(p / "x.nii.gz", noise(20, 20, 20), SHEAR), "off right angles"),
    "huge claim": (lambda p: bad_header(p / "x.nii", (30000, 30000, 30000)), "x.nii: its header declares 30000"),
    "huge claim, MHA": (lambda p: bad_mha(p / "x.mha"), "x.mha: its header declares 30000"),
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
    if mounted:
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900)); "
        limit += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    else:
        (full / "filler").write_bytes(bytes(4096))
        limit = "import sys; open(sys.argv[3] + '/filler2', 'wb').write(bytes(3000)); "
    code = limit + "from mednextv2.__main__ import main; import sys; sys.argv.insert(1, 'predict'); main()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, BUNDLE, image, full, "--device", "cpu"], capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        left = {p.name for p in full.iterdir()} - {"filler", "filler2"}
    finally:
        if not mounted:
            subprocess.run(["umount", full], check=True)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.strerror(errno.EFBIG if mounted else errno.ENOSPC) in done.stderr
    assert not left


def test_a_killed_loader_of_the_bundle_is_named(tmp_path):
    broken = shutil.copytree(BUNDLE, tmp_path / "mednextv2_broken")
    (broken / "models" / "model.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"model\.pt"):
        mednextv2.Predictor(broken, **QUICK)


# --- probabilities ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def regional(tmp_path_factory):
    """The bundle with regions, other voxels and weights of chance."""
    from mednextv2.bundle import write_bundle
    from mednextv2.nets import create_mednext

    root = tmp_path_factory.mktemp("regions") / "mednextv2_regions"
    root.mkdir()
    text = (BUNDLE / "task.yaml").read_text(encoding="utf-8")
    regions = "regions: [{name: whole, values: [1, 2], paint: 1}, {name: core, values: [2], paint: 2}]"
    text = text.replace("regions: []", regions).replace("spacing: [1.0, 1.0, 1.0]", "spacing: [1.3, 1.2, 1.4]")
    (root / "task.yaml").write_text(text, encoding="utf-8")
    write_bundle(root / "task.yaml")
    (root / "models").mkdir()
    torch.manual_seed(3)
    network = create_mednext("v2_tiny", in_channels=1, out_channels=2, deep_supervision=True)
    torch.save({"model": network.state_dict()}, root / "models" / "model.pt")
    return mednextv2.Predictor(root, **QUICK)


def logits_by_monai(predictor, image):
    """MONAI's sliding window, and the linear inverse of the preprocessing."""
    from monai.data import decollate_batch
    from monai.data.utils import list_data_collate
    from monai.inferers import SlidingWindowInferer

    batch = list_data_collate([predictor.preprocessing({"image": str(image), "case": "x"})])
    window = SlidingWindowInferer((48, 64, 48), 2, 0.5, "gaussian")
    with torch.no_grad():
        logits = window(batch["image"], predictor.network)
    return predictor._inverse(decollate_batch({**batch, "pred": logits})[0])["pred"].as_tensor()


def frame(voxels):
    """Return an image larger than a window, in a frame of zeros that preprocessing cuts off."""
    return np.pad(np.concatenate([voxels, voxels[::-1]]), ((3, 5), (4, 0), (0, 6)))


@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_probabilities_are_those_of_monais_route(tmp_path, voxels, predictor, regional, kind):
    used = predictor if kind == "classes" else regional
    image = save(tmp_path / "x.nii.gz", frame(voxels))
    expected_labels = used(image).labels
    found = used(image, probabilities=tmp_path / "p.npy")
    assert np.array_equal(found.labels, expected_labels)
    stored = np.load(tmp_path / "p.npy", mmap_mode="r")
    logits = logits_by_monai(used, image)
    expected = logits.softmax(0) if kind == "classes" else logits.sigmoid()
    assert stored.dtype == np.float16
    assert stored.shape == expected.shape == (len(expected), *found.labels.shape)
    inside = (slice(None), slice(4, -6), slice(5, None), slice(None, -7))  # beside the frame
    np.testing.assert_allclose(stored[inside], expected[inside], atol=2e-3)
    outside = stored[:, :3]
    assert (outside == (np.array([1, 0, 0]) if kind == "classes" else np.zeros(2)).reshape(-1, 1, 1, 1)).all()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert used.inferer.probabilities is None


def test_probabilities_by_command(tmp_path, image):
    files = predict_files(BUNDLE, image, tmp_path / "out", probabilities=True, **QUICK)
    assert [f.name for f in files] == ["case_seg.nii.gz", "case_seg_probabilities.npy"]
    labels = np.asarray(nib.load(files[0]).dataobj)
    stored = np.load(files[1])
    assert (stored.argmax(0) == labels).mean() > 0.999  # half precision knows some ties
    np.testing.assert_allclose(stored.astype(np.float32).sum(0), 1, atol=2e-3)


@pytest.mark.parametrize(("name", "text"), [("p.npz", "should end in .npy"), ("file/p.npy", "cannot be written")])
def test_probabilities_that_cannot_be_written(tmp_path, predictor, image, name, text):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=text):
        predictor(image, probabilities=tmp_path / name)
