"""A chosen post-processing: its file, and the transform that applies it."""

import itertools
import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped, Flipd
from postprocessing_helpers import (
    AB,
    strip,
    text,
)

from mednextv2.errors import InputError
from mednextv2.inference.postprocessing import ApplyPostprocessingd, Postprocessing
from mednextv2.inference.postprocessing_choice import choose_postprocessing
from mednextv2.label_scheme import LabelScheme

# --- the file ---------------------------------------------------------------------------------------------------------


def strictly(content):
    """Parse JSON without Python's NaN."""
    return json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_saved_decision_is_json_for_people_and_gives_its_steps_back(files, tmp_path):
    decision = choose_postprocessing(files(("11.1", "11..")), AB)
    path = tmp_path / "postprocessing.json"
    decision.save(path)
    assert Postprocessing.load(path) == decision.steps == [[1, 2]]
    content = strictly(path.read_text(encoding="utf-8"))
    assert content == {"steps": decision.steps, "decided_on": {"cases": 1}, "candidates": decision.table}
    lines = path.read_text(encoding="utf-8").splitlines()
    assert '  "steps": [[1, 2]],' in lines
    assert sum('"name"' in line for line in lines) == 3


def test_names_in_any_script_survive(files, tmp_path):
    scheme = LabelScheme(["background", 'Leber "links"', "肝"])
    choose_postprocessing(files(("12", "12")), scheme).save(tmp_path / "d.json")
    content = (tmp_path / "d.json").read_text(encoding="utf-8")
    assert "肝" in content
    content = strictly(content)
    assert [c["name"] for c in content["candidates"]] == ["foreground", 'Leber "links"', "肝"]


def test_decision_without_steps_can_be_saved_and_loaded(tmp_path):
    Postprocessing([], [], 0).save(tmp_path / "d.json")
    assert Postprocessing.load(tmp_path / "d.json") == []
    assert strictly((tmp_path / "d.json").read_text())["candidates"] == []


def test_decision_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(InputError, match=r"missing.d\.json: cannot be written"):
        Postprocessing([], [], 0).save(tmp_path / "missing" / "d.json")


def test_steps_written_by_hand_are_enough(tmp_path):
    (tmp_path / "d.json").write_text('{"steps": [[2], [1, 3]]}')
    assert Postprocessing.load(tmp_path / "d.json") == [[2], [1, 3]]


DAMAGED = [
    b"",
    b'{"steps": [[1, 2]',
    b"\xff\xfe\x00",
    b"[[1, 2]]",
    b"{}",
    b'{"steps": null}',
    b'{"steps": [1, 2]}',
    b'{"steps": [[]]}',
    b'{"steps": [["1"]]}',
    b'{"steps": [[1.0]]}',
    b'{"steps": [[true]]}',
    b'{"steps": [[0, 1]]}',
    b'{"steps": [[-1]]}',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_file_is_named_with_advice(tmp_path, content):
    path = tmp_path / "d.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"d\.json.*decide the post-processing again"):
        Postprocessing.load(path)
    with pytest.raises(InputError, match=r"d\.json"):
        ApplyPostprocessingd("pred", path)


def test_missing_file_and_folder_are_no_decision(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match=path.name):
            Postprocessing.load(path)


# --- the transform ----------------------------------------------------------------------------------------------------


@pytest.fixture
def decided(tmp_path):
    path = tmp_path / "postprocessing.json"
    Postprocessing([[1, 2], [1]], [], 1).save(path)
    return str(path)


def label_tensor(given="11.1222", dtype=torch.uint8):
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    return MetaTensor(torch.from_numpy(strip(given)[None]).to(dtype), affine=affine, meta={"filename_or_obj": "x.nii"})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32])
def test_transform_applies_the_steps_in_a_compose_and_keeps_type_and_metadata(decided, dtype):
    given = label_tensor(dtype=dtype)
    item = {"pred": given, "label": label_tensor(), "case": "x"}
    found = Compose([EnsureTyped("pred"), ApplyPostprocessingd("pred", decided)])(item)
    assert text(found["pred"].numpy().astype(int)) == "...1222"
    assert isinstance(found["pred"], MetaTensor)
    assert found["pred"].shape == given.shape
    assert found["pred"].dtype == dtype
    assert torch.equal(found["pred"].affine, given.affine)
    assert found["pred"].meta["filename_or_obj"] == "x.nii"
    assert found["label"] is item["label"]
    assert found["case"] == "x"
    assert text(given.numpy().astype(int)) == "11.1222"  # the input is not changed
    assert item["pred"] is given


def test_transform_keeps_the_operations_that_an_inverse_needs(decided):
    flip = Flipd("pred", spatial_axis=0)
    chain = Compose([flip, ApplyPostprocessingd("pred", decided)])
    found = chain({"pred": label_tensor("2221.11")})
    assert len(found["pred"].applied_operations) == 1
    assert text(flip.inverse(found)["pred"].numpy()) == "2221..."


def test_transform_takes_2d_arrays_plain_tensors_and_several_keys(decided):
    flat = strip("11.1222")[None, :, :, 0]
    item = {"a": flat, "b": torch.from_numpy(flat)}
    found = ApplyPostprocessingd(["a", "b"], decided)(item)
    assert item["a"] is flat
    assert isinstance(found["a"], np.ndarray)
    assert type(found["b"]) is torch.Tensor
    assert text(found["a"]) == text(found["b"].numpy()) == "...1222"


@pytest.mark.parametrize("path", [None, "", "missing.json"])
def test_transform_without_a_file_does_nothing(tmp_path, path):
    item = {"pred": label_tensor()}
    found = ApplyPostprocessingd("pred", tmp_path / path if path else path)(item)
    assert found["pred"] is item["pred"]


def test_missing_keys_are_an_error_unless_allowed(decided):
    with pytest.raises(KeyError):
        ApplyPostprocessingd("pred", decided)({"label": label_tensor()})
    assert ApplyPostprocessingd("pred", decided, allow_missing_keys=True)({"case": 1}) == {"case": 1}


def test_one_hot_predictions_are_refused(decided):
    with pytest.raises(ValueError, match="one channel"):
        ApplyPostprocessingd("pred", decided)({"pred": torch.zeros(3, 4, 4, 4)})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_transform_keeps_the_device(decided):
    found = ApplyPostprocessingd("pred", decided)({"pred": label_tensor().cuda()})["pred"]
    assert found.is_cuda
    assert text(found.cpu().numpy()) == "...1222"


def test_decision_made_on_files_improves_what_the_transform_sees(files, tmp_path):
    pairs = files(*itertools.repeat(("1122..1", "1122..."), 2))
    choose_postprocessing(pairs, AB).save(tmp_path / "d.json")
    found = ApplyPostprocessingd("pred", tmp_path / "d.json")({"pred": label_tensor("1122..1")})
    assert text(found["pred"].numpy()) == "1122..."
