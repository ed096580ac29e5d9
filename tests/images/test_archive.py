"""DICOM objects in a real archive: stored in and fetched from Orthanc, over its REST interface and DICOMweb."""

import io
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_helpers import numbers, write_series
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage

from mednextv2.data import LabelScheme, choose_series, read_series
from mednextv2.images.dicom_references import Model
from mednextv2.segmentation import Segmentation

ORTHANC = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
NAMES = ["background", "liver", "Läsion 肝臓", "kidney_left"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ORTHANC is None, reason="Orthanc is not installed (apt install orthanc orthanc-dicomweb)"),
]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Archive:
    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path, data=None, **headers):
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def store(self, file):
        return json.loads(self.ask("/instances", file.read_bytes()))["ID"]

    def fetch(self, identifier):
        return pydicom.dcmread(io.BytesIO(self.ask(f"/instances/{identifier}/file")))

    def search(self, **keys):
        query = "&".join(f"{key}={value}" for key, value in keys.items())
        found = json.loads(self.ask(f"/dicom-web/instances?{query}&includefield=all", Accept="application/dicom+json"))
        return [Dataset.from_json(entry) for entry in found]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orthanc")
    port, dicom = free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpPort": port, "DicomPort": dicom,
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [PLUGIN], "SslEnabled": False,
        "DefaultEncoding": "Utf8",
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with subprocess.Popen(
        [ORTHANC, str(folder / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        found = Archive(port)
        for _ in range(100):
            try:
                found.ask("/system")
                break
            except urllib.error.URLError:
                time.sleep(0.2)
        else:
            pytest.fail("Orthanc did not answer within 20 seconds")
        yield found
        server.terminate()


def label_map(shape=(9, 7, 6)):
    labels = np.zeros(shape, np.uint8)
    labels[1:4, 2:5, 1:4], labels[6:8, 5:7, 2:], labels[0, 0, 0] = 1, 2, 3
    return labels


def without_preamble(folder):
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[132:])


def as_one_file(folder):
    """Turn a series into one enhanced file, frames in another order than they lie."""
    slices = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda ds: ds.ImagePositionPatient[2])
    for file in list(folder.iterdir()):
        file.unlink()
    order = [3, 0, 5, 1, 4, 2]
    whole = slices[0]

    def item(**values):
        made = Dataset()
        for keyword, value in values.items():
            setattr(made, keyword, value)
        return Sequence([made])

    measures = item(PixelSpacing=whole.PixelSpacing, SliceThickness=2)
    whole.SharedFunctionalGroupsSequence = item(
        PixelMeasuresSequence=measures,
        PlaneOrientationSequence=item(ImageOrientationPatient=whole.ImageOrientationPatient),
    )
    whole.PerFrameFunctionalGroupsSequence = Sequence(
        item(PlanePositionSequence=item(ImagePositionPatient=slices[k].ImagePositionPatient))[0] for k in order
    )
    whole.PixelData = b"".join(slices[k].PixelData for k in order)
    whole.NumberOfFrames = len(order)
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    del whole.ImagePositionPatient, whole.ImageOrientationPatient, whole.PixelSpacing
    whole.save_as(folder / "whole.dcm")


def odd_fields(ds, k):
    with pydicom.config.disable_value_validation():
        ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber = "1970-01-02", "weiblich", "1" * 40


def count_voxels(seg, number):
    if seg.SegmentationType == "LABELMAP":
        return int((seg.pixel_array == number).sum())
    frames = (group.SegmentIdentificationSequence[0] for group in seg.PerFrameFunctionalGroupsSequence)
    return int(seg.pixel_array[[frame.ReferencedSegmentNumber == number for frame in frames]].sum())


TILTED = np.array([[0.8, 0, 0, 5], [0, 0.9, 0.5, -3], [0, 0, 2.0, 8], [0, 0, 0, 1.0]])
KINDS = {
    "MONOCHROME1": {"change": lambda ds, k: setattr(ds, "PhotometricInterpretation", "MONOCHROME1")},
    "Japanese": {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
    "negative distance": {"SpacingBetweenSlices": "-2"},
    "odd fields": {"change": odd_fields},
    "rounded": {"change": lambda ds, k: setattr(ds, "ImagePositionPatient", [0, 0, f"{2.04 * k:.1f}"])},
    "tilted": {"affine": TILTED},
    "no preamble": {"after": without_preamble},
    "enhanced": {"after": as_one_file},
}


@pytest.mark.parametrize("storage", ["binary", "deflated", "labelmap"])
@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_stored_and_fetched_whole(tmp_path, archive, kind, storage):
    settings = dict(KINDS[kind])
    after = settings.pop("after", lambda folder: None)
    uids = {"StudyInstanceUID": pydicom.uid.generate_uid(), "FrameOfReferenceUID": pydicom.uid.generate_uid()}
    write_series(tmp_path / "in", numbers(), **{**settings, **uids})
    after(tmp_path / "in")
    (series,) = choose_series(tmp_path / "in")
    labels = label_map()
    made = Segmentation(
        labels, read_series(series)[1], LabelScheme(NAMES), series, model=Model("mednextv2_liver", "1.0")
    )
    seg = made.save_dicom_seg(tmp_path / "seg.dcm", storage)
    fetched = archive.fetch(archive.store(seg))
    own = pydicom.dcmread(seg)
    assert fetched.to_json_dict() == own.to_json_dict()
    fetched.save_as(tmp_path / "fetched.dcm")
    found = hd.seg.segread(tmp_path / "fetched.dcm")
    for number, name in enumerate(NAMES[1:], start=1):
        assert found.get_segment_description(number).segment_label == name
        assert count_voxels(fetched, number) == int((labels == number).sum())
    (entry,) = archive.search(SOPInstanceUID=own.SOPInstanceUID)
    assert (entry.Modality, entry.StudyInstanceUID) == ("SEG", uids["StudyInstanceUID"])
    if kind != "enhanced" and storage == "binary":
        outlines = made.save_rtstruct(tmp_path / "rt.dcm")
        (entry,) = archive.search(SOPInstanceUID=archive.fetch(archive.store(outlines)).SOPInstanceUID)
        assert (entry.Modality, str(entry.PatientName)) == ("RTSTRUCT", str(own.PatientName))
