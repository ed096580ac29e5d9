import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from mednextv2.errors import InputError
from mednextv2.nets import MedNeXt, create_mednext
from mednextv2.weights import import_official, load_file
from mednextv2.weights.official import _rename, _reshape

# Outputs and gradients of the MedNeXt authors' own code; see the folder's description for how they were made.
GOLDEN = ["official_v1_2d_k3.pt", "official_v1_grn_k3.pt", "official_v1_k3.pt", "official_v1_k5.pt"]
needs_golden = pytest.mark.skipif(
    not os.environ.get("MEDNEXTV2_GOLDEN"), reason="MEDNEXTV2_GOLDEN does not name the folder of golden files"
)
PARTS = {"depthwise": "conv1", "norm": "norm", "expand": "conv2", "compress": "conv3", "shortcut": "res_conv"}


def golden_folder():
    return Path(os.environ["MEDNEXTV2_GOLDEN"])


@pytest.fixture(params=GOLDEN)
def golden(request):
    return torch.load(golden_folder() / request.param, weights_only=True) | {"path": golden_folder() / request.param}


def distance(actual, expected):
    """Relative L2 distance."""
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def as_list(outputs):
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def nine(value):
    return list(value) if isinstance(value, list | tuple) else [value] * 9


def stages(network):
    return [*network.encoder, network.bottleneck, *network.decoder]


def has_grn(block):
    return hasattr(block.grn, "gamma")


# --------------------------------------------------------------------------- against the authors' code


@needs_golden
def test_the_four_golden_files_are_there():
    assert sorted(p.name for p in golden_folder().glob("official_*.pt")) == GOLDEN


@needs_golden
def test_the_configuration_is_found_from_the_file_alone(golden):
    config = golden["config"]
    network = import_official(golden["path"])
    is_3d = config.get("dim", "3d") == "3d"
    assert network.spatial_dims == (3 if is_3d else 2)
    assert network.stem.in_channels == config["in_channels"]
    assert network.stem.out_channels == config["n_channels"]
    assert {h.out_channels for h in network.heads} == {config["n_classes"]}
    assert [len(stage) for stage in stages(network)] == config["block_counts"]
    blocks = [b for stage in stages(network) for b in stage]
    assert {b.depthwise.kernel_size for b in [*blocks, *network.down, *network.up]} == {
        (config["kernel_size"],) * network.spatial_dims
    }
    ratios = nine(config["exp_r"])
    ratio_of = [[b.expand.out_channels / b.expand.in_channels for b in stage] for stage in stages(network)]
    assert ratio_of == [[r] * n for r, n in zip(ratios, config["block_counts"], strict=True)]
    assert [b.expand.out_channels / b.expand.in_channels for b in network.down] == ratios[1:5]
    assert [b.expand.out_channels / b.expand.in_channels for b in network.up] == ratios[5:]
    grn = config.get("grn", False)
    assert {has_grn(b) for b in [*blocks, *network.down[1:], *network.up]} == {grn}
    assert not has_grn(network.down[0])  # the authors leave it out there
    assert network.deep_supervision == config["deep_supervision"]
    assert len(network.heads) == (5 if config["deep_supervision"] else 1)
    assert all(b.residual for b in [*blocks, *network.down, *network.up])
    assert not network.training


@needs_golden
def test_outputs_are_those_of_the_authors_code(golden):
    network = import_official(golden["path"])
    expected = as_list(golden["outputs"])
    assert len(expected) == len(network.heads)
    with torch.no_grad():
        assert distance(network(golden["input"]), expected[0]) < 1e-4
        actual = as_list(network.train()(golden["input"]))
    assert [y.shape for y in actual] == [y.shape for y in expected]
    assert max(distance(a, e) for a, e in zip(actual, expected, strict=True)) < 1e-4


@needs_golden
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.float32, 2e-4)])
def test_gradients_are_those_of_the_authors_code(golden, dtype, tolerance):
    # The stem's gradient is a small difference of large sums, hence float64 for the network; golden values are float32.
    network = import_official(golden["path"]).train().to(dtype)
    x = golden["input"].to(dtype).requires_grad_()
    outputs = as_list(network(x))
    sum((o * torch.linspace(-1, 1, o.numel(), dtype=dtype).view_as(o)).sum() for o in outputs).backward()
    parameters = dict(network.named_parameters())
    distances = {k: distance(parameters[_rename(k)].grad, _reshape(k, g)) for k, g in golden["grads"].items()}
    assert len(distances) == len(golden["grads"]) >= 6
    distances["input"] = distance(x.grad, golden["input_grad"])
    assert {k: d for k, d in distances.items() if d >= tolerance} == {}


# ---------------------------------------------------------------------------------------- round trips


