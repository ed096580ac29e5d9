"""The check of cases and data sets: what passes, what is reported, and what all cases together tell."""

import shutil
from itertools import product

import itk
import nibabel as nib
import numpy as np
import pytest
from check_helpers import LABELS, OBLIQUE, SHAPE, defects, mask, noise, only, save, save_itk, sound_case, times

from mednextv2.data import Case, check_case, check_dataset, read_dataset, read_volume
from mednextv2.data.check import CaseReport, check_image, inspect_case
from mednextv2.data.check_warnings import missing_classes
from mednextv2.errors import InputError

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


def test_voxels_that_are_infinite_in_single_precision_are_told():
    image = np.array([0.0, 1e300]).reshape(2, 1, 1)
    assert check_image(image, np.eye(4))[0].startswith("has voxels of up to 1e+300")
    assert check_image(image / 1e290, np.eye(4)) == []
