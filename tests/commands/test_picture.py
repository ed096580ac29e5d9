"""The verb `picture`."""

import nibabel as nib
import numpy as np
from verb_helpers import call


def test_picture_names_the_file(tmp_path, monkeypatch, capsys):
    nib.save(nib.Nifti1Image(np.arange(512, dtype=np.float32).reshape(8, 8, 8), np.eye(4)), tmp_path / "a.nii.gz")
    code, out, _ = call(monkeypatch, capsys, "picture", tmp_path / "a.nii.gz", tmp_path / "a.png")
    assert (code, out.strip()) == (0, str(tmp_path / "a.png"))
