"""What DICOM objects take over from their source images: identity, texts that DICOM allows, and places."""

import numpy as np
import pydicom
import pytest
from dicom_helpers import numbers, write_series
from pydicom.uid import generate_uid

from mednextv2.data import choose_series
from mednextv2.errors import InputError
from mednextv2.images.dicom_references import check_references, reference_images


def series_with(folder, change=None, affine=None, **tags):
    write_series(folder, numbers(), affine, change=change, **tags)
    return choose_series(folder)[0]


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 100", "Buc^Jérôme"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 192", "Müller^Ä=肝臓"),
    ],
)
def test_names_of_every_character_set_become_utf_8(tmp_path, charset, name):
    first = reference_images(series_with(tmp_path, SpecificCharacterSet=charset, PatientName=name))[0]
    assert first.SpecificCharacterSet == "ISO_IR 192"
    assert str(first.PatientName) == name


ODD = {
    "PatientBirthDate": ["1970-01-02", "19701301", "00000000", "unknown"],
    "StudyTime": ["25:00", "10.11.12", "991011"],
    "StudyDate": ["2024/01/02", "2024010"],
    "PatientSex": ["weiblich", "X", "MM"],
    "PatientID": ["x" * 80, "a\nb"],
    "AccessionNumber": ["123456789012345678901234567890"],
    "StudyID": ["a study with a name that is long"],
    "PatientAge": ["42", "42 years", "4.5Y"],
    "PatientWeight": ["heavy", "-3.25"],
}


@pytest.mark.parametrize("representation", ["its own", "UT"])  # the second where a program wrote a wrong one
@pytest.mark.parametrize(("keyword", "value"), [(k, v) for k, values in ODD.items() for v in values])
def test_values_that_dicom_does_not_allow_are_empty_with_one_warning(tmp_path, caplog, keyword, value, representation):
    def change(ds, k):
        ds.pop(keyword, None)
        tag = pydicom.datadict.tag_for_keyword(keyword)
        vr = pydicom.datadict.dictionary_VR(tag) if representation == "its own" else representation
        raw = value.encode() + b" " * (len(value) % 2)
        ds[tag] = pydicom.dataelem.RawDataElement(pydicom.tag.Tag(tag), vr, len(raw), raw, 0, False, True)

    series = series_with(tmp_path, change)
    images = reference_images(series)
    assert not images[0].get(keyword)
    (message,) = [r.getMessage() for r in caplog.records if "is not what DICOM allows" in r.getMessage()]
    assert keyword in message
    assert value not in message  # a log has no data of the patient


def test_what_dicom_allows_is_taken_over(tmp_path, caplog):
    given = {"PatientID": "P 1", "PatientSex": "F", "PatientBirthDate": "19700102", "StudyTime": "101112.5",
             "PatientAge": "042Y", "StudyDescription": "Abdomen", "AccessionNumber": "A-1"}  # fmt: skip
    first = reference_images(series_with(tmp_path, **given))[0]
    assert {keyword: str(first.get(keyword)) for keyword in given} == given
    assert not caplog.records


@pytest.mark.parametrize("written", [None, "9", "-2", "0", "1.9"])
def test_the_distance_of_slices_is_that_of_their_positions(tmp_path, written):
    tags = {} if written is None else {"SpacingBetweenSlices": written}
    images = reference_images(series_with(tmp_path, affine=np.diag([0.7, 0.8, 2.5, 1.0]), **tags))
    assert {float(image.SpacingBetweenSlices) for image in images} == {2.5}
    heights = [float(image.ImagePositionPatient[2]) for image in images]
    np.testing.assert_allclose(np.diff(heights), 2.5)
    assert [float(v) for v in images[0].PixelSpacing] == [0.8, 0.7]


def test_numbers_have_the_length_that_dicom_allows(tmp_path):
    turn = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * [1 / 3, 2 / 3, 10 / 7], [-123.456789012, 1e-7, 1e5 / 3]
    for image in reference_images(series_with(tmp_path, affine=affine)):
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            assert all(len(str(value)) <= 16 for value in image[keyword].value)


def test_images_without_identity_cannot_be_referred_to(tmp_path):
    write_series(tmp_path, numbers())
    file = sorted(tmp_path.iterdir())[2]
    ds = pydicom.dcmread(file)
    del ds.SOPInstanceUID
    ds.file_meta.MediaStorageSOPInstanceUID = ""
    ds.save_as(file, enforce_file_format=False)
    (series,) = choose_series(tmp_path)
    with pytest.raises(InputError, match="IM0002 has no SOPInstanceUID"):
        check_references(series)
    with pytest.raises(InputError, match="IM0002 has no SOPInstanceUID"):
        reference_images(series)


def test_images_of_one_identity_cannot_be_told_apart(tmp_path):
    same = generate_uid()

    def change(ds, k):
        if k in (1, 4):
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = same

    series = series_with(tmp_path, change)
    with pytest.raises(InputError, match="IM0001, IM0004 have the same SOPInstanceUID"):
        check_references(series)


def test_identifiers_that_were_removed_are_made_once_for_all_objects(tmp_path, caplog):
    def bare(ds, k):
        del ds.StudyInstanceUID, ds.FrameOfReferenceUID

    series = series_with(tmp_path, bare)
    one, two = (reference_images(series)[0] for _ in range(2))
    assert "have no StudyInstanceUID, FrameOfReferenceUID" in caplog.text
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert one.StudyInstanceUID.is_valid
    assert one.FrameOfReferenceUID != one.StudyInstanceUID
