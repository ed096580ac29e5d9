import os
from pathlib import Path

import numpy as np
import pytest
import torch
from official_helpers import as_the_authors_save_it, tiny

from mednextv2.nets import create_mednext
from mednextv2.weights import import_official, load_file
from mednextv2.weights.official import _reshape, rename

# Outputs and gradients of the MedNeXt authors' own code; see the folder's description for how they were made.
GOLDEN = ["official_v1_2d_k3.pt", "official_v1_grn_k3.pt", "official_v1_k3.pt", "official_v1_k5.pt"]
needs_golden = pytest.mark.skipif(
    not os.environ.get("MEDNEXTV2_GOLDEN"), reason="MEDNEXTV2_GOLDEN does not name the folder of golden files"
)


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
    distances = {k: distance(parameters[rename(k)].grad, _reshape(k, g)) for k, g in golden["grads"].items()}
    assert len(distances) == len(golden["grads"]) >= 6
    distances["input"] = distance(x.grad, golden["input_grad"])
    assert {k: d for k, d in distances.items() if d >= tolerance} == {}


# ---------------------------------------------------------------------------------------- round trips


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
