import gzip
import shutil
from itertools import product

import itk
import nibabel as nib
import numpy as np
import pytest
from check_helpers import LABELS, OBLIQUE, SHAPE, mask, noise, only, save, save_itk, sound_case, times

from mednextv2.data import Case, check_case, check_dataset, read_dataset, read_volume
from mednextv2.data.check import CaseReport, inspect_case
from mednextv2.data.check_warnings import missing_classes
from mednextv2.errors import InputError


def save_header_only_affine(path, array, affine):
    """Write an affine that nibabel refuses to write."""
    image = nib.Nifti1Image(array, np.eye(4))
    for axis, row in zip("xyz", affine, strict=False):
        image.header[f"srow_{axis}"] = row
    image.header["sform_code"], image.header["qform_code"], image.header["vox_offset"] = 1, 0, 352
    path.write_bytes(gzip.compress(image.header.binaryblock + bytes(4) + array.tobytes(order="F")))
    return str(path)


def defects(tmp_path, image=None, label=None, affine=None, label_affine=None, channels=("T1",)):
    """Check one case that is good, but for what is given."""
    return check_case(
        Case(
            "case",
            (save(tmp_path / "image.nii.gz", noise() if image is None else image, affine),),
            save(tmp_path / "label.nii.gz", mask() if label is None else label, label_affine),
        ),
        LABELS,
        channels,
    )


# --- good data pass --------------------------------------------------------------------------------------------------


def test_good_phantom_passes(phantom):
    data = read_dataset(phantom)
    check_dataset(data.cases, LABELS, data.channels)


@pytest.mark.parametrize("affine", [np.eye(4), OBLIQUE, np.diag([-1, -1, 3, 1.0])], ids=["plain", "oblique", "flipped"])
def test_good_case_passes_in_any_orientation(tmp_path, affine):
    assert defects(tmp_path, affine=affine, label_affine=affine) == []


def test_case_without_label_is_checked_by_its_image_alone(tmp_path):
    image = save(tmp_path / "a.nii.gz", noise())
    assert check_case(Case("a", (image,)), LABELS, ["T1"]) == []
    image = save(tmp_path / "a.nii.gz", noise() * np.nan)
    only(check_case(Case("a", (image,)), LABELS, ["T1"]), image, "NaN")


def test_label_map_of_background_only_passes(tmp_path):
    assert defects(tmp_path, label=np.zeros(SHAPE, np.uint8)) == []


def test_label_map_of_whole_floating_point_numbers_passes(tmp_path):
    assert defects(tmp_path, label=mask().astype(np.float32)) == []


def test_channels_as_last_axis_pass(tmp_path):
    assert defects(tmp_path, image=noise((*SHAPE, 2)), channels=("T1", "T2")) == []


def test_single_channel_as_last_axis_passes(tmp_path):
    assert defects(tmp_path, image=noise((*SHAPE, 1)), label=mask((*SHAPE, 1))) == []


def test_one_file_a_channel_passes(tmp_path):
    images = tuple(save(tmp_path / f"a_{c}.nii.gz", noise(seed=c)) for c in range(3))
    assert check_case(Case("a", images, save(tmp_path / "label.nii.gz", mask())), LABELS, ["a", "b", "c"]) == []


def test_two_dimensional_case_passes_when_two_dimensions_are_asked_for(tmp_path):
    image, label = save(tmp_path / "i.nii.gz", noise((9, 8))), save(tmp_path / "l.nii.gz", mask((9, 8)))
    assert check_case(Case("a", (image,), label), LABELS, ["T1"], spatial_dims=2) == []


def test_affine_that_differs_by_less_than_a_tenth_of_a_voxel_passes(tmp_path):
    shifted = OBLIQUE.copy()
    shifted[:3, 3] += [0.04, 0.04, 0.04]  # 0.07 mm; the smallest voxel side is 0.8 mm
    assert defects(tmp_path, affine=OBLIQUE, label_affine=shifted) == []


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
    assert f"{image}: is {len(shape)}D ({times(*shape)}); expected 3D with 1 channel" in found


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


# --- a whole data set ------------------------------------------------------------------------------------------------


