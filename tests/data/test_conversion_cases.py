"""One converted case: checked as a data set will be, written without loss, and known again."""

import gzip
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from source_builders import AFFINE, SHAPE, image, labels, save

from mednextv2.data.conversion_cases import (
    Converted,
    DatasetFacts,
    ExcludedError,
    Job,
    SourceCase,
    as_stored,
    convert_case,
    find_defect,
    fingerprint,
    save_nifti,
)
from mednextv2.data.conversion_records import RECORDS, UNFINISHED, forget_case, read_record, write_record
from mednextv2.errors import InputError

FACTS = DatasetFacts("organs", "Organs", ("CT", "PET"), {1: "liver", 2: "spleen"}, "", "")
LABEL = labels((1, 2))


def job(tmp_path, images, label=None, part="Tr", facts=FACTS):
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target, *(target / name for name in ("imagesTr", "labelsTr", "imagesTs", RECORDS))):
        folder.mkdir(exist_ok=True)
    (source / "a.txt").write_text("a")
    case = SourceCase("a", (source / "a.txt",), part)
    return Job(case, facts, lambda case, options: Converted(images, label), {}, source, target)


def volumes(*arrays, affine=AFFINE):
    return [(array, affine) for array in arrays]


def test_a_sound_case_is_written_with_the_grid_of_its_image(tmp_path):
    outcome = convert_case(job(tmp_path, volumes(image(0), image(1)), (LABEL, AFFINE + 1e-4)))
    assert (outcome.defect, outcome.written, outcome.labelled) == ("", True, True)
    made = [
        nib.load(tmp_path / f"target/{name}.nii.gz") for name in ("imagesTr/a_0000", "imagesTr/a_0001", "labelsTr/a")
    ]
    for loaded, expected in zip(made, (image(0), image(1), LABEL), strict=True):
        np.testing.assert_array_equal(loaded.dataobj, expected)
        np.testing.assert_array_equal(loaded.affine, made[0].affine)
        assert loaded.header["sform_code"] == loaded.header["qform_code"] == 1
        assert loaded.header.get_xyzt_units()[0] == "mm"
    assert made[2].get_data_dtype() == np.uint8


@pytest.mark.parametrize(
    ("images", "label", "words"),
    [
        (volumes(image()), LABEL, "has 1 images for 2 channels"),
        (volumes(image(), image() * np.nan), LABEL, "a.txt, PET: has 336 NaN"),
        (volumes(image(), image() * 0), LABEL, "a.txt, PET: is constant"),
        (volumes(image(), image(0, (8, 7, 5))), LABEL, "a.txt, PET: has shape 8×7×5, but a.txt, CT"),
        (
            volumes(image(), image()),
            labels((1, 3)),
            "a.txt, label map: has voxel values outside the declared labels: 3",
        ),
        (volumes(image(), image()), labels((1,), (7, 8, 6)), "a.txt, label map: has shape 7×8×6"),
        (volumes(image(), image()), LABEL / 2, "a.txt, label map: has voxel values outside"),
        (volumes(image(), image(), affine=np.diag([1, 1, 0, 1.0])), LABEL, "no position in space"),
    ],
)
def test_what_the_check_would_refuse_is_a_defect_and_nothing_is_written(images, label, words, tmp_path):
    outcome = convert_case(job(tmp_path, images, (label, images[0][1])))
    assert words in outcome.defect
    assert [file for file in (tmp_path / "target").rglob("*") if file.is_file()] == []


def test_whole_numbers_beyond_every_type_are_a_defect_of_the_case(tmp_path):
    outcome = convert_case(job(tmp_path, volumes(image(), image().astype(np.int64) * 2**40), (LABEL, AFFINE)))
    assert outcome.defect.startswith("a.txt, PET: has voxels from ")


def test_messages_name_the_file_from_which_an_image_or_a_label_map_was_read(tmp_path):
    made = job(tmp_path, volumes(image(), image() * 0), (LABEL, AFFINE))
    origins = [made.source / name for name in ("ct", "pet", "mask")]
    own = replace(made, convert=lambda case, options: Converted(*given, origins=origins))
    given = (volumes(image(), image() * 0), (LABEL, AFFINE))
    assert convert_case(own).defect.startswith("pet: is constant")
    given = (volumes(image(), image()), (LABEL + 9, AFFINE))
    assert convert_case(own).defect.startswith("mask: has voxel values")
    files = replace(made, case=replace(made.case, files=tuple(origins)))
    for origin in origins:
        origin.touch()
    assert convert_case(files).defect.startswith("pet: is constant")  # one file for each, in order


def test_a_folder_that_is_called_as_the_case_is_not_named_twice(tmp_path):
    def read(case, options):
        raise InputError(f"{tmp_path / 'source' / 'a'}: holds no slices")

    assert convert_case(replace(job(tmp_path, []), convert=read)).defect == "holds no slices"


