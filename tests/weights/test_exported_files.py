"""Files of exported networks: what they record, and which are refused before anything in them is read."""

import json
import shutil
import zipfile

import pytest
import torch
from torch import nn

from mednextv2.errors import InputError
from mednextv2.weights.exported_files import add_record, check_exported
from mednextv2.weights.provenance import read_about

ABOUT = {"labels": ["background", "a"], "training": ["case_1"]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One convolution in the formats that are archives."""
    folder, network, x = tmp_path_factory.mktemp("exported"), nn.Conv3d(1, 2, 3).eval(), torch.zeros(1, 1, 8, 8, 8)
    torch.jit.save(torch.jit.trace(network, x), folder / "model.ts")
    torch.export.save(torch.export.export(network, (x,)), folder / "model.pt2")
    for file in folder.iterdir():
        add_record(file, ABOUT, {"inference": {"a": 1}})
    return folder


def rewritten(source, target, change):
    """Copy an archive; `change` gets each part's name and content, and returns its content."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name.split("/", 1)[1], old.read(name)))
    return target


@pytest.mark.parametrize("name", ["model.ts", "model.pt2"])
def test_the_record_stays_with_the_file_and_is_read(name, files):
    check_exported(files / name)
    assert read_about(files / name) == ABOUT
    extra = {"inference.json": ""}
    if name.endswith("ts"):
        torch.jit.load(files / name, _extra_files=extra)  # as MONAI reads it
        assert json.loads(extra["inference.json"]) == {"a": 1}
    else:
        x = torch.ones(1, 1, 8, 8, 8)
        assert torch.export.load(files / name).module()(x).shape == (1, 2, 6, 6, 6)


@pytest.mark.parametrize("name", ["model.ts", "model.pt2"])
def test_each_damaged_part_is_noticed(name, files, tmp_path):
    whole = (files / name).read_bytes()
    with zipfile.ZipFile(files / name) as archive:
        parts = [part for part in archive.infolist() if part.compress_size]
    for part in parts:
        broken = bytearray(whole)
        start = (
            part.header_offset + 30 + int.from_bytes(whole[part.header_offset + 26 : part.header_offset + 28], "little")
        )
        start += int.from_bytes(whole[part.header_offset + 28 : part.header_offset + 30], "little")
        broken[start + part.compress_size // 2] ^= 1
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(InputError, match="damaged one"):
            check_exported(tmp_path / name)


@pytest.mark.parametrize("name", ["model.ts", "model.pt2", "model.onnx"])
@pytest.mark.parametrize("content", ["nothing", "text", "half", "weights", "missing"])
def test_what_is_no_exported_network_is_one_message(name, content, files, tmp_path):
    file = tmp_path / name
    if content == "weights":
        torch.save({"a": torch.zeros(1)}, file)
    elif content != "missing":
        source = (files / name).read_bytes() if (files / name).is_file() else b"\x08\x0a" * 40
        file.write_bytes({"nothing": b"", "text": b"hello", "half": source[: len(source) // 2]}[content])
    with pytest.raises(InputError) as e:
        check_exported(file)
    assert str(e.value).startswith(f"{file}: ")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        ("data/weights/model_weights_config.json", '"use_pickle": false', '"use_pickle": true'),
        ("data/weights/model_weights_config.json", '"path_name": "weight_0"', '"path_name": "opaque_obj_0"'),
        ("models/model.json", "torch.ops.aten.conv3d.default", "torch.hub.load"),
        ("models/model.json", "torch.ops.aten.conv3d.default", "torch.os.system"),
        (
            "models/model.json",
            '"verifiers"',
            '"conditions": {"guards_code": ["__import__(\'os\').getpid()"]}, "verifiers"',
        ),
        ("models/model.json", '"verifiers"', '"conditions": {"guards_code": ["exec(chr(95))"]}, "verifiers"'),
        ("models/model.json", '"opset_version"', '"expr_str": "open(1)", "opset_version"'),
    ],
)
def test_what_would_run_code_is_refused(part, old, new, files, tmp_path):
    found = []

    def change(name, content):
        if name != part:
            return content
        text = json.dumps(json.loads(content))
        found.append(old in text)
        return text.replace(old, new)

    with pytest.raises(InputError, match="refused, since reading it could run code"):
        check_exported(rewritten(files / "model.pt2", tmp_path / "model.pt2", change))
    assert found == [True]


@pytest.mark.parametrize(
    "name", ["data/constants/opaque_obj_0", "data/aotinductor/model/a.so", "data/weights/model.pt"]
)
def test_parts_that_no_export_of_ours_has_are_refused(name, files, tmp_path):
    shutil.copy(files / "model.pt2", tmp_path)
    with zipfile.ZipFile(tmp_path / "model.pt2", "a") as archive:
        archive.writestr(f"{archive.namelist()[0].split('/')[0]}/{name}", b"1")
    with pytest.raises(InputError, match="refused"):
        check_exported(tmp_path / "model.pt2")


def test_pickled_inputs_are_refused(files, tmp_path):
    def change(name, content):
        return b"\x80\x04cos\ngetpid\n)R." if name.startswith("data/sample_inputs") else content

    with pytest.raises(InputError, match="refused"):
        check_exported(rewritten(files / "model.pt2", tmp_path / "model.pt2", change))