def test_all_defects_of_all_cases_are_reported_at_once(phantom, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(phantom, folder)
    images, labels = (sorted((folder / name).iterdir()) for name in ("imagesTr", "labelsTr"))
    images[0].unlink()
    labels[1].write_bytes(labels[1].read_bytes()[:300])
    nan = np.array(nib.load(images[2]).dataobj, dtype=np.float32)
    nan[0, 0, 0] = np.nan
    save(images[2], nan)
    save(labels[2], np.full(nan.shape, 9, np.uint8))  # the second defect of this case
    flat = np.zeros(nib.load(images[3]).shape, np.int16)
    save(images[3], flat, np.diag([2.0, 2, 2, 1]))  # two more: constant, and elsewhere than its label
    data = read_dataset(folder)
    with pytest.raises(InputError) as caught:
        check_dataset(data.cases, LABELS, data.channels)
    first, *lines = str(caught.value).splitlines()
    assert "has 6 defects" in first
    assert [line.split(": ")[0] for line in lines] == [
        f"- {file}" for file in (images[0], labels[1], images[2], labels[2], images[3], labels[3])
    ]
    for line, word in zip(lines, ("no such", "truncated", "1 NaN", "outside", "constant", "mm away"), strict=True):
        assert word in line


def test_defects_beyond_fifty_are_counted(tmp_path):
    cases = [Case(f"{i:02d}", (str(tmp_path / f"{i:02d}.nii.gz"),)) for i in range(53)]
    with pytest.raises(InputError) as caught:
        check_dataset(cases, LABELS, ["T1"])
    lines = str(caught.value).splitlines()
    assert "has 53 defects" in lines[0]
    assert len(lines) == 1 + 50 + 1
    assert lines[50].startswith(f"- {tmp_path / '49.nii.gz'}")
    assert lines[51] == "- … and 3 more"


# --- formats of ITK --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd", ".nii"])
@pytest.mark.parametrize("affine", [np.eye(4), OBLIQUE, np.diag([-2.0, 1, 3, 1])], ids=["plain", "oblique", "flipped"])
def test_volume_written_by_itk_has_the_voxels_and_the_affine_of_nifti(tmp_path, ending, affine):
    array, found = read_volume(save_itk(tmp_path / f"a{ending}", noise(), affine))
    assert array.shape == SHAPE
    assert np.array_equal(array, noise())
    assert np.allclose(found, affine, atol=1e-5)
    expected, expected_affine = read_volume(save(tmp_path / "b.nii.gz", noise(), affine))
    assert np.array_equal(array, expected)
    assert np.allclose(found, expected_affine, atol=1e-5)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_image_of_itk_and_label_of_nifti_agree(tmp_path, ending):
    image = save_itk(tmp_path / f"i{ending}", noise(), OBLIQUE)
    label = save(tmp_path / "l.nii.gz", mask(), OBLIQUE)
    assert check_case(Case("a", (image,), label), LABELS, ["T1"]) == []
    mirrored = save_itk(tmp_path / f"m{ending}", noise(), np.diag([-1.0, 1, 1, 1]) @ OBLIQUE)
    only(check_case(Case("a", (mirrored,), label), LABELS, ["T1"]), label, "mm away")


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_channels_of_an_itk_file_are_the_last_axis(tmp_path, ending):
    file = str(tmp_path / f"a{ending}")
    values = noise((*SHAPE, 2))
    itk.imwrite(itk.image_from_array(np.ascontiguousarray(values.transpose(2, 1, 0, 3)), is_vector=True), file)
    assert np.array_equal(read_volume(file)[0], values)
    assert check_case(Case("a", (file,)), LABELS, ["T1", "T2"]) == []
    assert "expected 3D with 1 channel" in check_case(Case("a", (file,)), LABELS, ["T1"])[0]


# --- reports ---------------------------------------------------------------------------------------------------------


def test_report_of_a_sound_case_has_its_spacing_and_values(tmp_path):
    label = mask()
    label[label == 1] = 0
    affine = np.diag([2.0, -0.5, 3, 1])[[1, 2, 0, 3]]  # its axes are superior, right (reversed), anterior
    report = inspect_case(sound_case(tmp_path, affine=affine, label=label), LABELS, ["T1"])
    assert report == CaseReport("case_7", (), (0.5, 3.0, 2.0), (0, 2))


def test_report_of_a_defective_case_has_its_defects_alone(tmp_path):
    case = sound_case(tmp_path)
    report = inspect_case(case, LABELS[:2], ["T1"])
    (defect,) = report.defects
    assert defect.startswith(f"{case.label}: has voxel values outside the declared labels: 2 (")
    assert report == CaseReport("case_7", (defect,))


def test_report_of_a_case_without_label_has_no_values(tmp_path):
    report = inspect_case(Case("a", (save(tmp_path / "a.nii.gz", noise()),)), LABELS, ["T1"])
    assert report == CaseReport("a", (), (1.0, 1.0, 1.0), ())


def test_reports_are_in_the_order_of_the_cases(tmp_path):
    cases = [sound_case(tmp_path, name, np.diag([s, 1, 1, 1.0])) for name, s in (("c", 1), ("a", 2), ("b", 3))]
    reports = check_dataset(cases, LABELS, ["T1"])
    assert [(r.name, r.spacing[0]) for r in reports] == [("c", 1), ("a", 2), ("b", 3)]


def test_classes_without_a_voxel_in_any_case_are_named():
    reports = [CaseReport("a", (), values=(0, 1)), CaseReport("b", (), values=(0, 3)), CaseReport("c", ("bad",))]
    assert missing_classes(reports, ["background", *"uvwx"]) == ["v", "x"]
    assert missing_classes(reports, ["background", "u"]) == []
    assert missing_classes([CaseReport("a", (), values=(1,))], ["background", "u"]) == []


# --- spacing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_images_with_negative_directions_pass(tmp_path, signs):
    affine = np.diag([*np.multiply(signs, (0.7, 1.5, 4.0)), 1])
    report = inspect_case(sound_case(tmp_path, affine=affine), LABELS, ["T1"])
    assert report.defects == ()
    assert report.spacing == pytest.approx((0.7, 1.5, 4.0))


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_case_with_a_header_in_other_units_is_named_with_both_spacings(tmp_path, factor):
    cases = [sound_case(tmp_path, f"case_{i}", np.diag([0.5, 1.0, 3.0, 1])) for i in range(3)]
    cases.append(sound_case(tmp_path, "odd", np.diag([0.5 * factor, factor, 3 * factor, 1])))
    with pytest.raises(InputError, match="1 defect:") as caught:
        check_dataset(cases, LABELS, ["T1"])
    odd = times(*(f"{s * factor:.3g}" for s in (0.5, 1, 3))).replace(
        "\N{MULTIPLICATION SIGN}", " \N{MULTIPLICATION SIGN} "
    )
    assert f"- case odd: has voxels of {odd} mm, the data set's median is 0.5 × 1 × 3 mm; correct" in str(caught.value)


@pytest.mark.parametrize("factor", [9.0, 1 / 9])
def test_spacings_that_differ_by_less_than_ten_times_pass(tmp_path, factor):
    cases = [sound_case(tmp_path, f"case_{i}", np.diag([0.5, 1.0, 3.0, 1])) for i in range(3)]
    check_dataset([*cases, sound_case(tmp_path, "odd", np.diag([0.5, 1, 3 * factor, 1]))], LABELS, ["T1"])


def test_axes_of_another_order_are_no_other_spacing(tmp_path):
    affine = np.diag([0.2, 0.2, 5.0, 1])
    cases = [sound_case(tmp_path, f"case_{i}", affine) for i in range(3)]
    check_dataset([*cases, sound_case(tmp_path, "turned", affine[:, [2, 0, 1, 3]])], LABELS, ["T1"])


# --- labels that nothing declares ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_any_whole_numbers_pass_where_nothing_declares_the_labels(tmp_path, dtype):
    label = mask().astype(dtype)
    label[0, 0, 0] = 117
    report = inspect_case(sound_case(tmp_path, label=label), None, ["T1"])
    assert report.defects == ()
    assert report.values == (0, 1, 2, 117)
    assert all(type(v) is int for v in report.values)


@pytest.mark.parametrize(
    ("value", "shown"), [(-1, "-1"), (0.5, "0.5"), (2**15, "32768"), (np.nan, "nan"), (np.inf, "inf")]
)
def test_what_is_no_label_is_found_where_nothing_declares_them(tmp_path, value, shown):
    label = mask().astype(np.float32)
    label[0, 0, 0] = value
    case = sound_case(tmp_path, label=label)
    only(
        inspect_case(case, None, ["T1"]).defects, case.label, f"are no labels, which are whole numbers from 0: {shown}"
    )


# --- visits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_visitor_gets_image_label_affine_and_name_of_each_case(tmp_path, channels):
    cases = [sound_case(tmp_path, name, OBLIQUE, channels=channels) for name in ("b", "a")]

    def visit(image, label, affine, name):
        assert image.shape == (channels, *SHAPE)
        for c in range(channels):
            assert np.array_equal(image[c], noise(seed=c))
        assert label.shape == SHAPE
        assert np.array_equal(label, mask())
        assert affine == pytest.approx(OBLIQUE, abs=1e-5)
        return f"seen {name}"

    reports = check_dataset(cases, LABELS, [f"c{c}" for c in range(channels)], visit=visit)
    assert [r.extra for r in reports] == ["seen b", "seen a"]


@pytest.mark.parametrize("channels", [1, 2])
def test_visitor_gets_channels_of_the_last_axis_first(tmp_path, channels):
    image = noise((*SHAPE, channels))
    case = Case("a", (save(tmp_path / "i.nii.gz", image),), save(tmp_path / "l.nii.gz", mask((*SHAPE, 1))))
    names = [f"c{c}" for c in range(channels)]
    found, label = inspect_case(case, LABELS, names, visit=lambda image, label, affine, name: (image, label)).extra
    assert np.array_equal(found, np.moveaxis(image, -1, 0))
    assert label.shape == SHAPE


def test_visitor_gets_a_single_image_without_a_copy(tmp_path, monkeypatch):
    arrays = []

    def remember(path):
        arrays.append(read_volume(path))
        return arrays[-1]

    monkeypatch.setattr("mednextv2.data.check.read_volume", remember)
    found = inspect_case(sound_case(tmp_path), LABELS, ["T1"], visit=lambda image, *rest: image).extra
    assert np.shares_memory(found, arrays[0][0])


def test_cases_with_defects_or_without_label_are_not_visited(tmp_path):
    bad, unlabelled = sound_case(tmp_path, "bad"), Case("a", (save(tmp_path / "a.nii.gz", noise()),))
    for case, labels in ((bad, LABELS[:2]), (unlabelled, LABELS)):
        assert inspect_case(case, labels, ["T1"], visit=lambda *given: pytest.fail("visited")).extra is None
