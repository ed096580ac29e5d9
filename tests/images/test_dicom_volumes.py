"""Copies in a DICOM series are used once, and its volumes are told apart."""

import shutil

import numpy as np
import pytest
from dicom_helpers import change_files, item, numbers, refused, write_enhanced, write_series

from mednextv2.data import choose_series, find_series, read_series, read_volume
from mednextv2.errors import InputError
from mednextv2.images.dicom_file import read_slices
from mednextv2.images.dicom_volumes import split_volumes, without_copies

UID = "1.2.9"


def write_volumes(folder, tags):
    """Write a volume of numbers for each of `tags`, as one series, the files of all in one folder."""
    return [
        write_series(folder, numbers(seed=n), SeriesInstanceUID=UID, order=range(10 * n, 10 * n + 6), **given)
        for n, given in enumerate(tags)
    ]


# --- volumes ---------------------------------------------------------------------------------------------------------

MAGNITUDE, PHASE = ({"ImageType": ["ORIGINAL", "PRIMARY", kind]} for kind in "MP")
VOLUMES = {
    "magnitude and phase": [MAGNITUDE, PHASE],
    "echoes": [{"EchoTime": 4.5}, {"EchoTime": 9.25}, {"EchoTime": 14}],  # 9.25 comes before 14
    "echoes of both": [{**kind, "EchoTime": time} for kind in (MAGNITUDE, PHASE) for time in (2.3, 4.6)],
    "inversions": [{"InversionTime": 300}, {"InversionTime": 2500}],
    "time points": [{"TemporalPositionIdentifier": n} for n in range(1, 12)],
    "acquisitions": [{"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}],
    "b-values": [{"DiffusionBValue": 0.0}, {"DiffusionBValue": 50.0}, {"DiffusionBValue": 1000.0}],
    "directions": [
        {"DiffusionBValue": 0.0},
        {"DiffusionBValue": 700.0, "DiffusionGradientOrientation": [0.0, 0.6, 0.8]},
        {"DiffusionBValue": 700.0, "DiffusionGradientOrientation": [1.0, 0.0, 0.0]},
    ],
    "heart phases": [{"TriggerTime": 0}, {"TriggerTime": 33.5}],
    "times": [{"AcquisitionTime": "101010.5"}, {"AcquisitionTime": "101021"}],
}


@pytest.mark.parametrize("tags", VOLUMES.values(), ids=VOLUMES)
def test_volumes_of_a_series_are_chosen_by_number(tmp_path, tags):
    write_volumes(tmp_path, tags)
    for n in range(len(tags)):
        (chosen,) = choose_series(tmp_path, f"3:{n + 1}")
        assert np.array_equal(read_series(chosen)[0], numbers(seed=n) - 1024.0)
        assert choose_series(tmp_path, f"{UID}:{n + 1}") == [chosen]
        assert chosen.copies == 0
    assert len(choose_series(tmp_path, "all")) == len(tags)
    for word in (None, 3, UID):
        assert f'3:{len(tags)} "Abdomen 2.0" (' in refused(tmp_path, word)
    assert "fits none" in refused(tmp_path, f"3:{len(tags) + 1}")


def test_a_volume_of_echoes_is_named_and_numbers_are_the_same_however_they_are_written(tmp_path):
    _, second = write_volumes(tmp_path, [{"EchoTime": 4.6}, {"EchoTime": 9.2}])
    change_files(second[::2], lambda ds, k: setattr(ds, "EchoTime", "9.200"))
    assert [s.part for s in find_series(tmp_path)] == ["EchoTime 4.6", "EchoTime 9.2"]


def test_what_tells_no_images_at_one_place_apart_splits_no_volume(tmp_path):
    files = write_volumes(tmp_path, [{"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}])
    for volume in files:  # the upper halves of both have another type
        change_files(volume[3:], lambda ds, k: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "OTHER"]))
    assert [(s.part, len(s.slices)) for s in find_series(tmp_path)] == [
        ("AcquisitionNumber 1", 6),
        ("AcquisitionNumber 2", 6),
    ]


def test_values_of_their_own_for_each_image_tell_no_volumes_apart(tmp_path):
    for volume in write_volumes(tmp_path, [{}, {}]):
        change_files(volume, lambda ds, k: setattr(ds, "TriggerTime", ds.InstanceNumber * 7 + len(ds.PixelData) + k))
    assert len(find_series(tmp_path)) == 1
    refused(tmp_path)


def test_a_volume_that_lacks_slices_is_refused_and_the_others_are_not(tmp_path):
    _, second = write_volumes(tmp_path, [{"EchoTime": 5}, {"EchoTime": 9}])
    second[2].unlink()
    assert "lacks slices" in refused(tmp_path, "3:2")
    assert np.array_equal(read_series(choose_series(tmp_path, "3:1")[0])[0], numbers() - 1024.0)


def test_positions_that_differ_in_the_last_digits_are_one_place(tmp_path):
    _, second = write_volumes(tmp_path, [{"EchoTime": 5}, {"EchoTime": 9}])

    def nudge(ds, k):
        ds.ImagePositionPatient = [float(v) + 0.0006 * (-1) ** k for v in ds.ImagePositionPatient]
        ds.ImageOrientationPatient = [-1, 0.000001 * k, 0, -0.000001 * k, -1, 0]

    change_files(second, nudge)
    assert [s.part for s in choose_series(tmp_path, "all")] == ["EchoTime 5", "EchoTime 9"]


def test_stacks_of_an_enhanced_file_are_volumes(tmp_path):
    def groups(k):  # frames of an axial and of a sagittal stack, one after the other, nowhere at the same place
        return {
            "FrameContentSequence": item(StackID=str(k % 2 + 1), InStackPositionNumber=k // 2 + 1),
            "PlaneOrientationSequence": item(
                ImageOrientationPatient=[0, 1, 0, 0, 0, 1] if k % 2 else [1, 0, 0, 0, 1, 0]
            ),
        }

    voxels = [numbers(seed=n) for n in range(2)]
    places = [(3.0 * (k // 2) + 40, 1, 2) if k % 2 else (0, 0, 2.0 * (k // 2)) for k in range(12)]
    write_enhanced(tmp_path / "e.dcm", [voxels[k % 2][..., k // 2].T for k in range(12)], places, groups)
    for n, step in enumerate((2.0, 3.0)):
        array, affine = read_series(choose_series(tmp_path, f"3:{n + 1}")[0])
        assert np.array_equal(array, voxels[n] - 1024.0)
        assert np.linalg.norm(affine[:3, 2]) == pytest.approx(step)


@pytest.mark.parametrize(
    ("sequence", "tag", "values"),
    [
        ("MREchoSequence", "EffectiveEchoTime", (4.5, 9.0)),
        ("MRDiffusionSequence", "DiffusionBValue", (0.0, 800.0)),
        ("FrameContentSequence", "TemporalPositionIndex", (1, 2)),
        ("MRImageFrameTypeSequence", "FrameType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])),
    ],
)
def test_volumes_of_an_enhanced_file(tmp_path, sequence, tag, values):
    order = np.random.default_rng(3).permutation(12)
    voxels = [numbers(seed=n) for n in range(2)]
    write_enhanced(
        tmp_path / "e.dcm",
        [voxels[k % 2][..., k // 2].T for k in order],
        [(0, 0, 2.0 * (k // 2)) for k in order],
        lambda k: {sequence: item(**{tag: values[order[k] % 2]})},
    )
    for n in range(2):
        assert np.array_equal(read_series(choose_series(tmp_path, f"3:{n + 1}")[0])[0], voxels[n] - 1024.0)


# --- copies ----------------------------------------------------------------------------------------------------------


def counted(folder, copies):
    (series,) = choose_series(folder)
    assert np.array_equal(read_series(series)[0], numbers() - 1024.0)
    assert series.copies == copies
    assert any(f"{copies} of its images are copies" in note for note in series.notes())


def test_copied_files_are_left_out_and_counted(tmp_path):
    files = write_series(tmp_path / "a", numbers())
    (tmp_path / "b").mkdir()
    for file in files[1:4]:
        shutil.copy(file, tmp_path / "b" / f"copy of {file.name}")
    counted(tmp_path, 3)


def test_images_that_were_exported_again_are_copies(tmp_path):
    for folder in "ab":  # other UIDs, files and descriptions, but the same pixels
        write_series(tmp_path / folder, numbers(), SeriesInstanceUID=UID, PatientID=folder)
    counted(tmp_path, 6)


def test_copies_whose_positions_were_rounded_are_copies(tmp_path):
    write_series(tmp_path / "a", numbers(), SeriesInstanceUID=UID)
    again = write_series(tmp_path / "b", numbers(), SeriesInstanceUID=UID)
    change_files(again, lambda ds, k: setattr(ds, "ImagePositionPatient", [0.0005, -0.0004, 2.0 * k + 0.0005]))
    counted(tmp_path, 6)


def test_a_copy_with_another_compression_is_known_by_its_uid(tmp_path):
    files = write_series(tmp_path / "a", numbers())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    change_files(
        [tmp_path / "b" / file.name for file in files],
        lambda ds, k: ds.compress("1.2.840.10008.1.2.5", generate_instance_uid=False),
    )
    counted(tmp_path, 6)


def test_copies_are_counted_for_each_volume(tmp_path):
    first, second = write_volumes(tmp_path, [{"EchoTime": 5}, {"EchoTime": 9}])
    for file in [*first[:2], *second]:
        shutil.copy(file, f"{file}_copy")
    assert [s.copies for s in choose_series(tmp_path, "all")] == [2, 6]


def test_different_images_at_one_place_are_no_copies(tmp_path):
    first, second = write_volumes(tmp_path, [{}, {}])
    assert "several images at one position" in refused(tmp_path)
    found = [s for file in (first[0], second[0]) for s in read_slices(str(file))]
    assert without_copies(found) == found
    assert split_volumes(found) == [("", found)]


def test_equal_images_of_two_echoes_are_no_copies(tmp_path):
    """Far from the patient all pixels are 0; and a UID that was removed says nothing."""
    for time in (5, 9):
        write_series(tmp_path / str(time), np.zeros((9, 7, 6), np.int16), SeriesInstanceUID=UID, EchoTime=time,
                     change=lambda ds, k: setattr(ds, "SOPInstanceUID", UID))  # fmt: skip
    assert [len(s.slices) for s in choose_series(tmp_path, "all")] == [6, 6]


def test_links_to_files_and_folders_are_no_further_images(tmp_path):
    files = write_series(tmp_path / "a", numbers())
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "gone.dcm").symlink_to(tmp_path / "nowhere")
    assert np.array_equal(read_volume(tmp_path)[0], numbers() - 1024.0)
    for file in files:
        (tmp_path / file.name).symlink_to(file)
    counted(tmp_path, 6)


def test_a_file_that_is_gone_before_it_is_compared(tmp_path):
    files = [file for tags in write_volumes(tmp_path, [{}, {}]) for file in tags]
    found = [s for file in files for s in read_slices(str(file))]
    files[7].unlink()
    with pytest.raises(InputError, match=f"{files[7].name}: cannot be read any more"):
        without_copies(found)
