"""`mednextv2 export`, and the file as the weights of `predict`."""

import numpy as np
import pytest
from export_helpers import BUNDLE, PATCH, make_weights
from predict_helpers import noise, save
from verb_helpers import call_verb, refusal

from mednextv2.bundle.export_formats import FORMATS


@pytest.mark.parametrize("format", ["ts", "pt2", "onnx"])
def test_the_verb_exports_what_predict_takes(format, tmp_path):
    network, weights = make_weights(tmp_path)
    given = ("--network", network, "--patch_size", PATCH)
    file = tmp_path / f"model{FORMATS[format].ending}"
    code, out, err = call_verb("export", BUNDLE, "--format", format, "--output", file, "--weights", weights, *given)
    assert code == 0, err[-2000:]
    assert out.splitlines()[-1] == f"written: {file}"
    image = save(tmp_path / "in" / "case.nii.gz", noise(36, 50, 20))
    code, out, err = call_verb(
        "predict",
        BUNDLE,
        image,
        tmp_path / "masks",
        *given,
        "--weights",
        file,
        "--test_mirror_axes",
        "[]",
        "--device",
        "cpu",
    )
    assert code == 0, err[-2000:]
    assert f"weights: {file} (trained on 1 case" in out
    assert (tmp_path / "masks" / "case_seg.nii.gz").is_file()


def test_a_damaged_file_is_one_message(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"PK")
    image = save(tmp_path / "case.nii.gz", noise(20, 20, 20))
    message = refusal("predict", BUNDLE, image, tmp_path / "masks", "--weights", file)
    assert message.startswith(f"error: {file}: not a file of ONNX, or a damaged one")
    assert len(message.splitlines()) == 1
    assert np.all([path.name != "masks" for path in tmp_path.iterdir()])
