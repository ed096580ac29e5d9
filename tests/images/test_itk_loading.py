"""When ITK is loaded, and that reading moves the working directory no more then."""

from pathlib import Path

import itk
import numpy as np
import pytest
from dicom_helpers import numbers, write_series
from forked_processes import run_code

from mednextv2.images import itk_loading


@pytest.mark.parametrize(
    ("files", "loaded"),
    [
        (["a.nii.gz", "B.NII", Path("c.nii")], False),
        ([], False),
        (["a.nii.gz", Path("b.mha")], True),
        (["folder"], True),
        (["a.nii.gz.nrrd"], True),
    ],
)
def test_itk_is_loaded_for_what_it_reads_alone(monkeypatch, files, loaded):
    calls = []
    monkeypatch.setattr(itk_loading, "load_itk", lambda: calls.append(1))
    itk_loading.load_itk_for(files)
    assert bool(calls) == loaded


def test_nothing_is_left_to_be_loaded_when_files_are_read(tmp_path):
    """ITK changes the working directory while it loads a module, and only then."""
    for name in ("a.nrrd", "b.mha"):
        itk.imwrite(itk.image_from_array(np.ones((4, 3, 2), np.float32)), tmp_path / name)
    write_series(tmp_path / "dicom", numbers())
    code = (
        "import os; moves = []; move = os.chdir\n"
        "os.chdir = lambda path: (moves.append(path), move(path))\n"
        "from mednextv2.data import read_volume; from mednextv2.images.itk_loading import load_itk\n"
        "here = os.getcwd(); first = load_itk(); loading = len(moves)\n"
        "for name in ('a.nrrd', 'b.mha', 'dicom'): read_volume(name)\n"
        "print(loading > 0, len(moves) - loading, os.getcwd() == here, load_itk() is first)"
    )
    done = run_code(code, cwd=tmp_path)
    assert done.stdout.split() == ["True", "0", "True", "True"], done.stderr[-1000:]


def test_itk_does_not_move_the_working_directory_under_other_threads(tmp_path):
    write_series(tmp_path / "dicom", numbers((40, 40, 60)))
    array = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    for name in ("a.nrrd", "b.mha", "c.mha", "d.nrrd"):
        itk.imwrite(itk.image_from_array(array), tmp_path / name)
    code = (
        "from concurrent.futures import ThreadPoolExecutor; from mednextv2.data import read_volume\n"
        "from mednextv2.images.itk_loading import load_itk_for\n"
        "files = ['dicom', 'a.nrrd', 'b.mha', 'c.mha', 'd.nrrd'] * 3\n"
        "load_itk_for(files)\n"
        "with ThreadPoolExecutor(4) as pool: print(len(list(pool.map(read_volume, files))))"
    )
    done = run_code(code, cwd=tmp_path)
    assert done.stdout.strip() == "15", done.stderr[-1000:]