def tiny(**kwargs):
    settings = {
        "init_filters": 4,
        "blocks_down": 1,
        "blocks_bottleneck": 1,
        "blocks_up": 1,
        "global_resp_norm": False,
        "grn_in_first_down": False,  # as in the authors' code
    }
    return MedNeXt(**{**settings, **kwargs}).eval()


def as_the_authors_save_it(network):
    """Name and shape our tensors as the authors do: the inverse of the import, written independently of it."""
    official = {"dummy_tensor": torch.ones(1)}
    for key, value in network.state_dict().items():
        words, leaf = key.split("."), key.split(".")[-1]
        value = value.clone() + torch.rand_like(value)  # no two tensors alike, no GRN of zeros
        network.get_parameter(key).data.copy_(value)
        if words[0] == "heads":
            official[f"out_{words[1]}.conv_out.{leaf}"] = value.swapaxes(0, 1) if leaf == "weight" else value
            continue
        if words[0] == "stem":
            official[key] = value
            continue
        place = {
            "encoder": lambda w: f"enc_block_{w[1]}.{w[2]}",
            "bottleneck": lambda w: f"bottleneck.{w[1]}",
            "decoder": lambda w: f"dec_block_{3 - int(w[1])}.{w[2]}",
            "down": lambda w: f"down_{w[1]}",
            "up": lambda w: f"up_{3 - int(w[1])}",
        }[words[0]](words)
        if words[-2] == "grn":
            official[f"{place}.grn_{leaf}"] = value.reshape(1, -1, *[1] * network.spatial_dims)
        else:
            official[f"{place}.{PARTS[words[-2]]}.{leaf}"] = value
    return official


def assert_same_network(actual, expected):
    theirs, ours = actual.state_dict(), expected.state_dict()
    assert list(theirs) == list(ours)
    for key, value in ours.items():
        assert torch.equal(theirs[key], value), key
    x = torch.randn(1, expected.stem.in_channels, *[16] * expected.spatial_dims)
    assert torch.equal(actual(x), expected(x))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"deep_supervision": True, "in_channels": 2, "out_channels": 4},
        {"spatial_dims": 2, "deep_supervision": True},
        {"spatial_dims": 2, "kernel_size": 5},
        {"kernel_size": 5, "deep_supervision": True},
        {"kernel_size": 7, "spatial_dims": 2, "out_channels": 1},
        {"blocks_down": (1, 2, 3, 1), "blocks_bottleneck": 2, "blocks_up": (1, 3, 1, 2), "deep_supervision": True},
        {
            "encoder_expansion_ratio": (2, 3, 4, 3),
            "bottleneck_expansion_ratio": 5,
            "decoder_expansion_ratio": (4, 3, 1, 2),
        },
        {"global_resp_norm": True},
        {"global_resp_norm": True, "grn_in_first_down": True, "spatial_dims": 2},
        {"use_residual_connection": False},
    ],
    ids=str,
)
def test_a_network_comes_back_from_the_authors_names(settings):
    network = tiny(**settings)
    state = as_the_authors_save_it(network)
    imported = import_official(state)
    assert_same_network(imported, network)
    assert imported.deep_supervision == settings.get("deep_supervision", False)
    assert not imported.training


def test_the_small_variant_comes_back_with_the_authors_number_of_tensors():
    network = create_mednext("v1_s", out_channels=3, deep_supervision=True, init_filters=4)
    state = as_the_authors_save_it(network)
    assert len(state) == 237
    assert list(import_official(state).state_dict()) == list(network.state_dict())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_an_nnunet_v1_checkpoint_is_unwrapped(prefix, tmp_path):
    network = tiny(deep_supervision=True)
    state = as_the_authors_save_it(network)
    content = {
        "epoch": 1000,
        "state_dict": {prefix + k: v for k, v in state.items()},
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": np.float64(1e-3)}]},
        "plot_stuff": ([np.float64(0.5)], [], [np.float32(0.25)], [np.array([0.1, 0.2])]),
        "best_stuff": (np.float64(0.5), None, None),
    }
    torch.save(content, tmp_path / "model_final_checkpoint.model")
    assert_same_network(import_official(tmp_path / "model_final_checkpoint.model"), network)


