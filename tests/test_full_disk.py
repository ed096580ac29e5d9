"""Each writer on a full disk: one message, the file of before, and nothing half-written."""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_helpers import numbers, write_series
from report_helpers import make_prediction

from mednextv2.bundle import write_bundle
from mednextv2.data import CaseStore, LabelScheme, choose_series, make_phantom_dataset
from mednextv2.errors import InputError, find_input_error
from mednextv2.images.dicom_seg import write_dicom_seg
from mednextv2.images.writer import MaskWriter
from mednextv2.inference.postprocessing import Postprocessing
from mednextv2.locks import hold_folder, release_folder
from mednextv2.paths import writing
from mednextv2.picture import save_picture
from mednextv2.report import write_report
from mednextv2.scores.csv_tables import write_csv
from mednextv2.weights.files import save_file

BUNDLE = Path(__file__).parents[1] / "bundles" / "mednextv2_hippocampus"
LABELS = ["background", "left", "right"]
SCHEME = LabelScheme(LABELS)


@contextlib.contextmanager
def room_for(size):
    """Let no file of this process grow larger, which fails as a write to a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def noise(shape=(21, 19, 17)):
    return np.random.default_rng(4).integers(0, 3, shape).astype(np.uint8)


def write_mask(path):
    writer = MaskWriter()
    writer.set_data_array(noise()[None])
    writer.set_metadata({"affine": np.diag([1.0, 2.0, 3.0, 1.0])})
    writer.write(path)


def seg(path, inputs):
    write_series(inputs, numbers((40, 30, 6)))
    (series,) = choose_series(inputs)
    return lambda: write_dicom_seg(path, noise((40, 30, 6)), SCHEME, series)


def picture(path, inputs):
    inputs.mkdir()
    nib.save(nib.Nifti1Image(noise().astype(np.float32), np.eye(4)), inputs / "i.nii")
    return lambda: save_picture(inputs / "i.nii", path)


def page(path, inputs):
    folder = make_prediction(inputs, 1)
    return lambda: write_report(folder, path)


def table(path, inputs):
    return lambda: write_csv(path, [{"case": f"case {i}", "dice": i / 7} for i in range(99)])


def decision(path, inputs):
    return lambda: Postprocessing([[1]], [{"name": "x" * 999}], 3).save(path)


WRITERS = {
    "scan_seg.nii": lambda path, _: lambda: write_mask(path),
    "scan_seg.nii.gz": lambda path, _: lambda: write_mask(path),
    "scan_seg.nrrd": lambda path, _: lambda: write_mask(path),
    "scan_seg.mha": lambda path, _: lambda: write_mask(path),
    "scan_seg.dcm": seg,
    "scan.png": picture,
    "page.html": page,
    "scores.csv": table,
    "postprocessing.json": decision,
    "weights.pt": lambda path, _: lambda: save_file({"w": torch.rand(40, 40)}, path, {"fold": 3}),
    "told.pt": lambda path, _: lambda: save_file({"w": torch.rand(40)}, path, {"about": "x" * 9000}),
    "weights.safetensors": lambda path, _: lambda: save_file({"w": torch.rand(40, 40)}, path, {"fold": 3}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_file_of_before_stays_and_the_message_names_it(tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.write_bytes(b"of before")
    write = WRITERS[name](path, tmp_path / "in")
    with room_for(700), pytest.raises(InputError) as error:
        write()
    assert str(error.value).startswith(f"{path}: cannot be written (")
    assert "make room" in str(error.value)
    assert [file.name for file in path.parent.iterdir()] == [name]
    assert path.read_bytes() == b"of before"
    write()  # there is room again
    assert path.stat().st_size > 700


def test_prepared_cases_leave_nothing_half_written(tmp_path):
    image, label = tmp_path / "i.nii", tmp_path / "l.nii"
    nib.save(nib.Nifti1Image(noise().astype(np.float32), np.eye(4)), image)
    nib.save(nib.Nifti1Image(noise(), np.eye(4)), label)
    load = lambda item: {k: torch.from_numpy(nib.load(item[k]).get_fdata())[None] for k in ("image", "label")}  # noqa: E731
    item = {"case": "one", "image": str(image), "label": str(label)}
    store = CaseStore(load, SCHEME, tmp_path / "store", {})
    with room_for(5000), pytest.raises(InputError, match=r"-one\.image\.npy: cannot be written .*; make room"):
        store.prepare([item])
    assert not any(file.is_file() for file in (tmp_path / "store").rglob("*"))
    assert store.prepare([item])[0].image.shape == (1, 21, 19, 17)


@pytest.mark.parametrize("size", [100, 40_000])
def test_a_phantom_data_set_is_whole_or_not_there(tmp_path, size):
    with room_for(size), pytest.raises(InputError, match=r"phantom_00\d\.nii\.gz: cannot be written .*; make room"):
        make_phantom_dataset(tmp_path / "new" / "data", cases=3)
    assert not any(tmp_path.iterdir())


def test_a_phantom_data_set_leaves_the_files_of_others(tmp_path):
    (tmp_path / ".mine").write_text("mine")
    with room_for(100), pytest.raises(InputError, match="cannot be written"):
        make_phantom_dataset(tmp_path, cases=1)
    assert [*tmp_path.rglob("*")] == [tmp_path / ".mine"]


def test_a_bundle_is_built_as_a_whole_or_stays_as_it_was(tmp_path):
    root = tmp_path / "mednextv2_full"
    root.mkdir()
    shutil.copy(BUNDLE / "task.yaml", root)
    with room_for(6000), pytest.raises(InputError, match=r"configs/\w+\.yaml: cannot be written .*; make room"):
        write_bundle(root / "task.yaml")
    assert [file.name for file in root.rglob("*")] == ["task.yaml"]
    built = write_bundle(root / "task.yaml")
    kept = {name: (root / name).write_text("of before") for name in built}
    with room_for(6000), pytest.raises(InputError, match="cannot be written"):
        write_bundle(root / "task.yaml")
    assert {name: (root / name).read_text() for name in kept} == dict.fromkeys(kept, "of before")
    assert len(list(root.rglob(".*"))) == 0


def test_a_folder_is_locked_although_its_holder_cannot_be_written(tmp_path):
    with room_for(3):
        hold_folder(tmp_path, "output_dir")
    other = "import sys; from mednextv2.locks import hold_folder; hold_folder(sys.argv[1], 'output_dir')"
    done = subprocess.run([sys.executable, "-c", other, tmp_path], capture_output=True, text=True)
    release_folder(tmp_path)
    assert f"output_dir {tmp_path}: another process writes there" in done.stderr
    assert not any(tmp_path.iterdir())


def test_what_a_library_writes_becomes_one_message_too(tmp_path):
    def log():
        try:
            with (tmp_path / "events").open("wb", buffering=0) as file:
                file.write(bytes(9))
                file.write(bytes(9))
        except OSError as e:
            raise RuntimeError("applying handler") from e

    with room_for(9), pytest.raises(RuntimeError) as error:
        log()
    message = str(find_input_error(error.value))
    assert "cannot be written (File too large); make room on the disk" in message
    assert find_input_error(OSError(2, "No such file", "x")) is None


def test_a_reason_that_the_library_does_not_give_is_found(tmp_path, monkeypatch):
    def fail():
        with writing(tmp_path / "x.nrrd"):
            raise RuntimeError("ITK ERROR: Write:\n Error writing")

    with pytest.raises(InputError, match=r"x\.nrrd: cannot be written \(ITK ERROR: Write: Error writing\)"):
        fail()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: os.terminal_size((0, 0)) and type("", (), {"free": 512}))
    with pytest.raises(InputError, match=r"x\.nrrd: cannot be written \(No space left on device\)"):
        fail()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="is Linux's")
@pytest.mark.parametrize("words", [["--help"], ["phantom", "data", "--cases", "1"]])
def test_output_to_a_full_disk_ends_with_one_message(tmp_path, words):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mednextv2", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        assert words != ["--help"] or subprocess.run(command, stdout=full, stderr=full).returncode == 1
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: a file, or the output of the program: cannot be written (No space")


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path):
    command = f'"{sys.executable}" -m mednextv2 --help | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
