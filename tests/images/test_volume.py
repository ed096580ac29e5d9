"""Reading of one image file."""

import itk
import nibabel as nib
import numpy as np
import pytest

from mednextv2.errors import InputError
from mednextv2.images.volume import dimensions, has_orientation, is_numeric, read_volume, stem, unreadable


def nifti(path, array, code=1):
    image = nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]))
    image.set_sform(image.affine, code)
    image.set_qform(image.affine, code)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii.gz", "a"), ("A.NII", "A"), ("x/b.seg.nrrd", "b"), ("c.nrrd", "c"), ("d.mha", "d"), ("e.txt", "e"),
     ("1.2.nii.gz", "1.2")],
)  # fmt: skip
def test_the_stem_is_the_name_without_the_ending(name, expected):
    assert stem(name) == expected


@pytest.mark.parametrize("ones", [0, 1, 2])
def test_trailing_axes_of_length_one_are_left_out(tmp_path, ones):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found, affine = read_volume(nifti(tmp_path / "a.nii.gz", array.reshape(2, 3, 4, *[1] * ones)))
    np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(affine, np.diag([1, 2, 3, 1]))


def test_channels_and_flat_images_stay(tmp_path):
    for shape in ((2, 3, 4, 2), (4, 5, 1), (4, 5, 1, 2)):
        assert read_volume(nifti(tmp_path / "a.nii", np.ones(shape, np.float32)))[0].shape == shape


def test_segmentations_of_slicer_are_read(tmp_path):
    array = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    itk.imwrite(itk.image_from_array(array.T.copy()), str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.seg.nrrd")[0], array)


def test_a_header_without_codes_says_no_orientation(tmp_path):
    assert has_orientation(nifti(tmp_path / "a.nii.gz", np.ones((2, 2, 2), np.float32)))
    assert not has_orientation(nifti(tmp_path / "b.nii.gz", np.ones((2, 2, 2), np.float32), code=0))
    (tmp_path / "c.nii.gz").write_text("nothing")
    assert has_orientation(tmp_path / "c.nii.gz")  # what is wrong with it is told where it is read
    assert has_orientation("d.nrrd")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("a.txt", b"x", "ending is not one of"), ("a.nii.gz", b"x", "cannot be read"), ("b.nii", None, "no such file")],
)
def test_files_that_are_no_image_are_named(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_volume(tmp_path / name)
    assert name in str(error.value)


def test_numbers_and_shapes():
    assert is_numeric(np.zeros(1, bool))
    assert is_numeric(np.zeros(1, np.float16))
    assert not is_numeric(np.zeros(1, complex))
    assert not is_numeric(np.zeros(1, [("R", "u1")]))
    assert dimensions((9, 8, 7)) == "3D (9×8×7)"


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        ("space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n", True),
        ("space: RAS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n", True),
        ("space: scanner-xyz\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n", False),
        ("space: LPS\n", False),
        ("spacings: 1 1 1\n", False),
    ],
)
def test_a_nrrd_file_has_an_orientation_in_a_patients_space(tmp_path, lines, known):
    (tmp_path / "a.nrrd").write_text(f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 1 1 1\n{lines}encoding: raw\n\n0")
    assert has_orientation(tmp_path / "a.nrrd") is known


def test_a_lacking_permission_is_no_damage():
    told = str(unreadable("a.nii.gz", PermissionError(13, "Permission denied", "a.nii.gz")))
    assert told.startswith("a.nii.gz: this user may not read or write it")
    assert "damaged" not in told