def test_an_nnunet_v2_checkpoint_with_numpy_numbers_is_unwrapped(tmp_path):
    network = tiny(spatial_dims=2)
    numbers = [np.dtype(t).type(1) for t in ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")]
    content = {
        "network_weights": as_the_authors_save_it(network),
        "optimizer_state": {"state": {}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": numbers, "ema_fg_dice": [np.float64(0.5)], "dice_per_class": [np.arange(3.0)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {"plans": {"patch_size": [128, 128, 128]}, "fold": 0, "unpack": True},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(content, tmp_path / "checkpoint_final.pth")
    loaded = load_file(tmp_path / "checkpoint_final.pth")
    assert loaded["logging"]["mean_fg_dice"] == numbers
    assert_same_network(import_official(tmp_path / "checkpoint_final.pth"), network)


def test_a_bare_state_dict_in_a_file_and_in_the_old_file_format_are_read(tmp_path):
    network = tiny()
    state = as_the_authors_save_it(network)
    for name, zipped in (("new.pth", True), ("old.pth", False)):
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert_same_network(import_official(str(tmp_path / name)), network)


def test_half_precision_weights_become_float32():
    state = {k: v.half() for k, v in as_the_authors_save_it(tiny()).items()}
    assert {p.dtype for p in import_official(state).parameters()} == {torch.float32}


def test_the_given_state_dict_is_not_changed():
    state = as_the_authors_save_it(tiny(global_resp_norm=True))
    before = {k: v.clone() for k, v in state.items()}
    with torch.no_grad():
        for p in import_official(state).parameters():
            p.zero_()
    assert all(torch.equal(state[k], v) for k, v in before.items())


# ------------------------------------------------------------------------------------------- refusals


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pth: there is no such"):
        import_official(tmp_path / "nowhere.pth")
    with pytest.raises(InputError, match="there is no such"):
        import_official(tmp_path)


TEXTS = {
    "sentence": "These are not the weights.\n",
    "json": '{"epoch": 1}',
    "html": "<html>",
    "zip": "PK\x03\x04",
    "": "",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_file_that_is_no_checkpoint_is_refused(text, tmp_path):
    (tmp_path / "notes.pth").write_text(text)
    with pytest.raises(InputError, match=r"notes\.pth: not a PyTorch checkpoint"):
        import_official(tmp_path / "notes.pth")


@pytest.mark.parametrize("text", ["epoch,loss\n1,0.5\n", "results", "GET"])
def test_a_text_that_starts_like_a_pickle_is_refused(text, tmp_path):
    (tmp_path / "notes.pth").write_text(text)
    with pytest.raises(InputError, match=r"notes\.pth: not a PyTorch checkpoint"):
        import_official(tmp_path / "notes.pth")


def test_a_truncated_checkpoint_is_refused_wherever_it_ends(tmp_path):
    torch.save(as_the_authors_save_it(tiny(spatial_dims=2)), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for share in np.linspace(0, 1, 20, endpoint=False):
        (tmp_path / "part.pth").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=r"part\.pth: not a PyTorch checkpoint, or a damaged one"):
            import_official(tmp_path / "part.pth")


def test_a_truncated_checkpoint_of_the_old_format_is_refused_wherever_it_ends(tmp_path):
    torch.save({"a": torch.ones(3), "b": torch.ones(2)}, tmp_path / "whole.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "whole.pth").read_bytes()
    for end in range(0, len(whole), 3):
        (tmp_path / "part.pth").write_bytes(whole[:end])
        # cut inside the name of a class, it names a class that is not allowed
        with pytest.raises(InputError, match=r"part\.pth: (not a PyTorch checkpoint, or a damaged one|refused)"):
            load_file(tmp_path / "part.pth")


class Trainer:
    """Some class of another project."""

    def __init__(self):
        self.epoch = 3


class Attack:
    """Run a command when unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_an_object_of_another_project_is_refused_with_the_remedy(wrapped, zipped, tmp_path):
    state = as_the_authors_save_it(tiny(spatial_dims=2))
    content = {"state_dict": state, "trainer": Trainer()} if wrapped else Trainer()
    torch.save(content, tmp_path / "objects.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"objects\.pth: refused.*Trainer.*torch\.save\(network\.state_dict"):
        import_official(tmp_path / "objects.pth")


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
@pytest.mark.parametrize("function", ["system", "eval", "exec", "open"])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(how, function, tmp_path):
    sentinel, file = tmp_path / "sentinel", tmp_path / "evil.pth"
    code = f"open({str(sentinel)!r}, 'w').close()"
    attack = {
        "system": Attack(os.system, f"touch '{sentinel}'"),
        "eval": Attack(eval, code),
        "exec": Attack(exec, code),
        "open": Attack(open, str(sentinel), "w"),
    }[function]
    content = {"state_dict": {"stem.weight": torch.ones(1)}, "logging": attack} if how != "pickle" else attack
    with open(file, "wb") as f:
        if how == "pickle":
            pickle.dump(content, f, protocol=2)
        else:
            torch.save(content, f, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(InputError, match=r"evil\.pth: "):
        import_official(file)
    assert not sentinel.exists()
    if how == "torch":  # the attack works where it is not kept out
        torch.load(file, weights_only=False)
        assert sentinel.exists()


def test_a_network_of_another_kind_is_refused_with_its_names(tmp_path):
    other = UNet(3, 1, 2, channels=(4, 8), strides=(2,))
    torch.save(other.state_dict(), tmp_path / "unet.pt")
    with pytest.raises(InputError, match=rf"unet\.pt: not a MedNeXt.*{next(iter(other.state_dict()))}.*enc_block_0"):
        import_official(tmp_path / "unet.pt")


def test_our_own_weights_are_refused_with_the_names_that_were_expected():
    with pytest.raises(InputError, match=r"not a MedNeXt of the authors' v1 code.*stem\.weight.*enc_block_0\.0\.conv1"):
        import_official(tiny().state_dict())


@pytest.mark.parametrize(
    "content", [{}, [], {"state_dict": {}}, {"epoch": 3}, {"network_weights": None}, torch.ones(3)], ids=str
)
def test_a_checkpoint_without_a_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "empty.pth")
    with pytest.raises(InputError, match=r"empty\.pth: holds no state dict"):
        import_official(tmp_path / "empty.pth")


def test_names_that_are_no_text_are_refused():
    with pytest.raises(InputError):
        import_official({0: torch.ones(3)})


@pytest.mark.parametrize("settings", [{"deep_supervision": True}, {"global_resp_norm": True}], ids=str)
def test_a_checkpoint_that_lacks_any_one_tensor_is_refused(settings):
    state = as_the_authors_save_it(tiny(spatial_dims=2, init_filters=2, **settings))
    keys = [k for k in state if k != "dummy_tensor"][::2]  # weights; every bias is like another
    for key in keys:
        with pytest.raises(InputError, match=r"not a MedNeXt of the authors' v1 code"):
            import_official({k: v for k, v in state.items() if k != key})
    assert len(keys) > 75


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("up_2.conv2.bias", r"1 tensor not in the file: up\.1\.expand\.bias"),
        ("out_3.conv_out.weight", r"1 tensor not in the file: heads\.3\.weight"),
        ("out_0.conv_out.weight", r"it has no tensor 'out_0\.conv_out\.weight'"),
        ("bottleneck.0.conv2.weight", r"it has no tensor 'bottleneck\.0\.conv2\.weight'"),
    ],
)
def test_a_missing_tensor_is_named(key, words):
    state = as_the_authors_save_it(tiny(spatial_dims=2, deep_supervision=True))
    del state[key]
    with pytest.raises(InputError, match=words):
        import_official(state)


def test_a_missing_stage_is_named():
    state = as_the_authors_save_it(tiny(spatial_dims=2))
    with pytest.raises(InputError, match="its stage dec_block_2 has no block"):
        import_official({k: v for k, v in state.items() if not k.startswith("dec_block_2")})


def test_an_extra_tensor_is_refused_by_name():
    state = as_the_authors_save_it(tiny(spatial_dims=2))
    with pytest.raises(InputError, match=r"1 tensor not in this network: attention\.weight"):
        import_official({**state, "attention.weight": torch.ones(3)})


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("enc_block_1.0.norm.weight", lambda v: v[:-1], r"encoder\.1\.0\.norm\.weight \(7,\) in the file, \(8,\) here"),
        ("down_1.conv3.weight", lambda v: v[..., None], r"down\.1\.compress\.weight \(16, 16, 1, 1, 1\) in the file"),
        ("out_1.conv_out.weight", lambda v: v.swapaxes(0, 1), r"heads\.1\.weight \(8, 2, 1, 1\) in the file, \(2, 8"),
        ("up_0.conv1.weight", lambda v: torch.ones(8, 1, 5, 5), "depthwise kernels differ in size"),
        ("stem.weight", lambda v: v.flatten(), "not a MedNeXt"),
        ("stem.bias", lambda v: v[0], r"stem\.bias \(\) in the file, \(4,\) here"),
    ],
)
def test_a_tensor_of_another_shape_is_refused_by_name(key, change, words):
    state = as_the_authors_save_it(tiny(spatial_dims=2, deep_supervision=True))
    state[key] = change(state[key]).contiguous()
    with pytest.raises(InputError, match=words):
        import_official(state)


def test_an_even_kernel_is_refused():
    state = as_the_authors_save_it(tiny(spatial_dims=2))
    state = {k: v[..., :2, :2] if k.endswith("conv1.weight") else v for k, v in state.items()}
    with pytest.raises(InputError, match="kernel_size is an odd int"):
        import_official(state)


def test_kernels_of_unequal_edges_are_refused():
    state = as_the_authors_save_it(tiny())
    state = {k: v[..., :1] if k.endswith("conv1.weight") else v for k, v in state.items()}
    with pytest.raises(InputError, match="depthwise kernels differ in size"):
        import_official(state)
