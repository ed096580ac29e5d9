"""Files of cases: where they are looked for, what is read of them, and the volumes that they hold."""

import nibabel as nib
import numpy as np
import pytest
from report_helpers import AFFINE, ML, SHAPE, SPACING, label_map, make_prediction, predicted, read_page, save

from mednextv2.errors import InputError
from mednextv2.report import Results, write_report
from mednextv2.report.number_format import digits
from mednextv2.report.volumes import check_files, check_grids, load_case, map_cases, measure_sizes, move_files


def test_mask_values_may_be_stored_as_floats(tmp_path):
    folder = make_prediction(tmp_path, 1)
    nib.save(
        nib.Nifti1Image(predicted(0).astype(np.float64), nib.load(folder / "0_seg.nii.gz").affine),
        folder / "0_seg.nii.gz",
    )
    assert read_page(write_report(folder)).tables[-1][2][1] == digits(ML * 6 * 6 * 4)


def one_case(tmp_path, prediction, label=None, image=None, affine=AFFINE, values=((1,), (2,)), ignore=None):
    """Results of one case, whose image and label map lie in the grid of `AFFINE` unless another is given."""
    image = np.zeros(prediction.shape, np.float32) if image is None else image
    case = {
        "case": "a",
        "image": save(tmp_path / "images" / "a.nii.gz", image, affine),
        "prediction": save(tmp_path / "a_seg.nii.gz", prediction, affine),
        "label": None if label is None else save(tmp_path / "labels" / "a.nii.gz", label, affine),
    }
    return Results("prediction", "T", [f"s{n}" for n in range(len(values))], values, [case], ignore_label=ignore)


@pytest.mark.parametrize("values", [((1,), (2,)), ((1, 2), (2,)), ((5,),)])
def test_volumes_are_voxels_times_their_size(tmp_path, values):
    _, found = measure_sizes(one_case(tmp_path, predicted(2), label_map(), values=values))
    assert len(found) == len(values)
    for n, group in enumerate(values):
        expected = [ML * sum((array == v).sum() for v in group) for array in (predicted(2), label_map())]
        assert found["a", f"s{n}"] == pytest.approx(expected)


def test_an_oblique_voxel_has_the_volume_of_its_sides(tmp_path):
    turn = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag(SPACING), [1, 2, 3])
    _, found = measure_sizes(one_case(tmp_path, predicted(0), affine=turn))
    prediction, reference = found["a", "s0"]
    assert prediction == pytest.approx(6 * 6 * 4 * 0.8 * 1.2 * 3 / 1000, rel=1e-5)
    assert np.isnan(reference)


def test_voxels_that_were_not_annotated_count_for_nothing(tmp_path):
    label = label_map()
    label[:7] = 3  # half of both structures, which are at x = 4 to 9
    _, found = measure_sizes(one_case(tmp_path, label_map(), label, ignore=3))
    assert found["a", "s0"] == pytest.approx((ML * 3 * 6 * 4, ML * 3 * 6 * 4))
    assert found["a", "s1"] == pytest.approx((ML * 3 * 8 * 4, ML * 3 * 8 * 4))


def test_files_are_looked_for_under_their_names_in_other_folders(tmp_path):
    results = one_case(tmp_path, predicted(0), label_map())
    (moved,) = move_files(results, tmp_path, None).cases
    (before,) = results.cases
    assert moved.image == (str(tmp_path / "a.nii.gz"),)
    assert (moved.label, moved.prediction, moved.case) == (before.label, before.prediction, "a")
    (moved,) = move_files(results, None, tmp_path).cases
    assert (moved.image, moved.label) == (before.image, str(tmp_path / "a.nii.gz"))
    (alone,) = move_files(one_case(tmp_path, predicted(0)), tmp_path, tmp_path).cases
    assert alone.label is None
    for setting, folders in (("images", (tmp_path / "none", None)), ("labels", (None, tmp_path / "none"))):
        with pytest.raises(InputError, match=f"--{setting} {tmp_path / 'none'}: there is no such folder"):
            move_files(results, *folders)


