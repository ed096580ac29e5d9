from pathlib import Path

import pytest
import torch
import yaml

from mednextv2 import recipes, settings
from mednextv2.bundle.build import RECIPES
from mednextv2.errors import InputError
from mednextv2.nets.legal_sizes import LEVELS
from mednextv2.nets.training_memory import training_memory
from mednextv2.settings import RULES, check_settings


def refused(patch_size=(16, 32, 16), device="cpu", **settings):
    with pytest.raises(InputError) as caught:
        check_settings(patch_size, device, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("device", "words"),
    [("gpu", "(there is no such kind of device); a GPU is called cuda"), ("x y", "Invalid device"), ("mps", "mps")],
)
def test_a_device_that_cannot_be_used_is_refused_in_a_short_line(device, words):
    message = refused(device=device)
    assert message.startswith(f"device {device}: cannot be used here (")
    assert words in message
    assert len(message) < 200


@pytest.mark.parametrize("patch_size", [[48, 64, 48], (16, 16, 16), [128, 96], [16, 1024, 32]])
def test_multiples_of_sixteen_are_legal_patch_sizes(patch_size):
    check_settings(patch_size, "cpu")


@pytest.mark.parametrize(
    ("patch_size", "nearest", "larger"),
    [
        ([50, 64, 48], [48, 64, 48], [64, 64, 48]),
        ([40, 64, 48], [32, 64, 48], [48, 64, 48]),
        ([57, 64, 48], [64, 64, 48], None),
        ([1, 7, 8], [16, 16, 16], None),
        ((47, 47), [48, 48], None),
    ],
)
def test_other_patch_sizes_are_refused_with_the_nearest_legal_ones(patch_size, nearest, larger):
    message = refused(patch_size)
    end = f", and the next larger one {larger}" if larger else ""
    assert (
        message
        == f"patch_size {list(patch_size)}: every axis should be a multiple of 16; the nearest is {nearest}{end}"
    )


@pytest.mark.parametrize(
    "patch_size",
    [
        48,
        "48,64,48",
        [48.0, 64.0, 48.0],
        ["48", "64", "48"],
        [0, 16, 16],
        [-16] * 3,
        [48],
        [48] * 4,
        [],
        None,
        [True] * 3,
    ],
)
def test_patch_sizes_that_are_no_two_or_three_whole_numbers_are_refused_with_an_example(patch_size):
    message = refused(patch_size)
    assert message.startswith(f"patch_size {patch_size!r}: ")
    assert '"[48,64,48]"' in message


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("epochs", [1, 1000], [0, -1, 1.5, "10", None, True]),
        ("iterations_per_epoch", [1], [0, "x"]),
        ("batch_size", [1, 9], [0, -2, 2.0]),
        ("val_interval", [1], [0]),
        ("window_batch_size", [1], [0]),
        ("warmup_epochs", [0, 5], [-1]),
        ("num_workers", [0, 8], [-1, "two", 9999]),
        ("seed", [0, 12345], [-1, None]),
        ("foreground_patches", [0, 0.33, 1], [-0.1, 1.1, "a"]),
        ("val_iterations", [1, 50], [0, 2.5]),
        ("early_stopping", [0, 100], [-1, "never"]),
        ("gradient_clipping", [12.0, 1], [0, -1, "12"]),
        ("optimizer_name", ["adamw", "sgd"], ["adam", 1, None]),
        ("augment_on", ["workers", "device"], ["gpu", True]),
        ("batch_dice", [True, False], [0, "yes"]),
        ("overlap", [0, 0.5], [1, 1.5, -0.1, None]),
        ("learning_rate", [1e-3, 1], [0, -1, "1e-3", float("nan")]),
        ("weight_decay", [0, 3e-5], [-1e-5]),
        ("kernel_size", [1, 3, 5, 7], [0, 2, 4, -3, 3.0]),
        ("resume", [True, False], [1, "yes", None]),
        ("check_data", [True, False], [0, "no"]),
        ("prepare_ahead", [None, True, False], [0, "yes"]),
        ("compile", [True, False], ["true"]),
        ("cuda_graph", [True, False], ["yes", 1, None]),
        ("amp", [True, False], ["false", 0]),
        ("spacing", [[1.0, 1, 0.5], [2, 2, 2]], [[0, 1, 1], [-1, 1, 1], 1.0, [], ["1"], None]),
        ("mirror_axes", [[], [0], [0, 1, 2]], [[5], 0, ["x"], None]),
        ("test_mirror_axes", [[], [0, 1]], [[3], "0"]),
        ("context", [1, 1.5, 0.5], [0, -1, "1.5", None, True, float("nan"), 1e9]),
        ("warmup_new_layers", [0, 10], [-1, 1.5, None]),
        ("checkpointing", ["auto", True, False], ["yes", None, 1]),
        ("layer_decay", [1.0, 1, 0.7], [0, 1.1, -0.5, None, "0.7"]),
        ("freeze", [None, "encoder"], ["decoder", "", True]),
        ("experiment", ["", "wide", "a-1.b"], ["fold_0", "a/b", "..", None, 3]),
        ("pretrained", ["model.pt", Path("model.pt")], [None, "", 3]),
        ("pretrained_partial", [True, False], [1, None]),
        ("save_safetensors", [True, False], ["yes", 0]),
        ("form", ["dense", "sparse", "tokens", "s3d"], ["S3D", "", None, 3]),
        ("several_channels", ["refuse", "split"], ["yes", None, True]),
        ("defective", ["stop", "exclude"], ["skip", None]),
        ("picture_interval", [0, 10], [-1, 1.5, None]),
        ("pictures", [0, 3], [-1, "3"]),
        ("patches_per_image", [1, 4], [0, None]),
        ("air", [None, -4.5, [-4.5, 0]], ["null", [], [None], True]),
    ],
)
def test_each_setting_is_checked(name, good, bad):
    for value in good:
        check_settings([16, 16, 16], "cpu", **{name: value})
    for value in bad:
        assert refused(**{name: value}).startswith(f"{name} {value!r}: should be ")


