"""Slices: where things lie, along what outlines run, and what the encoded picture holds."""

import re
import struct
import zlib

import numpy as np
import pytest
from report_helpers import AFFINE, SHAPE, label_map, save

from mednextv2.report import Results
from mednextv2.report.outlines import outline
from mednextv2.report.png import encode_png, png_data_uri
from mednextv2.report.views import draw_case, largest_component, middle

HAND_MADE = np.array(
    [
        [1, 1, 0, 0, 0, 0, 1],
        [1, 0, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0, 1],
        [0, 0, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 1, 0],
    ],
    dtype=bool,
)


def corners(path):
    """Walk along an SVG path of M, h, v and z; return the loops' corners (x, y)."""
    loops = []
    for loop in re.findall(r"M[^z]*z", path):
        x, y = map(int, re.match(r"M(\d+) (\d+)", loop).groups())
        points = [(x, y)]
        for axis, step in re.findall(r"([hv])(-?\d+)", loop):
            x, y = (x + int(step), y) if axis == "h" else (x, y + int(step))
            points.append((x, y))
        loops.append(points)
    return loops


def fill(path, shape):
    """Fill a path by the even-odd rule, from the vertical sides alone."""
    crossed = np.zeros((shape[0], shape[1] + 1), int)
    for loop in corners(path):
        for (x, y), (u, v) in zip(loop, [*loop[1:], loop[0]], strict=True):
            assert x == u or y == v  # along the borders of pixels
            if x == u:
                crossed[min(y, v) : max(y, v), x] += 1
    return crossed.cumsum(axis=1)[:, :-1] % 2 == 1


def test_outline_of_a_pixel_and_of_a_box():
    assert outline(np.array([[1]])) == "M0 0h1v1h-1z"
    assert outline(np.pad(np.ones((2, 3)), 1)) == "M1 1h3v2h-3z"
    assert outline(np.zeros((3, 3))) == ""


def test_pixels_that_touch_at_a_corner_have_outlines_of_their_own():
    assert outline(np.eye(2)) == "M0 0h1v1h-1zM1 1h1v1h-1z"
    assert outline(np.eye(2)[::-1]) == "M1 0h1v1h-1zM0 1h1v1h-1z"


def test_outline_encloses_exactly_the_mask():
    np.testing.assert_array_equal(fill(outline(HAND_MADE), HAND_MADE.shape), HAND_MADE)
    # five pieces that touch at corners alone, and the hole of the ring; the other one is open at its corner
    assert len(corners(outline(HAND_MADE))) == 5 + 1


def test_outlines_of_random_masks_enclose_them():
    rng = np.random.default_rng(0)
    for n in range(60):
        mask = rng.random((rng.integers(1, 15), rng.integers(1, 15))) < 0.2 + 0.01 * n
        path = outline(mask)
        np.testing.assert_array_equal(fill(path, mask.shape), mask)
        sides = sum(abs(int(step)) for step in re.findall(r"[hv](-?\d+)", path))
        padded = np.pad(mask, 1).astype(int)
        borders = np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()
        closing = sum(abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in ((c[0], c[-1]) for c in corners(path)))
        assert sides + closing == borders  # no side twice


def decode(png):
    """Decode 8-bit greyscale whose rows have filter 0 or 2."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(png):
        (size,) = struct.unpack(">I", png[place : place + 4])
        name, content = png[place + 4 : place + 8], png[place + 8 : place + 8 + size]
        assert struct.unpack(">I", png[place + 8 + size : place + 12 + size])[0] == zlib.crc32(name + content)
        chunks[name] = content
        place += 12 + size
    columns, rows, bits, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (bits, kind, list(chunks)) == (8, 0, [b"IHDR", b"IDAT", b"IEND"])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(rows, columns + 1)
    assert set(lines[:, 0]) == {2}
    return lines[:, 1:].cumsum(axis=0, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (3, 300)])
def test_png_decodes_to_the_same_grey_values(shape, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(decode(encode_png(grey)), grey)
    image = pytest.importorskip("matplotlib.image")
    (tmp_path / "a.png").write_bytes(encode_png(grey))
    np.testing.assert_array_equal(
        np.rint(255 * image.imread(tmp_path / "a.png")[..., None][:, :, 0].reshape(shape)), grey
    )


def test_png_refuses_other_arrays():
    with pytest.raises(ValueError, match="uint8"):
        png_data_uri(np.zeros((2, 2)))


# --- geometry --------------------------------------------------------------------------------------------------------


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
    assert drawing.error_ml == pytest.approx(24 * 0.8 * 1.2 * 3 / 1000)
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
    assert drawing.error_ml == pytest.approx(0.8 * 1.2 * 3 / 1000)


def test_labels_of_one_structure_are_not_told_apart(tmp_path):
    label, prediction = label_map(), label_map()
    prediction[prediction == 2] = 1
    views, drawing = drawn(tmp_path, prediction, label, values=((1, 2),))
    assert drawing.error_ml is None
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
