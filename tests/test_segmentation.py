"""A label map in its geometry: volumes, and what a DICOM object needs."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_helpers import numbers, write_series

from mednextv2.data import LabelScheme, choose_series, read_series
from mednextv2.errors import InputError
from mednextv2.images.dicom_references import Model
from mednextv2.segmentation import Segmentation

SCHEME = LabelScheme(["background", "liver", "spleen"])


@pytest.fixture
def labels():
    found = np.zeros((9, 7, 6), np.uint8)
    found[1:4, 2:5, 1:3], found[6, 6, 4] = 1, 2
    return found


def test_volumes_are_those_of_the_voxels(labels):
    affine = np.diag([2.0, 3.0, -5.0, 1.0])
    affine[0, 1] = 7.0  # a shear changes no volume
    found = Segmentation(labels, affine, SCHEME).volumes
    assert found == pytest.approx({"liver": 18 * 0.03, "spleen": 0.03})


def test_regions_have_the_volume_of_their_values(labels):
    regions = [{"name": "both", "values": [1, 2], "paint": 1}, {"name": "inner", "values": [2], "paint": 2}]
    scheme = LabelScheme(["background", "a", "b"], regions)
    assert Segmentation(labels, np.eye(4), scheme).volumes == pytest.approx({"both": 0.019, "inner": 0.001})


def test_a_tilted_series_keeps_its_slices_in_nifti(tmp_path, labels):
    affine = np.array([[0.8, 0, 0, 5], [0, 0.9, 0.7, -3], [0, 0, 2.0, 8], [0, 0, 0, 1.0]])
    nifti = nib.load(Segmentation(labels, affine, SCHEME).save(tmp_path / "a.nii.gz"))
    np.testing.assert_allclose(nifti.affine, affine, atol=1e-5)
    assert np.array_equal(np.asarray(nifti.dataobj), labels)


def test_dicom_objects_name_their_model_and_refer_to_the_first_channel(tmp_path, labels):
    for number in (3, 4):
        write_series(tmp_path / str(number), numbers(), SeriesNumber=number)
    channels = [choose_series(tmp_path / name)[0] for name in ("3", "4")]
    model = Model("mednextv2_liver", "1.2.3", ("ab" * 32, "cd" * 32))
    made = Segmentation(labels, read_series(channels[0])[1], SCHEME, channels, model=model)
    seg = pydicom.dcmread(made.save_dicom_seg(tmp_path / "seg.dcm"))
    (algorithm,) = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("mednextv2_liver", "1.2.3")
    assert "ab" * 32 in algorithm.AlgorithmParameters
    assert "cd" * 32 in algorithm.AlgorithmParameters
    assert "mednextv2_liver 1.2.3" in seg.SeriesDescription
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == channels[0].uid
    colours = {tuple(s.RecommendedDisplayCIELabValue) for s in seg.SegmentSequence}
    assert len(colours) == 2
    outlines = pydicom.dcmread(made.save_rtstruct(tmp_path / "rt.dcm"))
    assert outlines.ManufacturerModelName == "mednextv2_liver"


@pytest.mark.parametrize(("source", "word"), [(None, "in memory"), ("a.nii.gz", r"a\.nii\.gz"), (["a", "b"], "a")])
def test_what_is_no_dicom_cannot_be_referred_to(tmp_path, labels, source, word):
    made = Segmentation(labels, np.eye(4), SCHEME, source)
    for save, what in ((made.save_dicom_seg, "DICOM SEG"), (made.save_rtstruct, "RTSTRUCT")):
        with pytest.raises(InputError, match=f"{what} refers to a DICOM series; the image is {word}"):
            save(tmp_path / "x.dcm")
    assert not (tmp_path / "x.dcm").exists()