def test_a_workflow_may_take_only_volumes():
    check_settings([16, 16, 16], "cpu", spatial_dims=[3])
    with pytest.raises(InputError, match=r"patch_size \[16, 16\]: should have 3 numbers"):
        check_settings([16, 16], "cpu", spatial_dims=[3])


def test_every_rule_is_tested():
    (mark,) = test_each_setting_is_checked.pytestmark
    assert {name for name, _, _ in mark.args[1]} == set(RULES)


def test_all_wrong_settings_are_named_at_once():
    message = refused([10, 10, 10], epochs=0, batch_size=0)
    assert [line.split()[0] for line in message.splitlines()] == ["epochs", "batch_size", "patch_size"]


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 3.5])
def test_a_device_that_cannot_be_used_is_refused(device):
    assert refused(device=device).startswith(f"device {device}: cannot be used here")


def test_devices_may_be_names_or_objects():
    check_settings([16, 16, 16], "cpu")
    check_settings([16, 16, 16], torch.device("cpu"))


@pytest.mark.parametrize("workflow", RECIPES)
def test_every_scalar_of_a_workflow_that_has_a_rule_is_checked(workflow):
    folder = Path(recipes.__path__[0])
    texts = [(folder / f"{name}.yaml").read_text(encoding="utf-8") for name in RECIPES[workflow]]
    config = {k: v for text in texts for k, v in yaml.safe_load(text).items()}
    checked = set(config["settings"]) - {"_target_"}
    assert checked == {name for name in config if name in RULES and name != "pretrained"} | (  # needed by finetune only
        {"batch_size", "spacing", "mirror_axes", "batch_dice"} & checked
    ) | {"patch_size", "device"}
    places = {"patch_size": "patch", "epochs": "train::trainer::max_epochs"}  # with its context; as MONAI Label sets it
    places |= {name: f"displayable_configs::{name}" for name in config.get("displayable_configs", ())}
    if "windows" in config:
        places["overlap"] = "windows::overlap"
        assert config["windows"]["overlap"] in ("@overlap", "@displayable_configs::overlap")
    for name in checked:
        assert config["settings"][name] == f"@{places.get(name, name)}"


def test_a_batch_that_no_network_can_be_trained_with_here_is_refused():
    with pytest.raises(InputError, match=r"batch_size 99999999 and patch_size \[16, 16, 16\]: .* GiB of memory"):
        check_settings([16, 16, 16], "cpu", batch_size=99999999)
    check_settings([48, 64, 48], "cpu", batch_size=2)


def test_recomputed_blocks_and_the_context_count_in_the_memory(monkeypatch):
    """A patch that fits only if its blocks are recomputed is refused only if they are not."""
    plain, recomputed = (training_memory("v2_tiny", [96] * 3, 2, checkpointing=c) for c in ([], [True] * LEVELS))
    assert recomputed < 0.95 * plain
    monkeypatch.setattr(settings, "machine_memory", lambda: (plain + recomputed) / 2)
    for mode in ("auto", True):
        check_settings([96] * 3, "cpu", batch_size=2, checkpointing=mode, context=1.5)
    for mode in (False, None):
        with pytest.raises(InputError, match=r"patch_size \[96, 96, 96\] \(with context 1.5\): a training step needs"):
            check_settings(
                [96] * 3, "cpu", batch_size=2, context=1.5, **({} if mode is None else {"checkpointing": mode})
            )


@pytest.mark.parametrize(("epochs", "new", "words"), [(2, 2, "2 epochs"), (1, 5, "1 epoch,")])
def test_a_training_of_new_layers_alone_is_refused(epochs, new, words):
    message = refused(epochs=epochs, warmup_new_layers=new)
    assert message.startswith(f"warmup_new_layers {new}: the training has {words}")
    assert "only the new layers would ever be trained; give fewer, or more --epochs" in message
    check_settings([16, 16, 16], "cpu", epochs=new + 1, warmup_new_layers=new)


def test_a_spacing_has_a_number_for_each_axis():
    check_settings([16, 16], "cpu", spacing=[1, 1])
    for patch, spacing in (([16, 16, 16], [1.0, 1.0]), ([16, 16], [1.0, 1.0, 2.0])):
        words = f"spacing {spacing}: should have {len(patch)} numbers, one for each axis of patch_size {patch}"
        assert refused(patch, spacing=spacing) == words
