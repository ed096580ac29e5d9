import os
import zipfile

import pytest
import torch

from mednextv2.errors import InputError
from mednextv2.nets import MedNeXt, create_mednext
from mednextv2.weights import load_weights
from mednextv2.weights.files import load_file, save_file

V1 = {"global_resp_norm": False}


def tiny(**kwargs):
    settings = {"spatial_dims": 2, "out_channels": 3, "init_filters": 4, "blocks_down": 1, "blocks_up": 1}
    return MedNeXt(**{**settings, "blocks_bottleneck": 1, **kwargs})


def assert_same_weights(actual, expected):
    assert list(actual) == list(expected)
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key


def refuse(network, path):
    """Load into a network that must refuse, assert that it stays as it was, and return the message."""
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_weights(network, path)
    assert_same_weights(network.state_dict(), before)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


# -------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("settings", [{}, {"global_resp_norm": False}, {"deep_supervision": True}], ids=str)
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}], ids=["state dict", "checkpoint"])
def test_a_state_dict_and_a_training_checkpoint_are_loaded(settings, wrap, tmp_path):
    source, target = tiny(**settings), tiny(**settings)
    save_file(wrap(source.state_dict()), tmp_path / "model.pt")
    for path in (tmp_path / "model.pt", str(tmp_path / "model.pt")):
        target.load_state_dict(tiny(**settings).state_dict())
        assert load_weights(target, path) is target
        assert_same_weights(target.state_dict(), source.state_dict())


def test_the_mode_of_the_network_is_kept(tmp_path):
    save_file(tiny().state_dict(), tmp_path / "model.pt")
    assert load_weights(tiny().train(), tmp_path / "model.pt").training
    assert not load_weights(tiny().eval(), tmp_path / "model.pt").training


def test_a_cast_network_keeps_its_precision(tmp_path):
    source = tiny()
    save_file(source.state_dict(), tmp_path / "model.pt")
    network = load_weights(tiny().bfloat16(), tmp_path / "model.pt")
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert torch.equal(network.stem.weight, source.stem.weight.bfloat16())


