"""2D images from a folder of files to masks, scores and a report: every step that volumes go through."""

import json

import itk
import nibabel as nib
import numpy as np
import pytest
from bundle_helpers import ROOT, read_csv, run_monai
from configured_runs import run_configured
from scipy import ndimage
from verb_helpers import call_verb

from mednextv2.bundle.build import write_bundle
from mednextv2.data import make_phantom_dataset
from mednextv2.errors import InputError
from mednextv2.images.volume import read_volume
from mednextv2.predict_files import predict_files
from mednextv2.predictor import Predictor

QUICK = {"device": "cpu", "test_mirror_axes": []}
TRAIN = {
    "device": "cpu", "epochs": 1, "warmup_epochs": 0, "iterations_per_epoch": 2, "val_iterations": 1, "num_workers": 0,
    "batch_size": 2,
}  # fmt: skip
TURNED = nib.eulerangles.euler2mat(0.3, -0.1, 0.2)
#: Ending, number of axes, and the columns of the affine: pixel size, then where both axes and the normal point.
GEOMETRIES = {
    "plain": (".nii.gz", 2, np.diag([0.9, 1.1, 1.0])),
    "flipped": (".nii", 3, np.diag([-1.0, 1.2, 5.0])),
    "sagittal": (".nii.gz", 3, np.array([[0, 0, 4.0], [1.1, 0, 0], [0, 0.8, 0]])),
    "coronal": (".nii.gz", 2, np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])),
    "oblique": (".nii.gz", 3, TURNED @ np.diag([1.0, 0.9, 3.0])),
    "transposed": (".nii.gz", 2, np.array([[0, 1.0, 0], [1.2, 0, 0], [0, 0, 1.0]])),
    "nrrd": (".nrrd", 3, np.diag([1.0, 0.9, 3.0])),
    "mha": (".mha", 2, np.diag([1.1, 1.0, 1.0])),
}


