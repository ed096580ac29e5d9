"""Every defect of a case is found, and its file is named."""

import gzip

import itk
import nibabel as nib
import numpy as np
import pytest
from check_helpers import LABELS, SHAPE, defects, mask, noise, only, save, times

from mednextv2.data import Case, check_case


def save_header_only_affine(path, array, affine):
    """Write an affine that nibabel refuses to write."""
    image = nib.Nifti1Image(array, np.eye(4))
    for axis, row in zip("xyz", affine, strict=False):
        image.header[f"srow_{axis}"] = row
    image.header["sform_code"], image.header["qform_code"], image.header["vox_offset"] = 1, 0, 352
    path.write_bytes(gzip.compress(image.header.binaryblock + bytes(4) + array.tobytes(order="F")))
    return str(path)


# --- each defect is found, and names the file ------------------------------------------------------------------------


def test_missing_image_is_found(tmp_path):
    case = Case("a", (str(tmp_path / "no.nii.gz"),), save(tmp_path / "l.nii.gz", mask()))
    only(check_case(case, LABELS, ["T1"]), tmp_path / "no.nii.gz", "no such file")


def test_missing_label_is_found(tmp_path):
    case = Case("case_9", (save(tmp_path / "i.nii.gz", noise()),), str(tmp_path / "no.nii.gz"))
    only(check_case(case, LABELS, ["T1"]), tmp_path / "no.nii.gz", "no such file", "label of case case_9")


def test_other_shape_is_found(tmp_path):
    only(
        defects(tmp_path, label=mask((9, 8, 6))),
        tmp_path / "label.nii.gz",
        times(9, 8, 6),
        times(9, 8, 7),
        str(tmp_path / "image.nii.gz"),
    )


def test_channels_of_other_shapes_are_found(tmp_path):
    images = save(tmp_path / "a_0.nii.gz", noise()), save(tmp_path / "a_1.nii.gz", noise((9, 8, 8)))
    case = Case("a", images, save(tmp_path / "l.nii.gz", mask()))
    only(check_case(case, LABELS, ["a", "b"]), images[1], times(9, 8, 8), images[0])


@pytest.mark.parametrize("step", [0.2, 1.0, 100.0])
def test_shifted_label_is_found(tmp_path, step):
    affine = np.eye(4)
    affine[1, 3] = step
    found = defects(tmp_path, label_affine=affine)
    only(found, tmp_path / "label.nii.gz", f"up to {step:.3g} mm away", str(tmp_path / "image.nii.gz"))


def test_tolerance_is_a_tenth_of_the_smallest_side_of_a_voxel(tmp_path):
    affine = np.diag([5.0, 5.0, 0.5, 1.0])
    for step, count in ((0.04, 0), (0.06, 1)):
        shifted = affine.copy()
        shifted[0, 3] = step
        assert len(defects(tmp_path, affine=affine, label_affine=shifted)) == count


def test_flipped_label_is_found(tmp_path):
    only(defects(tmp_path, label_affine=np.diag([-1, 1, 1, 1.0])), tmp_path / "label.nii.gz", "up to 16 mm", "affine")


def test_other_spacing_is_found_though_the_origin_is_the_same(tmp_path):
    only(defects(tmp_path, label_affine=np.diag([1, 1, 1.05, 1])), tmp_path / "label.nii.gz", "up to 0.3 mm")


@pytest.mark.parametrize(("value", "shown"), [(3, "3"), (255, "255"), (-1, "-1"), (1.5, "1.5"), (np.nan, "nan")])
def test_label_value_that_is_not_declared_is_found(tmp_path, value, shown):
    label = mask().astype(np.float32)
    label[0, 0, 0] = value
    only(
        defects(tmp_path, label=label),
        tmp_path / "label.nii.gz",
        f"outside the declared labels: {shown} (",
        "0 background, 1 anterior, 2 posterior",
    )