def test_missing_files_are_named_fifty_at_most(tmp_path):
    results = one_case(tmp_path, predicted(0), label_map())
    check_files(results)
    (tmp_path / "labels" / "a.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 of the files are missing.*\n- .*labels/a.nii.gz \(label of a\)$"):
        check_files(results)
    cases = [{"case": f"c{n}", "image": [f"/{n}_0", f"/{n}_1"], "prediction": f"/{n}_s"} for n in range(20)]
    with pytest.raises(InputError) as caught:
        check_files(Results("prediction", "T", ["x"], [[1]], cases))
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("60 of the files are missing")
    assert lines[:3] == ["- /0_0 (image of c0)", "- /0_1 (image of c0)", "- /0_s (prediction of c0)"]
    assert (len(lines), lines[-1]) == (51, "- … and 10 more")


def test_cases_are_worked_on_in_their_order():
    cases = make_cases(9)
    assert map_cases(lambda case: case.case.upper(), cases, "shouting") == [f"C{n}" for n in range(9)]
    with pytest.raises(InputError, match="of c3"):
        map_cases(fail_at_3, cases, "failing")


def make_cases(count):
    cases = [{"case": f"c{n}", "image": "/i", "prediction": "/p"} for n in range(count)]
    return Results("prediction", "T", ["x"], [[1]], cases).cases


def fail_at_3(case):
    if case.case == "c3":
        raise InputError(f"the mask of {case.case}")


def test_grids_that_differ_are_refused_with_both_files():
    array, moved = np.zeros(SHAPE), AFFINE.copy()
    check_grids(("a.nii", array, AFFINE), ("b.nii", array, AFFINE))
    moved[0, 3] += 5
    with pytest.raises(InputError, match=r"b\.nii: .*5.* mm .*a\.nii"):
        check_grids(("a.nii", array, AFFINE), ("b.nii", array, moved))
    with pytest.raises(InputError, match=r"b\.nii: has shape 20×24×9, but .*a\.nii has 20×24×10"):
        check_grids(("a.nii", array, AFFINE), ("b.nii", array[..., 1:], AFFINE))


def test_a_case_is_turned_to_right_anterior_superior(tmp_path):
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    (case,) = one_case(tmp_path, predicted(3), label_map(), image).cases
    found, prediction, label, spacing = load_case(case)
    # stored to the left, posterior and superior
    np.testing.assert_array_equal(found, image[::-1, ::-1])
    np.testing.assert_array_equal(prediction, predicted(3)[::-1, ::-1])
    np.testing.assert_array_equal(label, label_map()[::-1, ::-1])
    assert spacing == pytest.approx(SPACING)


def test_a_swapped_axis_takes_its_spacing_along(tmp_path):
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    swapped = np.array([[0, 0, 3.0, 0], [0.8, 0, 0, 0], [0, 1.2, 0, 0], [0, 0, 0, 1]])
    (case,) = one_case(tmp_path, predicted(0), image=image, affine=swapped).cases
    found, prediction, label, spacing = load_case(case)
    np.testing.assert_array_equal(found, np.transpose(image, (2, 0, 1)))
    np.testing.assert_array_equal(prediction, np.transpose(predicted(0), (2, 0, 1)))
    assert (label, spacing) == (None, pytest.approx((3.0, 0.8, 1.2)))


def test_of_an_image_of_several_channels_the_first_is_shown(tmp_path):
    image = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)
    (case,) = one_case(tmp_path, predicted(0), image=image).cases
    np.testing.assert_array_equal(load_case(case)[0], image[::-1, ::-1, :, 0])


def test_what_is_no_image_is_refused(tmp_path):
    (case,) = one_case(tmp_path, predicted(0), image=np.zeros(SHAPE, np.complex64)).cases
    with pytest.raises(InputError, match=r"a\.nii\.gz: is no image: it has the shape .* and the type complex64"):
        load_case(case)
