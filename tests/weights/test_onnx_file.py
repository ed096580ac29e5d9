"""The record of ONNX files, compared with the package onnx."""

import onnx
import pytest
from onnx import TensorProto, helper

from mednextv2.weights import onnx_file

RECORD = '{"labels": ["Hintergrund", "Äste"]}'


@pytest.fixture
def model(tmp_path):
    image, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in ("image", "logits"))
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["logits"])], "g", [image], [logits])
    file = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), file)
    return file


def test_the_package_onnx_reads_the_record(model):
    before = onnx.load(model)
    onnx_file.add_metadata(model, RECORD)
    after = onnx.load(model)
    onnx.checker.check_model(after)
    assert after.graph == before.graph
    assert {entry.key: entry.value for entry in after.metadata_props}[onnx_file.KEY] == RECORD


def test_metadata_of_the_package_onnx_are_read(model):
    content = onnx.load(model)
    helper.set_model_props(content, {"author": "somebody", "long": "x" * 1000})
    onnx.save(content, model)
    assert onnx_file.read_metadata(model) == {"author": "somebody", "long": "x" * 1000}
    assert onnx_file.check_digest(model) == ""  # without a record, there is nothing to compare


def test_every_changed_byte_is_noticed(model):
    onnx_file.add_metadata(model, RECORD)
    assert onnx_file.check_digest(model) == ""
    whole = model.read_bytes()
    for place in range(len(whole)):
        model.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert onnx_file.check_digest(model), place


@pytest.mark.parametrize("left", [0, 1, 20, -1])
def test_a_file_that_is_cut_off_is_noticed(model, left):
    onnx_file.add_metadata(model, RECORD)
    model.write_bytes(model.read_bytes()[:left])
    assert onnx_file.check_digest(model)


def test_another_file_is_no_onnx_file(model):
    model.write_bytes(b"\x7fELF and more of another format")
    assert onnx_file.check_digest(model)