def test_many_undeclared_values_are_cut_short(tmp_path):
    (found,) = defects(tmp_path, label=np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE))
    assert "3, 4, 5, 6, 7, 8, 9, 10, …" in found


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_voxels_are_found_and_counted(tmp_path, value):
    image = noise()
    image[1, 2, 3] = image[0, 0, 0] = value
    only(defects(tmp_path, image=image), tmp_path / "image.nii.gz", "2 NaN or infinite voxels", "replace")


@pytest.mark.parametrize("value", [0, -1024])
def test_constant_image_is_found(tmp_path, value):
    image = np.full(SHAPE, value, np.int16)
    only(defects(tmp_path, image=image), tmp_path / "image.nii.gz", f"constant: every voxel is {value};")


def test_constant_channel_file_is_found(tmp_path):
    images = save(tmp_path / "a_0.nii.gz", noise()), save(tmp_path / "a_1.nii.gz", noise() * 0)
    case = Case("a", images, save(tmp_path / "l.nii.gz", mask()))
    only(check_case(case, LABELS, ["a", "b"]), images[1], "constant")


@pytest.mark.parametrize("which", ["image", "label"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.98])
def test_truncated_file_is_found(tmp_path, which, share):
    assert defects(tmp_path, label=mask((64, 8, 8)), image=noise((64, 8, 8))) == []
    file = tmp_path / f"{which}.nii.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    case = Case("a", (str(tmp_path / "image.nii.gz"),), str(tmp_path / "label.nii.gz"))
    only(check_case(case, LABELS, ["T1"]), file, "truncated", "Copy or convert it again")


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_damaged_byte_of_a_compressed_file_is_found(tmp_path, place):
    file = save(tmp_path / "i.nii.gz", np.random.default_rng(0).integers(0, 1000, (32, 32, 8)).astype(np.int16))
    content = bytearray((tmp_path / "i.nii.gz").read_bytes())
    content[int(place * len(content))] ^= 4  # the checksum at the end of the file tells
    (tmp_path / "i.nii.gz").write_bytes(content)
    only(check_case(Case("a", (file,)), LABELS, ["T1"]), file, "damaged")


@pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("missing", [1, 100, 2000])
def test_truncated_uncompressed_file_is_found(tmp_path, ending, missing):
    file = tmp_path / f"image{ending}"
    if ending == ".nii":
        save(file, noise())
    else:
        itk.imwrite(itk.image_from_array(noise()), str(file))
    case = Case("a", (str(file),))
    assert check_case(case, LABELS, ["T1"]) == []
    file.write_bytes(file.read_bytes()[:-missing])
    only(check_case(case, LABELS, ["T1"]), file, "truncated")


@pytest.mark.parametrize("which", ["image", "label"])
@pytest.mark.parametrize("name", ["text.nii.gz", "text.nii", "text.nrrd", "text.mha"])
def test_text_file_under_an_image_name_is_found(tmp_path, which, name):
    file = tmp_path / name
    file.write_text("404: not found\n" * 100)
    good = {"image": save(tmp_path / "i.nii.gz", noise()), "label": save(tmp_path / "l.nii.gz", mask())}
    files = good | {which: str(file)}
    only(check_case(Case("a", (files["image"],), files["label"]), LABELS, ["T1"]), file, "not what its ending says")