def test_a_defect_is_found_without_writing(tmp_path):
    made = job(tmp_path, volumes(image(), image() * 0), (LABEL, AFFINE))
    assert find_defect(made).defect.startswith("a.txt, PET: is constant")

    def known(case, options):
        raise ExcludedError("is of a cat")

    assert find_defect(replace(made, convert=known)).known
    sound = job(tmp_path, volumes(image(), image(1)), (LABEL, AFFINE))
    assert find_defect(sound) is None
    assert [file for file in (tmp_path / "target").rglob("*") if file.is_file()] == []
    convert_case(sound)
    assert find_defect(replace(sound, convert=known)) is None  # it is there already, and is not read again


def test_a_case_whose_writing_was_killed_is_known_and_written_anew(tmp_path):
    made = job(tmp_path, volumes(image(0), image(1)), (LABEL, AFFINE))
    convert_case(made)
    record = read_record(made.target, "a")
    write_record(made.target, "a", record | {"files": dict.fromkeys(record["files"], UNFINISHED)})
    assert convert_case(made).written
    assert read_record(made.target, "a") == record


def test_a_compressed_nifti_file_is_taken_over_as_it_is(tmp_path):
    own = save(tmp_path / "source/ct.nii.gz", image().astype(np.float64))
    plain = save(tmp_path / "source/pet.nii", image(1))
    made = job(tmp_path, [own, plain], (LABEL, AFFINE))
    assert convert_case(made).defect == ""
    assert (tmp_path / "target/imagesTr/a_0000.nii.gz").read_bytes() == own.read_bytes()
    np.testing.assert_array_equal(nib.load(tmp_path / "target/imagesTr/a_0001.nii.gz").dataobj, image(1))


def test_a_damaged_file_is_named_by_its_path_in_the_source(tmp_path):
    own = save(tmp_path / "source/in/ct.nii.gz", image())
    own.write_bytes(own.read_bytes()[:-20])
    outcome = convert_case(job(tmp_path, [own, own], (LABEL, AFFINE)))
    assert outcome.defect.startswith("in/ct.nii.gz: cannot be read")


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.array([-1024.0, 3071.0]), np.int16),
        (np.array([0.0, 40000.0]), np.float32),
        (np.array([0.5, 1.0]), np.float32),
        (np.array([0, 255], np.int64), np.uint8),
        (np.array([-1, 255], np.int64), np.int16),
        (np.array([0, 65535], np.uint16), np.int32),
        (np.array([True, False]), np.uint8),
    ],
)
def test_voxels_are_stored_in_a_type_that_holds_them(array, kind):
    stored = as_stored(array, "f")
    assert stored.dtype == kind
    np.testing.assert_array_equal(stored, array)


def test_whole_numbers_beyond_every_type_are_refused():
    with pytest.raises(InputError, match="f: has voxels from 0 to 1099511627776, more than 32 bits"):
        as_stored(np.array([0, 2**40]), "f")


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_nifti(tmp_path / name / f"{name}.nii.gz", image(), AFFINE)
    first, second = ((tmp_path / name / f"{name}.nii.gz").read_bytes() for name in ("a", "b"))
    assert first == second
    assert first[4:8] == b"\0" * 4  # no time
    assert gzip.decompress(first)


def test_a_fingerprint_changes_with_name_size_and_both_ends(tmp_path):
    file = tmp_path / "a.bin"
    content = bytearray(np.random.default_rng(0).bytes(300_000))
    found = set()
    for change in (None, 0, 299_999, 65_000, 240_000):
        new = bytearray(content)
        if change is not None:
            new[change] ^= 1
        file.write_bytes(new)
        found.add(fingerprint(SourceCase("a", (file,)), tmp_path))
    file.write_bytes(content)
    found |= {fingerprint(SourceCase(name, (file,), extra=extra), tmp_path) for name, extra in (("b", None), ("a", 1))}
    file.write_bytes(content[:-1])
    found.add(fingerprint(SourceCase("a", (file,)), tmp_path))
    assert len(found) == 8
    with pytest.raises(InputError, match="cannot be read"):
        fingerprint(SourceCase("a", (tmp_path / "missing",)), tmp_path)


def test_a_case_that_is_there_is_skipped_until_a_file_of_it_changes(tmp_path):
    made = job(tmp_path, volumes(image(0), image(1)), (LABEL, AFFINE))
    first, second = convert_case(made), convert_case(made)
    assert (first.written, second.written) == (True, False)
    assert second.source == first.source
    record = read_record(tmp_path / "target", "a")
    assert len(record["files"]) == 3
    (tmp_path / "target/labelsTr/a.nii.gz").write_bytes(b"half")
    assert convert_case(made).written
    forget_case(tmp_path / "target", "a")
    assert read_record(tmp_path / "target", "a") is None
    assert not (tmp_path / "target/labelsTr/a.nii.gz").exists()
    forget_case(tmp_path / "target", "a")  # once more


def test_a_case_that_became_a_test_case_leaves_the_training_cases(tmp_path):
    convert_case(job(tmp_path, volumes(image(0), image(1)), (LABEL, AFFINE)))
    assert convert_case(job(tmp_path, volumes(image(0), image(1)), None, "Ts")).written
    assert not list((tmp_path / "target/imagesTr").iterdir())
    assert len(list((tmp_path / "target/imagesTs").iterdir())) == 2
    assert image().shape == SHAPE
