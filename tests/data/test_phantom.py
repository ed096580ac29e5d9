import json
import signal

import nibabel as nib
import numpy as np
import pytest
from bundle_helpers import run_python
from scipy.ndimage import binary_dilation

from mednextv2.data import make_phantom_dataset, read_dataset, read_volume
from mednextv2.errors import InputError

NUMBERS = range(6)


@pytest.fixture(scope="module")
def volumes(phantom):
    """Image and label map of each case."""
    return [tuple(read_volume(f)[0] for f in (c.images[0], c.label)) for c in read_dataset(phantom).cases]


def best_dice(score, truth):
    """Dice of `score >= t` against the truth, at the best threshold t."""
    order = np.argsort(-score, axis=None)
    hits = np.cumsum(truth.reshape(-1)[order])
    return (2 * hits / (np.arange(1, truth.size + 1) + truth.sum())).max()


def test_folder_is_in_msd_layout(phantom):
    data = read_dataset(phantom)
    assert [c.name for c in data.cases] == [f"phantom_{i:03d}" for i in NUMBERS]
    assert data.channels == ("MRI",)
    assert data.labels == {"background": 0, "anterior": 1, "posterior": 2}
    description = json.loads((phantom / "dataset.json").read_text())
    assert description["numTraining"] == 6
    assert sorted(p.name for p in phantom.iterdir()) == ["dataset.json", "imagesTr", "labelsTr"]


def test_files_have_the_type_and_spacing_that_are_described(phantom):
    for case in read_dataset(phantom).cases:
        image, label = nib.load(case.images[0]), nib.load(case.label)
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        assert image.shape == label.shape
        assert image.header.get_zooms() == (1, 1, 1)
        assert all(30 <= n <= 57 for n in image.shape)


def test_three_labels_are_present_in_every_case(volumes):
    for _, label in volumes:
        assert np.unique(label).tolist() == [0, 1, 2]
        assert all((label == value).sum() > 200 for value in (1, 2))
        assert (label == 0).mean() > 0.8


def test_first_structure_is_in_front_of_the_second(volumes):
    for _, label in volumes:
        assert np.nonzero(label == 1)[1].min() > np.nonzero(label == 2)[1].max()  # along y


def test_structures_touch_in_every_case(volumes):
    for _, label in volumes:
        assert (binary_dilation(label == 1) & (label == 2)).sum() >= 5


def test_same_seed_gives_the_same_data(phantom, tmp_path):
    again = make_phantom_dataset(tmp_path / "new" / "folder", cases=2)
    for name in ("phantom_000", "phantom_001"):
        for kind in ("imagesTr", "labelsTr"):
            first, second = (nib.load(folder / kind / f"{name}.nii.gz") for folder in (phantom, again))
            assert np.array_equal(first.dataobj, second.dataobj)


def test_other_seed_gives_other_data(phantom, tmp_path):
    other = make_phantom_dataset(tmp_path, cases=1, seed=1)
    first, second = (nib.load(f / "labelsTr" / "phantom_000.nii.gz").get_fdata() for f in (phantom, other))
    assert first.shape != second.shape or not np.array_equal(first, second)


def test_cases_differ_from_each_other(volumes):
    assert len({label.tobytes() for _, label in volumes}) == len(volumes)


def test_grey_scales_vary_between_cases(volumes):
    deviations = [image.std() for image, _ in volumes]
    assert max(deviations) > 5 * min(deviations)


def test_no_threshold_separates_the_structures_from_the_rest(volumes):
    dice = [best_dice(image.astype(float), label > 0) for image, label in volumes]
    assert max(dice) < 0.8
    assert np.mean(dice) < 0.7


def test_no_threshold_that_all_cases_share_separates_them(volumes):
    scores = [(image - image.mean()) / image.std() for image, _ in volumes]
    score, truth = (np.concatenate([a.reshape(-1) for a in arrays]) for arrays in (scores, [b > 0 for _, b in volumes]))
    assert best_dice(score, truth) < 0.7


def test_best_dice_of_a_perfect_score_is_one():
    truth = np.array([0, 1, 1, 0, 0]) > 0
    assert best_dice(truth * 1.0, truth) == 1
    assert best_dice(1.0 - truth, truth) == pytest.approx(2 * 2 / (5 + 2))