def test_unknown_ending_is_found(tmp_path):
    (tmp_path / "a.dcm").touch()
    only(check_case(Case("a", (str(tmp_path / "a.dcm"),)), LABELS, ["T1"]), tmp_path / "a.dcm", "ending", "convert")


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 7, 5), (9, 8, 7, 1, 3)])
def test_image_of_other_dimensions_is_found(tmp_path, shape):
    image, label = save(tmp_path / "i.nii.gz", noise(shape)), save(tmp_path / "l.nii.gz", mask(shape[:3]))
    found = check_case(Case("a", (image,), label), LABELS, ["T1"])
    start = f"{image}: is {len(shape)}D ({times(*shape)}); expected 3D with 1 channel"
    assert any(line.startswith(start) for line in found)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_two_dimensional_files_of_every_format_get_a_verdict(tmp_path, ending, spatial_dims):
    files = str(tmp_path / f"i{ending}"), str(tmp_path / f"l{ending}")
    for file, array in zip(files, (noise((9, 8)), mask((9, 8))), strict=True):
        if ending == ".nii.gz":
            save(file, array)
        else:
            itk.imwrite(itk.image_from_array(array), file)
    found = check_case(Case("a", files[:1], files[1]), LABELS, ["T1"], spatial_dims)
    assert len(found) == {2: 0, 3: 2}[spatial_dims]
    assert all("is 2D" in f for f in found)


def test_label_with_channels_is_found(tmp_path):
    found = defects(tmp_path, label=mask((*SHAPE, 2)))
    only(found, tmp_path / "label.nii.gz", f"4D ({times(9, 8, 7, 2)})", "label map is 3D")


@pytest.mark.parametrize(("count", "names"), [(3, ("a",)), (3, ("a", "b")), (2, ("a", "b", "c"))])
def test_wrong_number_of_channels_in_a_file_is_found(tmp_path, count, names):
    found = defects(tmp_path, image=noise((*SHAPE, count)), channels=names)
    expected = f"expected 3D with {len(names)} channel"
    only(found, tmp_path / "image.nii.gz", f"4D ({times(9, 8, 7, count)})", expected)


def test_wrong_number_of_channel_files_is_found(tmp_path):
    images = save(tmp_path / "a_0.nii.gz", noise()), save(tmp_path / "a_1.nii.gz", noise())
    found = check_case(Case("case_9", images), LABELS, ["a", "b", "c"])
    assert "case case_9: has 2 images for 3 channels" in found


@pytest.mark.parametrize("which", ["image", "label"])
def test_file_without_voxels_is_found(tmp_path, which):
    # NIfTI stores no size 0: nibabel reads such a file as an array of the shape (0,); .nrrd and .mha refuse it
    empty = np.zeros((0, 8, 7), np.uint8)
    assert any(f.startswith(str(tmp_path / f"{which}.nii.gz")) for f in defects(tmp_path, **{which: empty}))


def rgb(shape=SHAPE):
    values = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)
    return values.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]


def test_rgb_image_is_found(tmp_path):
    only(defects(tmp_path, image=rgb()), tmp_path / "image.nii.gz", "not one number each", "RGB")


def test_rgb_label_is_found(tmp_path):
    found = defects(tmp_path, label=rgb())
    assert len(found) == 1
    assert found[0].startswith(f"{tmp_path / 'label.nii.gz'}: ")


def test_complex_image_is_found(tmp_path):
    only(defects(tmp_path, image=noise().astype(np.complex64)), tmp_path / "image.nii.gz", "complex64")


@pytest.mark.parametrize("bad", [np.diag([1, 1, 0, 1.0]), np.diag([1, np.nan, 1, 1.0])], ids=["singular", "nan"])
def test_affine_without_volume_is_found(tmp_path, bad):
    image = save_header_only_affine(tmp_path / "i.nii.gz", noise(), bad)
    only(
        check_case(Case("a", (image,)), LABELS, ["T1"]),
        image,
        "an affine that is no position in space",
        "correct the orientation",
    )


@pytest.mark.parametrize("bad", [np.diag([1, 1, 0, 1.0]), np.diag([1, np.nan, 1, 1.0])], ids=["singular", "nan"])
def test_label_with_an_unusable_affine_is_found(tmp_path, bad):
    image = save(tmp_path / "i.nii.gz", noise())
    label = save_header_only_affine(tmp_path / "l.nii.gz", mask(), bad)
    only(check_case(Case("a", (image,), label), LABELS, ["T1"]), label, "affine")