def write(file, array, axes, matrix):
    """Write a plane of two or three axes as NIfTI or with ITK."""
    array = array if axes == 2 else array[..., None]
    affine = nib.affines.from_matvec(matrix, [5.0, -3.0, 7.0 if axes == 3 else 0.0])
    file.parent.mkdir(parents=True, exist_ok=True)
    if ".nii" in file.name:
        nib.save(nib.Nifti1Image(array, affine), file)
        return
    lps = np.diag([-1, -1, 1, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)[:axes]
    picture = itk.image_from_array(np.ascontiguousarray(array.T))
    picture.SetSpacing(spacing)
    picture.SetOrigin(lps[:axes, 3])
    picture.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:axes, :axes] / spacing)))
    itk.imwrite(picture, str(file))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Planes in every format and position, with label maps, in two folders."""
    phantom = make_phantom_dataset(tmp_path_factory.mktemp("phantom") / "p", len(GEOMETRIES), spatial_dims=2)
    folder = tmp_path_factory.mktemp("planes") / "planes"
    files = zip(sorted(phantom.glob("imagesTr/*")), sorted(phantom.glob("labelsTr/*")), strict=True)
    for (name, (ending, axes, matrix)), (image, label) in zip(GEOMETRIES.items(), files, strict=True):
        for kind, file in (("images", image), ("labels", label)):
            array = np.asarray(nib.load(file).dataobj)
            array = array.T if name == "transposed" else array
            write(folder / kind / f"{name}{ending}", array, axes, matrix)
    return folder


@pytest.fixture(scope="module")
def bundle(data, tmp_path_factory):
    """A bundle that was planned for these planes and trained for two steps."""
    folder = tmp_path_factory.mktemp("bundle") / "mednextv2_planes"
    code, _, err = call_verb("plan", data, "--output", folder, "--variant", "v2_tiny")
    assert code == 0, err
    write_bundle(folder / "task.yaml")
    run_configured(folder, "train", dataset_dir=str(data), **TRAIN)
    assert (folder / "models" / "fold_0" / "model.pt").is_file()
    return folder


def image_of(data, case):
    return next(data.glob(f"images/{case}.*"))


def assert_like_its_image(mask, image):
    """A mask has as many axes as its image, the same position and pixel size, and a label in every pixel."""
    (labels, affine), (voxels, expected) = read_volume(mask), read_volume(image)
    assert labels.shape == voxels.shape
    np.testing.assert_allclose(affine[:, [0, 1, 3]], expected[:, [0, 1, 3]], atol=1e-5)
    if ".nii" in image.name:
        assert nib.load(mask).header.get_zooms() == nib.load(image).header.get_zooms()
    assert labels.dtype == np.uint8


def test_a_data_set_of_planes_is_checked(data):
    code, out, _ = call_verb("check", data)
    assert code == 0
    assert f"{len(GEOMETRIES)} cases of 2D images, no defects" in out


def test_the_plan_has_two_axes(bundle, data):
    task = (bundle / "task.yaml").read_text()
    assert "mirror_axes: [0, 1]" in task
    assert "batch_dice: true" in task
    facts = json.loads((bundle / "fingerprint.json").read_text())
    assert {len(spacing) for spacing in facts["spacings"]} == {2}
    # sorted by name; the axes are those of the patient, whatever their order in the file
    spacings = dict(zip(sorted(GEOMETRIES), facts["spacings"], strict=True))
    assert spacings["transposed"] == pytest.approx([1.0, 1.2])
    assert spacings["sagittal"] == pytest.approx([1.1, 0.8])


def test_evaluation_writes_areas_and_masks_like_the_images(bundle, data):
    run_configured(bundle, "evaluate", dataset_dir=str(data), **QUICK)
    folder = bundle / "output" / "evaluation" / "fold_0"
    rows = read_csv(folder / "cases.csv")
    assert len({row["case"] for row in rows}) == 2
    for row in rows:
        value = int(row["label"].split()[1])
        image, (label, affine) = image_of(data, row["case"]), read_volume(next(data.glob(f"labels/{row['case']}.*")))
        mask = folder / "predictions" / f"{row['case']}_seg.nii.gz"
        assert_like_its_image(mask, image)
        pixel = np.prod(nib.affines.voxel_sizes(affine)[:2])  # at right angles
        assert float(row["reference_mm2"]) == pytest.approx((label == value).sum() * pixel, rel=1e-4)
        assert float(row["area_mm2"]) == pytest.approx((read_volume(mask)[0] == value).sum() * pixel, rel=1e-4)
    code, _, err = call_verb("report", folder)
    assert code == 0, err
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Area (mm²), mean ± sd" in page
    assert " ml" not in page
    assert "Volume" not in page


def test_prediction_gives_every_mask_the_geometry_of_its_image(bundle, data, tmp_path):
    predict_files(bundle, data / "images", tmp_path / "masks", report=True, probabilities=True, **QUICK)
    for case in GEOMETRIES:
        mask = tmp_path / "masks" / f"{case}_seg.nii.gz"
        assert_like_its_image(mask, image_of(data, case))
        parts, labels = np.load(mask.with_name(f"{case}_seg_probabilities.npy")), np.squeeze(nib.load(mask).dataobj)
        assert parts.shape == (3, *labels.shape)
        np.testing.assert_allclose(parts.sum(0, dtype=np.float32), 1, atol=2e-3)
        assert (parts.argmax(0) == labels).mean() > 0.99
    rows = read_csv(tmp_path / "masks" / "volumes.csv")
    assert list(rows[0]) == ["case", "label", "area_mm2"]
    assert {row["case"] for row in rows} == {*GEOMETRIES}
    results = json.loads((tmp_path / "masks" / "results.json").read_text())
    assert all("volumes_ml" not in case and case["areas_mm2"] for case in results["cases"])
    run_configured(bundle, "inference", input=str(data / "images"), output_dir=str(tmp_path / "again"), **QUICK)
    for file in (tmp_path / "masks").glob("*_seg.nii.gz"):
        again, whole = nib.load(tmp_path / "again" / file.name), nib.load(file)
        assert np.array_equal(again.dataobj, whole.dataobj)
        assert np.array_equal(again.affine, whole.affine)


def test_the_same_plane_in_other_files_gets_the_same_labels(bundle, data, tmp_path):
    voxels, _ = read_volume(image_of(data, "plain"))
    predictor = Predictor(bundle, **QUICK)
    expected = predictor((voxels, np.eye(4))).labels
    assert expected.shape == voxels.shape
    assert predictor((voxels[..., None], np.eye(4))).labels.shape == (*voxels.shape, 1)
    for flip, matrix in ((slice(None, None, -1), np.diag([-1.0, 1, 1])), (slice(None), np.eye(3)[[1, 2, 0]].T)):
        write(tmp_path / "x.nii.gz", voxels[flip], 3, matrix)
        found = predictor(tmp_path / "x.nii.gz")
        assert np.array_equal(found.labels[flip][..., 0], expected)
    assert found.areas == found.sizes
    with pytest.raises(ValueError, match="a 2D image has no volumes"):
        found.volumes  # noqa: B018


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nrrd", "mask.mha"])
@pytest.mark.parametrize("case", ["flipped", "coronal", "mha"])
def test_a_mask_in_another_format_lies_where_its_image_lies(bundle, data, tmp_path, name, case, plane_predictor):
    image = image_of(data, case)
    file = plane_predictor(image).save(tmp_path / name)
    (labels, affine), (voxels, expected) = read_volume(file), read_volume(image)
    assert labels.reshape(-1).shape == voxels.reshape(-1).shape
    np.testing.assert_allclose(affine[:, [0, 1, 3]], expected[:, [0, 1, 3]], atol=1e-5)


@pytest.fixture(scope="module")
def plane_predictor(bundle):
    return Predictor(bundle, **QUICK)


def surface(mask):
    return mask & ~ndimage.binary_erosion(mask)


def reference_scores(pred, label, spacing):
    """Return Dice, surface Dice at 1 mm and HD95, computed with SciPy's distance transform."""
    a, b = surface(pred), surface(label)
    to_b = ndimage.distance_transform_edt(~b, sampling=spacing)[a]
    to_a = ndimage.distance_transform_edt(~a, sampling=spacing)[b]
    near = (to_b <= 1.0001).sum() + (to_a <= 1.0001).sum()
    return (
        2 * (pred & label).sum() / (pred.sum() + label.sum()),
        near / (len(to_a) + len(to_b)),
        max(np.percentile(to_a, 95), np.percentile(to_b, 95)),
    )


