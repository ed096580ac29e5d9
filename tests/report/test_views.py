"""Slices: where things lie, and through what place they are cut."""

import numpy as np
import pytest
from report_helpers import AFFINE, SHAPE, fill, label_map, save

from mednextv2.report import Results
from mednextv2.report.views import draw_case, largest_component, middle


def drawn(tmp_path, prediction, label=None, image=None, affine=AFFINE, values=((1,), (2,)), ignore=None):
    image = np.zeros(prediction.shape, np.float32) if image is None else image
    case = {
        "case": "a",
        "image": save(tmp_path / "i.nii.gz", image, affine),
        "prediction": save(tmp_path / "p.nii.gz", prediction, affine),
        "label": None if label is None else save(tmp_path / "l.nii.gz", label, affine),
    }
    names = [f"s{i}" for i in range(len(values))]
    results = Results("prediction", "T", names, values, [case], ignore_label=ignore)
    views = draw_case(results.cases[0], results)
    return {view.plane: view for view in views.views}, views


def test_a_corner_lands_where_radiologists_look_for_it(tmp_path):
    """Stored axes run to the left, posterior and superior: the voxel (0, 0, last) is right, anterior, superior."""
    prediction = np.zeros((6, 8, 5), np.uint8)
    prediction[0, 0, -1], prediction[2, 3, 2] = 2, 1  # the second is the middle
    image = prediction.astype(np.float32)
    views, _ = drawn(tmp_path, prediction, image=image, values=((2,), (1,)))
    prediction[:] = 0
    prediction[0, 0, -1] = 2
    views, _ = drawn(tmp_path, prediction, image=image, values=((2,),))
    assert list(views) == ["axial", "coronal", "sagittal"]
    assert [views[p].grey.shape for p in views] == [(8, 6), (5, 6), (5, 8)]
    for plane, (row, column) in {"axial": (0, 0), "coronal": (0, 0), "sagittal": (0, 7)}.items():
        (path,) = views[plane].prediction.values()
        assert path == f"M{column} {row}h1v1h-1z", plane
        assert views[plane].grey[row, column] == views[plane].grey.max() > 0  # image and outline lie together
    assert [views[p].sides for p in views] == ["RLAP", "RLSI", "PASI"]


def test_pixels_have_their_size_in_millimetres(tmp_path):
    views, _ = drawn(tmp_path, label_map())
    assert {p: v.pixel for p, v in views.items()} == {
        "axial": pytest.approx((0.8, 1.2)),
        "coronal": pytest.approx((0.8, 3.0)),
        "sagittal": pytest.approx((1.2, 3.0)),
    }


def test_another_order_of_axes_gives_the_same_slices(tmp_path):
    rng = np.random.default_rng(0)
    label, image = label_map(), rng.normal(size=SHAPE).astype(np.float32)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, _ = drawn(tmp_path / "a", label, image=image)
    turned = AFFINE[:, [2, 0, 1, 3]].copy()  # the same places, superior axis first and the second one flipped
    turned[:3, 3] += turned[:3, 1] * (SHAPE[0] - 1)
    turned[:3, 1] *= -1
    flip = [np.transpose(a, (2, 0, 1))[:, ::-1].copy() for a in (label, image)]
    two, _ = drawn(tmp_path / "b", flip[0], image=flip[1], affine=turned)
    for plane, view in one.items():
        np.testing.assert_array_equal(view.grey, two[plane].grey)
        assert (view.prediction, view.pixel) == (two[plane].prediction, pytest.approx(two[plane].pixel))


def test_slices_go_through_the_largest_error(tmp_path):
    label, prediction = label_map(), label_map()
    prediction[14:18, 2:5, 0:2] = 1  # 24 voxels
    prediction[1, 20:23, :] = 2  # 30 voxels, but in two pieces
    prediction[1, :, 5] = 0
    image = np.zeros(SHAPE, np.float32)
    views, drawing = drawn(tmp_path, prediction, label, image)
    assert drawing.error_size == pytest.approx(24 * 0.8 * 1.2 * 3 / 1000)
    x, y, z = (
        SHAPE[0] - 1 - views["sagittal"].position,
        SHAPE[1] - 1 - views["coronal"].position,
        views["axial"].position,
    )
    assert (x in (15, 16), y == 3, z in (0, 1)) == (True, True, True)  # inside, not on its surface
    assert views["axial"].reference == {}  # the label map has nothing there
    assert 0 in views["axial"].prediction


def test_ignored_voxels_are_no_error(tmp_path):
    label, prediction = label_map(), label_map()
    label[12:, :, :], prediction[13:18, 2:8, 2:8] = 3, 1
    prediction[4, 4, 3] = 0
    _, drawing = drawn(tmp_path, prediction, label, ignore=3)
    assert drawing.error_size == pytest.approx(0.8 * 1.2 * 3 / 1000)


def test_labels_of_one_structure_are_not_told_apart(tmp_path):
    label, prediction = label_map(), label_map()
    prediction[prediction == 2] = 1
    views, drawing = drawn(tmp_path, prediction, label, values=((1, 2),))
    assert drawing.error_size is None
    assert list(views["axial"].prediction) == [0]


def test_regions_overlap(tmp_path):
    views, _ = drawn(tmp_path, label_map(), values=((1, 2), (2,)))
    whole, part = (fill(views["axial"].prediction[i], views["axial"].grey.shape) for i in (0, 1))
    assert part.any()
    assert (whole & part).sum() == part.sum() < whole.sum()


def test_deepest_voxel_and_middle():
    error = np.zeros((9, 9, 9), bool)
    error[1:6, 2:7, 3:8], error[7, 7, 7] = True, True
    assert largest_component(error, (1, 1, 1)) == ((3, 4, 5), 125)
    assert middle(error) == (3, 4, 5)
    assert middle(np.zeros((4, 6, 8))) == (2, 3, 4)


def test_a_2d_image_has_one_slice(tmp_path):
    prediction = np.zeros((9, 7), np.uint8)
    prediction[2:5, 3:5] = 1
    views, _ = drawn(tmp_path, prediction, prediction, np.random.default_rng(0).random((9, 7), dtype=np.float32))
    assert list(views) == ["axial"]


def test_image_without_contrast_or_with_nan_is_drawn(tmp_path):
    image = np.full(SHAPE, np.nan, np.float32)
    views, _ = drawn(tmp_path, label_map(), image=image)
    assert views["axial"].grey.max() == 0
