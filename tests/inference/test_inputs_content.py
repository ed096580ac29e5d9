"""The check of the content of images before they are segmented."""

from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged

from mednextv2.errors import InputError, find_input_error
from mednextv2.inference import CheckImaged


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def save(path, array):
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return str(path)


def with_value(value):
    array = noise(6, 5, 4)
    array[1, 2, 3] = value
    return array


def test_good_image_passes_unchanged(tmp_path):
    data = {"image": save(tmp_path / "a.nii.gz", noise(6, 5, 4)), "case": "a"}
    assert CheckImaged("image")(data) == data
    data = {"image": Path(data["image"])}
    assert CheckImaged("image")(data) == data


def test_good_channels_pass_in_one_file_or_several(tmp_path):
    files = [save(tmp_path / f"a_{c}.nii.gz", noise(6, 5, 4)) for c in (0, 1)]
    assert CheckImaged("image", channels=2)({"image": files}) == {"image": files}
    both = save(tmp_path / "b.nii.gz", noise(6, 5, 4, 2))
    assert CheckImaged("image", channels=2)({"image": both}) == {"image": both}


def test_good_two_dimensional_image_passes_where_it_is_expected(tmp_path):
    data = {"image": save(tmp_path / "a.nii.gz", noise(6, 5))}
    assert CheckImaged("image", spatial_dims=2)(data) == data


@pytest.mark.parametrize("image", [noise(1, 4, 4, 4), torch.zeros(1, 4, 4, 4), MetaTensor(noise(1, 4, 4, 4))])
def test_arrays_pass_through(image):
    assert CheckImaged("image")({"image": image})["image"] is image


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (noise(6, 5), "2D"),
        (noise(6, 5, 4, 3), "4D"),
        (with_value(np.nan), "1 NaN or infinite voxel;"),
        (with_value(np.inf), "NaN or infinite"),
        (np.zeros((6, 5, 4), np.float32), "constant: every voxel is 0"),
        (np.full((6, 5, 4), -1000, np.int16), "constant: every voxel is -1000"),
        (noise(6, 5, 4).astype(np.complex64), "complex64"),
        (np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "RGB"),
    ],
    ids=["2D", "4D", "NaN", "infinite", "zero", "constant", "complex", "RGB"],
)
def test_bad_image_is_named_with_what_is_wrong(tmp_path, array, words):
    file = save(tmp_path / "bad.nii.gz", array)
    with pytest.raises(InputError) as caught:
        CheckImaged("image")({"image": file})
    assert str(caught.value).startswith(f"{file}: ")
    assert words in str(caught.value)


def test_missing_truncated_and_foreign_files_are_named(tmp_path):
    whole = Path(save(tmp_path / "a.nii.gz", noise(16, 16, 16))).read_bytes()
    (tmp_path / "half.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nii.gz").write_text("not an image")
    (tmp_path / "half.mha").write_text("ObjectType = Image\n")
    for name in ("half.nii.gz", "text.nii.gz", "half.mha", "no.nii.gz"):
        with pytest.raises(InputError) as caught:
            CheckImaged("image")({"image": str(tmp_path / name)})
        assert str(caught.value).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize("channels", [1, 3])
def test_other_number_of_channels_is_named(tmp_path, channels):
    file = save(tmp_path / "a.nii.gz", noise(6, 5, 4, 2))
    with pytest.raises(InputError, match=f"expected 3D with {channels} channel"):
        CheckImaged("image", channels=channels)({"image": file})


def test_bad_channel_file_is_named(tmp_path):
    files = [save(tmp_path / "a_0000.nii.gz", noise(6, 5, 4)), save(tmp_path / "a_0001.nii.gz", with_value(np.nan))]
    with pytest.raises(InputError) as caught:
        CheckImaged("image", channels=2)({"image": files})
    assert str(caught.value).startswith(f"{files[1]}: ")


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_channel_files_of_other_shapes_or_places_are_named(tmp_path, ending):
    def write(name, array, shift):
        file = str(tmp_path / f"{name}{ending}")
        if ending == ".nii.gz":
            affine = np.eye(4)
            affine[0, 3] = shift
            nib.save(nib.Nifti1Image(array, affine), file)
        else:
            image = itk.image_from_array(array)
            image.SetOrigin([shift, 0, 0])
            itk.imwrite(image, file)
        return file

    first = write("a_0000", noise(6, 5, 4), 0.0)
    for second in (write("a_0001", noise(6, 5, 5), 0.0), write("b_0001", noise(6, 5, 4), 50.0)):
        with pytest.raises(InputError) as caught:
            CheckImaged("image", channels=2)({"image": [first, second]})
        assert second in str(caught.value)


def test_each_key_is_checked(tmp_path):
    data = {"t1": save(tmp_path / "a.nii.gz", noise(6, 5, 4)), "t2": save(tmp_path / "b.nii.gz", with_value(np.nan))}
    with pytest.raises(InputError, match=r"b\.nii\.gz"):
        CheckImaged(["t1", "t2"])(data)


def test_its_error_survives_monais_compose(tmp_path):
    file = save(tmp_path / "a.nii.gz", noise(6, 5))
    with pytest.raises(RuntimeError) as caught:
        Compose([CheckImaged("image"), LoadImaged("image")])({"image": file})
    assert str(find_input_error(caught.value)).startswith(f"{file}: is 2D")
