import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mednextv2.errors import InputError
from mednextv2.picture import save_picture

RED, BLUE = (255, 80, 80), (64, 196, 255)  # the first two outlines


def write(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def files(tmp_path):
    image = np.random.default_rng(0).normal(size=(20, 24, 16)).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[6:14, 4:12, 5:11], labels[6:14, 12:20, 5:11] = 1, 2
    return write(tmp_path / "image.nii.gz", image), write(tmp_path / "labels.nii.gz", labels)


def count(path, color):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - color).sum(-1) < 40).sum())


def test_outlines_of_reference_and_prediction_are_drawn_in_their_rows(files, tmp_path):
    image, labels = files
    plain = save_picture(image, tmp_path / "plain.png")
    one = save_picture(image, tmp_path / "one.png", prediction=labels)
    two = save_picture(image, tmp_path / "two.png", truth=labels, prediction=labels)
    heights = [Image.open(p).height for p in (plain, one, two)]
    assert heights[0] < heights[1] < heights[2]
    assert count(plain, RED) == count(plain, BLUE) == 0
    assert count(one, RED) > 50
    assert count(one, BLUE) > 50
    assert count(two, RED) == pytest.approx(2 * count(one, RED), rel=0.3)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_rows_are_named_after_what_they_show(files, tmp_path, monkeypatch):
    image, labels = files
    titles = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda axes, text, **more: titles.append(text))
    save_picture(image, tmp_path / "p.png", truth=labels, prediction=labels)
    assert titles[::3] == ["image, sagittal", "reference, sagittal", "prediction, sagittal"]
    assert titles[1:3] == ["coronal", "axial"]


def test_without_any_label_the_middle_of_the_image_is_shown(files, tmp_path):
    image, _ = files
    empty = write(tmp_path / "empty.nii.gz", np.zeros((20, 24, 16), np.uint8))
    assert save_picture(image, tmp_path / "p.png", prediction=empty).is_file()


def test_planes_keep_their_proportions_in_millimetres(tmp_path):
    flat = write(
        tmp_path / "flat.nii.gz", np.arange(5400, dtype=np.float32).reshape(30, 30, 6), np.diag([1.0, 1, 5, 1])
    )
    assert save_picture(flat, tmp_path / "p.png").is_file()


def test_label_maps_elsewhere_are_refused(files, tmp_path):
    image, labels = files
    moved = write(
        tmp_path / "moved.nii.gz", np.asarray(nib.load(labels).dataobj), np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 5
    )
    with pytest.raises(InputError, match=r"moved\.nii\.gz: lies up to 5 mm away"):
        save_picture(image, tmp_path / "p.png", prediction=moved)
    small = write(tmp_path / "small.nii.gz", np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(InputError, match=r"small\.nii\.gz: has shape 3×3×3"):
        save_picture(image, tmp_path / "p.png", truth=small)
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize(("wrong", "message"), [(0.5, "no labels, which are whole numbers"), (-1, "no labels")])
def test_what_is_no_label_map_is_refused(files, tmp_path, wrong, message):
    array = np.asarray(nib.load(files[1]).dataobj).astype(np.float32)
    array[0, 0, 0] = wrong
    with pytest.raises(InputError, match=rf"wrong\.nii\.gz: .*{message}"):
        save_picture(files[0], tmp_path / "p.png", truth=write(tmp_path / "wrong.nii.gz", array))


@pytest.mark.parametrize("name", ["image.nii.gz", "picture", "folder.png"])
def test_only_png_files_are_written(files, tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    before = files[0].read_bytes()
    with pytest.raises(InputError, match=r"should end in \.png"):
        save_picture(files[0], tmp_path / name)
    assert files[0].read_bytes() == before
