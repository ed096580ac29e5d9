"""Files given as weights are known by their content, whatever they are named."""

import shutil

import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from mednextv2.errors import InputError
from mednextv2.inference.exported_network import ExportedNetwork
from mednextv2.weights.file_kinds import ENDINGS, WEIGHTS, is_exported, kind_of
from mednextv2.weights.files import load_file, save_file


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A network in each format, and its weights in both of PyTorch's formats."""
    folder, network, x = tmp_path_factory.mktemp("kinds"), nn.Conv3d(1, 2, 3).eval(), torch.zeros(1, 1, 8, 8, 8)
    torch.jit.save(torch.jit.trace(network, x), folder / "model.ts")
    torch.export.save(torch.export.export(network, (x,)), folder / "model.pt2")
    image, logits = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("in", "out"))
    graph = helper.make_graph([helper.make_node("Relu", ["in"], ["out"])], "g", [image], [logits])
    onnx.save(helper.make_model(graph), folder / "model.onnx")
    save_file(network.state_dict(), folder / "model.pt", {"fold": 0})
    torch.save(network.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    return folder


def refused(function, path):
    with pytest.raises(InputError) as e:
        function(path)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_endings_tell_exported_networks_from_weights():
    found = [is_exported(name) for name in ("a.ts", "a.PT2", "a.onnx", "a.pt", "a.pth")]
    assert found == [True, True, True, False, False]


def test_the_content_tells_what_a_file_is(files, tmp_path):
    assert {file.name: kind_of(file) for file in files.iterdir()} == {
        **{f"model{ending}": kind for ending, kind in ENDINGS.items()},
        "model.pt": WEIGHTS,
        "old.pt": "",
    }
    for content in (b"", b"hello", b"PK\x03\x04", bytes(100)):
        (tmp_path / "a").write_bytes(content)
        assert kind_of(tmp_path / "a") == ""
    assert load_file(files / "old.pt").keys() == load_file(files / "model.pt").keys()


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_exported_network_is_no_file_of_weights(ending, files, tmp_path):
    file, kind = files / f"model{ending}", ENDINGS[ending]
    advice = f"is an exported network ({kind}); give the file of weights that it was made of, such as model.pt"
    assert refused(load_file, file) == f"{file}: {advice}"
    other = shutil.copy(file, tmp_path / "model.pt")
    assert refused(load_file, other) == (
        f"{other}: {advice}. For prediction and evaluation, its name must end with {ending}"
    )
    (tmp_path / f"half{ending}").write_bytes(file.read_bytes()[:99])
    assert advice in refused(load_file, tmp_path / f"half{ending}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_with_the_ending_of_another_format_is_told(ending, files, tmp_path):
    for right, kind in {**ENDINGS, ".pt": WEIGHTS}.items():
        if right != ending:
            file = shutil.copy(files / f"model{right}", tmp_path / f"a{ending}")
            wrong = f"is no file of {ENDINGS[ending]}, as its ending says, but of {kind}"
            assert refused(ExportedNetwork, file) == f"{file}: {wrong}; give it the ending {right}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (
            b"<html>\n<body>Not found",
            'a web page, as of a download that needs a login or went wrong; it begins with "<html> <body>Not found"',
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "it is only a pointer of Git LFS to the weights, which git lfs pull fetches",
        ),
        ("é".encode() * 300, 'it is a text, which begins with "éé'),
        (b"\x00\x01", "Error"),
    ],
)
def test_an_empty_file_or_a_text_is_told_with_a_remedy(content, reason, tmp_path):
    for name, function, remedy in (
        ("model.pt", load_file, "copy the file again from where it was whole, or train again"),
        ("model.ts", ExportedNetwork, "export the network again"),
    ):
        (tmp_path / name).write_bytes(content)
        message = refused(function, tmp_path / name)
        assert message.endswith(f"; {remedy}")
        assert "or a damaged one (" in message
        assert reason in message or (name, reason) == ("model.ts", "Error")