@pytest.mark.parametrize("case", NUMBERS)
def test_no_threshold_separates_the_structures_from_each_other(volumes, case):
    image, label = volumes[case]
    inside = label > 0
    assert best_dice(image[inside].astype(float), label[inside] == 1) < 0.95


@pytest.mark.parametrize("wanted", [{"seed": -1}, {"seed": 1.5}, {"cases": 0}])
def test_numbers_that_cannot_be_are_refused_before_anything_is_written(wanted, tmp_path):
    with pytest.raises(InputError, match="should be a whole number from"):
        make_phantom_dataset(tmp_path / "new", **wanted)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "phantom_000.nii.gz").write_text("older")
    with pytest.raises(
        InputError, match=r"holds imagesTr; give a folder that is new or empty, so that nothing is mixed"
    ):
        make_phantom_dataset(tmp_path, cases=1)
    assert [file.name for file in tmp_path.rglob("*")] == ["imagesTr", "phantom_000.nii.gz"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; give a folder"):
        make_phantom_dataset(tmp_path / "file", cases=1)
    make_phantom_dataset(tmp_path / "done", cases=1)
    before = [file.read_bytes() for file in sorted((tmp_path / "done").rglob("*")) if file.is_file()]
    with pytest.raises(InputError, match="holds a data set already"):
        make_phantom_dataset(tmp_path / "done", cases=2, seed=1)
    assert [file.read_bytes() for file in sorted((tmp_path / "done").rglob("*")) if file.is_file()] == before


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    save, number = nib.save, iter(range(9))

    def interrupted(*arguments):
        if next(number) == 3:
            raise KeyboardInterrupt
        save(*arguments)

    monkeypatch.setattr("mednextv2.data.phantom.nib.save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_phantom_dataset(tmp_path / "new", cases=3)
    assert not (tmp_path / "new").exists()


_KILLED = """
import os, signal, sys
import nibabel
from mednextv2.data.phantom import make_phantom_dataset

save, number = nibabel.save, iter(range(9))

def killed(*arguments):
    if next(number) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    save(*arguments)

nibabel.save = killed
make_phantom_dataset(sys.argv[1], cases=3)
"""


def test_a_killed_run_leaves_nothing_visible_and_the_next_one_has_the_folder_for_itself(tmp_path, phantom):
    done = run_python("-c", _KILLED, str(tmp_path / "new"))
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "new").iterdir() if not path.name.startswith(".part-")] == []
    make_phantom_dataset(tmp_path / "new", cases=2)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["dataset.json", "imagesTr", "labelsTr"]
    assert len(read_dataset(tmp_path / "new").cases) == 2


def test_a_folder_that_another_run_filled_meanwhile_is_left_alone(tmp_path, monkeypatch):
    save = nib.save

    def late(*arguments):
        (tmp_path / "imagesTr").mkdir(exist_ok=True)
        (tmp_path / "imagesTr" / "theirs").touch()
        save(*arguments)

    monkeypatch.setattr("mednextv2.data.phantom.nib.save", late)
    with pytest.raises(InputError, match="imagesTr: cannot be written"):
        make_phantom_dataset(tmp_path, cases=1)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["imagesTr", "imagesTr/theirs"]


def test_a_phantom_of_planes_shows_both_structures(tmp_path):
    flat, whole = make_phantom_dataset(tmp_path / "flat", 3, spatial_dims=2), make_phantom_dataset(tmp_path / "3d", 3)
    for case in range(3):
        for kind in ("imagesTr", "labelsTr"):
            plane, volume = (nib.load(f / kind / f"phantom_{case:03d}.nii.gz").get_fdata() for f in (flat, whole))
            assert plane.ndim == 2
            assert any(np.array_equal(plane, volume[..., z]) for z in range(volume.shape[2]))
        assert {*np.unique(plane)} == {0, 1, 2}
    with pytest.raises(InputError, match="should be 2 for planes or 3 for volumes"):
        make_phantom_dataset(tmp_path / "x", 3, spatial_dims=4)
