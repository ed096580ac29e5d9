"""What a visitor of checked cases is given."""

import numpy as np
import pytest
from check_helpers import LABELS, OBLIQUE, SHAPE, mask, noise, save, sound_case

from mednextv2.data import Case, check_dataset, read_volume
from mednextv2.data.check import inspect_case


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