@pytest.mark.parametrize(
    ("here", "file", "words"),
    [
        (
            {},
            {"out_channels": 5},
            ["for 5 classes, and", "heads.0.weight (5, 4, 1, 1) in the file"],
        ),
        (
            {"in_channels": 4},
            {},
            ["1 input channel, and the", "is for 4", "stem.weight (4, 1, 1, 1) in the file"],
        ),
        (
            {},
            {"init_filters": 8},
            ["8 filters at full resolution (variant), and the", "is for 4", "another shape"],
        ),
        (
            {},
            {"kernel_size": 5},
            [
                "5 voxels along each side",
                "(kernel_size), and the",
                "is for 3",
                "depthwise.weight (4, 1, 5, 5)",
            ],
        ),
        ({}, V1, ["without global response normalisation (v1)", "not in the file: encoder.0.0.grn.gamma"]),
        (V1, {}, ["global response normalisation (v2)", "not in this network: encoder.0.0.grn"]),
        ({"deep_supervision": True}, {}, ["deep supervision", "8 tensors not in the file: heads.1.weight"]),
        ({}, {"deep_supervision": True}, ["deep supervision", "8 tensors not in this network: heads.1.weight"]),
        ({"blocks_bottleneck": 3, **V1}, V1, ["depth (variant)", "not in the file: bottleneck.1."]),
        (V1, {"blocks_down": (1, 2, 1, 1), **V1}, ["depth (variant)", "not in this network: encoder.1.1."]),
        ({}, {"encoder_expansion_ratio": 3}, ["tensors of another shape", "encoder.0.0.expand.weight (12, 4, 1, 1)"]),
        ({}, {"spatial_dims": 3}, ["tensors of another shape", "stem.weight (4, 1, 1, 1, 1) in the file"]),
        ({}, {"out_channels": 5, "kernel_size": 5}, ["5 classes", "(kernel_size)"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_of_another_network_are_refused_with_the_cause(here, file, words, wrapped, tmp_path):
    state = tiny(**file).state_dict()
    save_file({"model": state} if wrapped else state, tmp_path / "other.pt")
    message = refuse(tiny(**here), tmp_path / "other.pt")
    assert "the weights are of another network" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("deeper", [{"blocks_bottleneck": 3}, {"blocks_down": (1, 2, 1, 1)}], ids=str)
def test_two_v2_networks_of_another_depth_are_not_taken_for_v1_and_v2(deeper, tmp_path):
    save_file(tiny(**deeper).state_dict(), tmp_path / "other.pt")
    message = refuse(tiny(), tmp_path / "other.pt")
    assert "depth (variant)" in message
    assert "(v1)" not in message


@pytest.mark.parametrize(
    ("file", "others"),
    [
        ({"out_channels": 5}, ["input channels", "filters", "kernel size", "(v2)", "depth (", "supervision", "not in"]),
        (V1, ["classes", "input channels", "filters", "kernel size", "depth (", "supervision", "shape"]),
        (
            {"deep_supervision": True},
            ["classes", "input channels", "filters", "kernel size", "(v2)", "depth (", "shape"],
        ),
        ({"kernel_size": 5}, ["classes", "input channels", "filters", "(v2)", "depth (", "supervision", "not in"]),
    ],
    ids=str,
)
def test_a_cause_that_does_not_apply_is_not_named(file, others, tmp_path):
    save_file(tiny(**file).state_dict(), tmp_path / "other.pt")
    message = refuse(tiny(), tmp_path / "other.pt").removeprefix(str(tmp_path))
    assert [word for word in others if word in message] == []


def test_any_single_missing_or_extra_or_misshapen_tensor_is_refused_by_name(tmp_path):
    state = tiny(global_resp_norm=False).state_dict()
    network = tiny(global_resp_norm=False)
    for key in list(state)[::5]:
        save_file({k: v for k, v in state.items() if k != key}, tmp_path / "other.pt")
        assert f"1 tensor not in the file: {key}." in refuse(network, tmp_path / "other.pt")
        save_file({**state, key: state[key][None]}, tmp_path / "other.pt")
        assert f"1 tensor of another shape: {key} (1, " in refuse(network, tmp_path / "other.pt")
    save_file({**state, "more.weight": torch.ones(1)}, tmp_path / "other.pt")
    assert "1 tensor not in this network: more.weight." in refuse(network, tmp_path / "other.pt")


def test_a_long_list_of_tensors_is_counted_and_cut(tmp_path):
    save_file(tiny(blocks_bottleneck=4).state_dict(), tmp_path / "other.pt")
    message = refuse(tiny(), tmp_path / "other.pt")
    assert "30 tensors not in this network" in message
    assert message.count("bottleneck.") == 3
    assert message.endswith(", ….")


@pytest.mark.parametrize("names", [["enc_block_0.0.conv1.weight", "down_0.conv1.weight"], ["model.0.conv.weight"]])
def test_names_of_other_code_are_refused_with_a_word_on_the_import(names, tmp_path):
    save_file({n: torch.ones(1) for n in names}, tmp_path / "other.pt")
    assert "import_official" in refuse(tiny(), tmp_path / "other.pt")


def test_a_checkpoint_of_the_authors_code_is_refused_with_a_word_on_the_import(tmp_path):
    state = {"stem.weight": torch.ones(4, 1, 1, 1), "stem.bias": torch.ones(4), "dummy_tensor": torch.ones(1)}
    state |= {f"enc_block_0.0.conv1.{leaf}": torch.ones(4) for leaf in ("weight", "bias")}
    save_file(state, tmp_path / "official.pt")
    assert "import_official" in refuse(tiny(), tmp_path / "official.pt")


@pytest.mark.parametrize(
    "content",
    [{}, {"model": {}}, {"model": None}, [], None, torch.ones(3), {"epoch": 3}, {"model": {"stem.weight": [1.0]}}],
    ids=str,
)
def test_a_file_without_a_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "empty.pt")
    assert "holds no state dict" in refuse(tiny(), tmp_path / "empty.pt")


def test_a_missing_file_a_folder_and_a_text_are_refused(tmp_path):
    assert "there is no such" in refuse(tiny(), tmp_path / "nowhere.pt")
    assert "is a folder" in refuse(tiny(), tmp_path)
    (tmp_path / "text.pt").write_text("These are not the weights.\n")
    assert "not a PyTorch checkpoint" in refuse(tiny(), tmp_path / "text.pt")


class Attack:
    """Run a command when unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("wrapped", [True, False])
def test_weights_that_would_run_code_are_refused_and_run_none(wrapped, tmp_path):
    attack = Attack(f"touch '{tmp_path / 'sentinel'}'")
    content = {"model": tiny().state_dict(), "optimizer": attack} if wrapped else attack
    torch.save(content, tmp_path / "evil.pt")
    assert "refused, since reading it would run code" in refuse(tiny(), tmp_path / "evil.pt")
    assert not (tmp_path / "sentinel").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "sentinel").exists()  # the attack works where it is not kept out


# --------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_failed_are_refused(value, tmp_path):
    state = tiny().state_dict()
    state["stem.bias"][0] = value
    save_file(state, tmp_path / "model.pt")
    assert "NaN or infinite numbers in 1 tensor (stem.bias" in refuse(tiny(), tmp_path / "model.pt")


@pytest.mark.parametrize("wrap", [
    lambda s: {"module." + k: v for k, v in s.items()},
    lambda s: {"_orig_mod." + k: v for k, v in s.items()},
    lambda s: {"module._orig_mod." + k: v for k, v in s.items()},
    lambda s: {"state_dict": s, "epoch": 3},
    lambda s: {"model": {"module." + k: v for k, v in s.items()}},
    lambda s: {"network_weights": s},
    lambda s: {"state_dict": {"model": s}},
])  # fmt: skip
def test_weights_that_other_trainers_wrapped_are_loaded(tmp_path, wrap):
    source, target = (create_mednext("v2_tiny", out_channels=2) for _ in range(2))
    torch.save(wrap(source.state_dict()), tmp_path / "a.pt")
    load_weights(target, tmp_path / "a.pt")
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


# -------------------------------------------------------------------------------------- damaged and odd files


def altered(path, change):
    """Change the bytes of the first weights in a file, and nothing of the archive around them."""
    with zipfile.ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda m: m.file_size)
        with archive.open(member) as f:
            data = f.read()
    raw = path.read_bytes()
    assert raw.count(data) == 1
    path.write_bytes(raw.replace(data, change(bytearray(data))))


def flipped(data, byte=5, bit=1):
    data[byte] ^= bit
    return bytes(data)


@pytest.mark.parametrize("change", [flipped, lambda d: flipped(d, -1, 128), lambda d: bytes(len(d))])
def test_any_change_of_a_weight_is_noticed(change, tmp_path):
    save_file(tiny().state_dict(), tmp_path / "model.pt")
    altered(tmp_path / "model.pt", change)
    assert "the checksum of archive/data/" in refuse(tiny(), tmp_path / "model.pt").replace("model/", "archive/")


def test_compressed_and_overlapping_archives_are_refused(tmp_path):
    save_file({"weight": torch.zeros(2**22)}, tmp_path / "model.pt")
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as archive,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for member in archive.infolist():
            small.writestr(member.filename, archive.read(member))
    assert (tmp_path / "small.pt").stat().st_size < 2**18
    assert "it is compressed" in refuse(tiny(), tmp_path / "small.pt")
    with zipfile.ZipFile(tmp_path / "model.pt", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"another")
    assert "its parts overlap" in refuse(tiny(), tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda w: w.to_sparse(), "is sparse, nested or quantized"),
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "is sparse, nested or quantized"),
        (lambda w: w.to("meta"), "has no numbers (device meta)"),
        (lambda w: torch.zeros(1).expand(w.shape), "repeats numbers"),
        (lambda w: w.to(torch.float64), "is torch.float64, the network's is torch.float32"),
        (lambda w: w.half(), "is torch.float16"),
        (lambda w: w.to(torch.complex64), "is torch.complex64"),
        (lambda w: w.to(torch.int64), "is torch.int64"),
        (lambda w: w > 0, "is torch.bool"),
        (lambda w: w.tolist(), "holds no state dict"),
        (lambda w: w.numpy(), "holds no state dict"),
        (lambda w: None, "holds no state dict"),
        (lambda w: {"weight": w}, "holds no state dict"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_other_kinds_are_refused(make, words, tmp_path):
    state = tiny().state_dict()
    key = next(key for key in state if key.endswith("weight"))
    torch.save(state | {key: make(state[key])}, tmp_path / "model.pt")
    assert words in refuse(tiny(), tmp_path / "model.pt")


def test_a_small_file_with_a_large_shape_fills_no_memory(tmp_path):
    torch.save({"log": [{"deep": torch.zeros(1).expand(2**40)}]}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"its tensor log\.0\.deep repeats numbers: 4398046511104 bytes of 4"):
        load_file(tmp_path / "model.pt")


def test_content_that_contains_itself_has_an_end(tmp_path):
    content = {"weights": [torch.ones(1)]}
    content["weights"].append(content["weights"])
    torch.save(content, tmp_path / "model.pt")
    assert "holds no state dict" in refuse(tiny(), tmp_path / "model.pt")


def test_names_that_are_numbers_are_refused(tmp_path):
    torch.save({**tiny().state_dict(), 3: torch.ones(1)}, tmp_path / "model.pt")
    assert "holds no state dict" in refuse(tiny(), tmp_path / "model.pt")


def test_tied_weights_are_read(tmp_path):
    weight = torch.arange(12.0)
    torch.save(
        {"a": weight, "b": weight.view(3, 4), "c": weight[3:9:2], "d": weight.view(3, 4).T}, tmp_path / "model.pt"
    )
    content = load_file(tmp_path / "model.pt")
    assert torch.equal(content["d"], weight.view(3, 4).T)
    assert torch.equal(content["c"], weight[3:9:2])