def test_scores_of_planes_are_those_of_a_distance_transform_in_two_dimensions(data, tmp_path):
    expected = {}
    for case, (_, axes, matrix) in GEOMETRIES.items():
        label = np.array(read_volume(next(data.glob(f"labels/{case}.*")))[0]).squeeze()
        pred = np.roll(label, 2, axis=1)
        pred[:4] = 0
        write(tmp_path / "masks" / f"{case}_seg.nii.gz", pred, axes, matrix)
        spacing = np.linalg.norm(matrix, axis=0)[:2]
        for value in (1, 2):
            expected[case, str(value)] = reference_scores(pred == value, label == value, spacing)
    code, _, err = call_verb(
        "score", tmp_path / "masks", data / "labels", "--images", data / "images", "--output", tmp_path / "scores"
    )
    assert code == 0, err
    rows = read_csv(tmp_path / "scores" / "cases.csv")
    assert len(rows) == 2 * len(GEOMETRIES)
    for row in rows:
        found = [float(row[name]) for name in ("dice", "surface_dice_1mm", "hd95_mm")]
        assert found == pytest.approx(expected[row["case"], row["label"].split()[-1]], rel=1e-4)
        assert float(row["area_mm2"]) > 0
    assert call_verb("report", tmp_path / "scores")[0] == 0
    write(tmp_path / "labels" / "x.nii.gz", label, 3, np.eye(3))
    nib.save(nib.Nifti1Image(np.stack([label] * 3, -1), np.eye(4)), tmp_path / "labels" / "y.nii.gz")
    code, _, err = call_verb("score", tmp_path / "labels", tmp_path / "labels")
    assert code == 1
    assert "label maps of one plane, such as that of x, and volumes, such as that of y; score them separately" in err


@pytest.mark.parametrize("case", ["plain", "sagittal", "nrrd"])
def test_a_picture_of_a_plane_has_one_column(data, tmp_path, case):
    label = next(data.glob(f"labels/{case}.*"))
    code, _, err = call_verb("picture", image_of(data, case), tmp_path / "x.png", "--truth", label)
    assert code == 0, err
    from matplotlib.image import imread

    height, width, _ = imread(tmp_path / "x.png").shape
    assert height > 1.2 * width  # two rows and one column


def refusal(bundle, source, tmp_path):
    with pytest.raises(InputError) as caught:
        predict_files(bundle, source, tmp_path / "masks", **QUICK)
    assert not (tmp_path / "masks").exists()
    return str(caught.value)


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"])
def test_pictures_are_refused_with_the_way_to_convert_them(bundle, tmp_path, ending):
    file = tmp_path / "in" / f"a{ending}"
    file.parent.mkdir()
    file.write_bytes(b"x")
    for source in (file, file.parent):
        message = refusal(bundle, source, tmp_path)
        assert message.startswith(f"{file}: is a picture, which does not say how large its pixels are; save its grey ")
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "images" / f"a{ending}").write_bytes(b"x")
    assert "is a picture" in call_verb("check", tmp_path)[2]


