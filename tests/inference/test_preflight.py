"""What is checked before an evaluation or an inference: folders, names of masks, images and cases."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from mednextv2.data import read_dataset
from mednextv2.errors import InputError
from mednextv2.inference import CheckImaged, find_images, preflight, prepare_evaluation, prepare_inference
from mednextv2.inference.preflight import _check_unseen, check_images
from mednextv2.label_scheme import LabelScheme
from mednextv2.weights.files import save_file

SCHEME = LabelScheme(["background", "anterior", "posterior"])


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    """Count how often the process is told to keep freed memory, instead of doing it."""
    calls = []
    monkeypatch.setattr(preflight, "keep_freed_memory", lambda: calls.append(True))
    return calls


def save(path, *bad):
    """Write an image; `bad` are values of its first voxels."""
    array = np.random.default_rng(0).normal(size=(8, 7, 6)).astype(np.float32)
    array.ravel()[: len(bad)] = bad
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return str(path)


def items(folder):
    return [{"image": str(file), "case": file.name.removesuffix(".nii.gz")} for file in sorted(folder.glob("*.nii.gz"))]


# --- inference -------------------------------------------------------------------------------------------------------


def test_sound_images_pass_and_no_folder_is_made(tmp_path, kept):
    for name in "ab":
        save(tmp_path / "in" / f"{name}.nii.gz")
    prepare_inference(find_images(tmp_path / "in", ["T1"]), tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
    assert kept == [True]


def test_every_defect_of_several_images_is_told(tmp_path):
    for name, bad in (("a", [np.nan]), ("b", []), ("c", [np.inf, np.nan])):
        save(tmp_path / "in" / f"{name}.nii.gz", *bad)
    with pytest.raises(InputError) as caught:
        prepare_inference(items(tmp_path / "in"), tmp_path / "out")
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("2 of 3 images cannot be segmented")
    assert [line.split(": ")[0] for line in lines] == [f"- {tmp_path / 'in' / name}.nii.gz" for name in "ac"]
    assert "1 NaN or infinite voxel" in lines[0]
    assert "2 NaN or infinite voxels" in lines[1]


def test_images_are_read_only_where_it_is_wanted_and_one_alone_is_not(tmp_path):
    for name in "ab":
        save(tmp_path / "in" / f"{name}.nii.gz", np.nan)
    both = items(tmp_path / "in")
    prepare_inference(both, tmp_path / "out", check_data=False)
    prepare_inference(both[:1], tmp_path / "out")
    with pytest.raises(InputError):
        prepare_inference(both, tmp_path / "out")


def test_a_mask_never_takes_the_place_of_an_image(tmp_path):
    for name in ("a", "a_seg"):
        save(tmp_path / "in" / f"{name}.nii.gz")
    with pytest.raises(
        InputError, match=r"the mask of .*a\.nii\.gz would replace .*a_seg\.nii\.gz, which is one of the"
    ):
        prepare_inference(items(tmp_path / "in"), tmp_path / "in")
    prepare_inference(items(tmp_path / "in"), tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "in")  # the same folder by another name
    with pytest.raises(InputError, match="would replace"):
        prepare_inference(items(tmp_path / "in"), tmp_path / "link")


@pytest.mark.parametrize("place", ["file", "file/out"])
def test_an_output_folder_that_is_a_file_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    save(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(InputError, match="output_dir"):
        prepare_inference(items(tmp_path / "in"), tmp_path / place)


def test_one_bad_image_is_told_without_a_list(tmp_path):
    file = save(tmp_path / "a.nii.gz", np.nan)
    with pytest.raises(InputError) as caught:
        check_images([{"image": file}], CheckImaged("image"))
    assert str(caught.value).startswith(f"{file}: has 1 NaN")


def test_other_numbers_of_channels_are_told(tmp_path):
    for name in "ab":
        save(tmp_path / "in" / f"{name}.nii.gz")
    with pytest.raises(InputError, match="2 of 2 images") as caught:
        prepare_inference(items(tmp_path / "in"), tmp_path / "out", channels=2)
    assert "2 channels" in str(caught.value)


# --- evaluation ------------------------------------------------------------------------------------------------------


def evaluation(folder, scored, **settings):
    """Prepare an evaluation of some cases by their number."""
    dataset = read_dataset(folder)
    cases = [{"case": c.name} for c in dataset.cases if c.name[-1] in scored]
    given = {"scheme": SCHEME, "channels": ["MRI"], "spatial_dims": 3, **settings}
    prepare_evaluation(dataset, cases, output_dir=folder.parent / "out", **given)


@pytest.fixture
def broken(phantom, tmp_path):
    """A data set whose cases 1 and 4 have labels that nothing declares."""
    folder = shutil.copytree(phantom, tmp_path / "data")
    for number in (1, 4):
        file = folder / "labelsTr" / f"phantom_00{number}.nii.gz"
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + np.uint8(5), image.affine), file)
    return folder


def test_sound_cases_pass(phantom, tmp_path, kept):
    folder = shutil.copytree(phantom, tmp_path / "data")
    evaluation(folder, "05")
    assert kept == [True]
    assert not (tmp_path / "out").exists()


def test_only_the_cases_that_are_scored_are_read(broken):
    evaluation(broken, "023")
    with pytest.raises(InputError, match="1 defect:") as caught:
        evaluation(broken, "0123")
    assert "phantom_001.nii.gz" in str(caught.value)
    with pytest.raises(InputError, match="2 defects:"):
        evaluation(broken, "14")
    evaluation(broken, "14", check_data=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scheme": LabelScheme(["background", "anterior"])}, "posterior"),
        ({"channels": ["MRI", "CT"]}, "CT"),
    ],
)
def test_a_bundle_for_other_data_is_refused(phantom, tmp_path, settings, words):
    folder = shutil.copytree(phantom, tmp_path / "data")
    with pytest.raises(InputError, match=words) as caught:
        evaluation(folder, "0", check_data=False, **settings)
    assert str(folder) in str(caught.value)


def test_images_that_were_seen_without_labels_are_scored_with_a_warning(tmp_path, caplog):
    file = tmp_path / "model.pt"
    save_file({"w": torch.zeros(1)}, file, {"dataset": "d", "training": ["c"], "pretrained": {"images": ["a", "b"]}})
    _check_unseen({"a", "x"}, [file], False)
    assert "were pretrained, without labels, on images of the names of 1 case to be scored (a)" in caplog.text
    caplog.clear()
    _check_unseen({"x"}, [file], False)
    assert not caplog.text