def test_the_advice_on_pictures_works(tmp_path):
    from mednextv2.images.volume import CONVERSION

    command = CONVERSION.removeprefix("save its grey values as NIfTI with ").partition(", where grey")[0]
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)  # three rows, four columns
    command = command.replace("'case.nii.gz'", repr(str(tmp_path / "case.nii.gz")))
    eval(command, {"nibabel": nib, "numpy": np, "grey": grey, "WIDTH": 0.5, "HEIGHT": 0.7})
    image = nib.load(tmp_path / "case.nii.gz")
    assert image.shape == (4, 3)
    assert image.header.get_zooms() == pytest.approx((0.5, 0.7))
    assert nib.aff2axcodes(image.affine)[:2] == ("L", "P")  # as radiologists look at it


def test_other_images_are_refused_with_advice(bundle, data, tmp_path):
    rng = np.random.default_rng(0)
    volume = tmp_path / "v.nii.gz"
    nib.save(nib.Nifti1Image(rng.normal(size=(20, 21, 22)).astype(np.float32), np.eye(4)), volume)
    message = refusal(bundle, volume, tmp_path)
    assert message == (
        f"{volume}: is 3D (20×21×22); expected 2D with 1 channel; save the plane as a file of its own, such as with "
        "nibabel's image.slicer[:, :, 10:11] for the plane 10, or use a bundle for volumes"
    )
    nib.save(nib.load(volume).slicer[:, :, 10:11], tmp_path / "one.nii.gz")
    assert predict_files(bundle, tmp_path / "one.nii.gz", tmp_path / "one_seg.nii.gz", **QUICK)
    hippocampus = ROOT / "bundles" / "mednextv2_hippocampus"
    message = refusal(hippocampus, image_of(data, "plain"), tmp_path)
    assert message.startswith(f"{image_of(data, 'plain')}: is 2D (")
    assert message.endswith("expected 3D with 1 channel; give the whole volume, or use a bundle for 2D images")


def test_one_dicom_slice_is_refused_with_advice(bundle, tmp_path):
    from dicom_helpers import write_series

    write_series(tmp_path / "study", np.arange(20 * 18, dtype=np.int16).reshape(20, 18, 1), np.eye(4))
    message = refusal(bundle, tmp_path / "study", tmp_path)
    assert "has one slice; export the whole series, or, for a bundle for 2D images, convert the slice" in message


def test_a_phantom_of_the_bundle_is_of_planes(bundle, tmp_path):
    code, _, err = call_verb("phantom", tmp_path / "x", "--bundle", bundle, "--cases", 2)
    assert code == 0, err
    label, image = (nib.load(next((tmp_path / "x" / kind).iterdir())) for kind in ("labelsTr", "imagesTr"))
    assert label.shape == image.shape == (48, 48)
    assert {*np.unique(label.dataobj)} == {0, 1, 2}
    code, _, err = call_verb("phantom", tmp_path / "y", "--bundle", bundle, "--spatial_dims", 3)
    assert (code, "is for 2D images" in err) == (1, True)


@pytest.mark.slow
def test_a_cross_validation_fine_tuning_and_monais_commands(bundle, data, tmp_path):
    for fold in range(5):
        if fold:  # the first was trained for all tests
            run_configured(bundle, "train", dataset_dir=str(data), fold=fold, **TRAIN)
        run_configured(bundle, "evaluate", dataset_dir=str(data), fold=fold, **QUICK)
    code, _, err = call_verb("ensemble", bundle, data)
    assert code == 0, err
    pooled = bundle / "output" / "evaluation" / "cross_validation"
    rows = read_csv(pooled / "cases.csv")
    assert {row["case"] for row in rows} == {*GEOMETRIES}
    assert all(float(row["reference_mm2"]) > 0 for row in rows)
    assert call_verb("report", pooled)[0] == 0
    assert "Area (mm²)" in (pooled / "report.html").read_text(encoding="utf-8")

    pretrained = bundle / "models" / "fold_1" / "model.pt"
    run_configured(bundle, "finetune", dataset_dir=str(data), pretrained=str(pretrained), **TRAIN)
    assert (bundle / "models" / "finetune" / "fold_0" / "model.pt").is_file()

    done = run_monai("inference", {"input": data / "images", "output_dir": tmp_path / "all", "device": "cpu"}, bundle)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "axcodes" not in done.stderr  # MONAI's warnings about planes with the affine of a volume
    for case in GEOMETRIES:
        assert_like_its_image(tmp_path / "all" / f"{case}_seg.nii.gz", image_of(data, case))
    for workflow, more in (("train", TRAIN), ("evaluate", {**QUICK, "weights": pretrained})):
        settings = {"dataset_dir": data, "fold": 1, "output_dir": tmp_path / workflow}
        done = run_monai(workflow, {**settings, **more}, bundle)
        assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "train" / "model.pt").is_file()
    assert (tmp_path / "evaluate" / "cases.csv").is_file()
