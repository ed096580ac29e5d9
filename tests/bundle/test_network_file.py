"""Mistakes in a user's own network file, each of which ends with one message."""

import pytest
import yaml
from bundle_helpers import HIPPOCAMPUS
from verb_helpers import call_verb

from mednextv2.bundle.network_file import check_parts
from mednextv2.bundle.run import read_workflow, workflow_files
from mednextv2.errors import InputError

INNER = {
    "_target_": "monai.networks.nets.BasicUNet", "_mode_": "callable", "spatial_dims": "$len(@patch)",
    "out_channels": "$@scheme.outputs", "in_channels": "$len(@channels)",
}  # fmt: skip
ADAPTED = {
    "_target_": "mednextv2.nets.AdaptedNetwork", "name": "@network_name", "patch_size": "@patch",
    "network": "@network_inner",
}  # fmt: skip
GOOD = {
    "network_name": "mine", "network_filters": 4, "network_settings": {"network_filters": "@network_filters"},
    "network_def": ADAPTED, "network_inner": INNER,
}  # fmt: skip


def write(folder, inner=None, network=None, **more):
    file = folder / "mine.yaml"
    content = {**GOOD, "network_def": {**ADAPTED, **(network or {})}, "network_inner": {**INNER, **(inner or {})}}
    file.write_text(yaml.safe_dump({**content, **more}))
    return file


def check(file, workflow="train"):
    config = read_workflow(workflow_files(HIPPOCAMPUS, workflow, file)).config
    check_parts(file, yaml.safe_load(file.read_text()), config, f"{workflow}.yaml")


@pytest.mark.parametrize("workflow", ["train", "evaluate", "inference"])
def test_a_file_without_mistakes_passes(workflow, tmp_path):
    unused = {"_target_": "package.that.is.missing", "optimizer": "@nothing"}  # no part of the network
    check(write(tmp_path, other=unused, learning_rate="$2 * @weight_decay"), workflow)
    check(write(tmp_path, {"_target_": "BasicUNet"}), workflow)
    check(write(tmp_path, {"_target_": "$monai.networks.nets.Anything"}), workflow)
    check(write(tmp_path, {"features": "$@::spatial_dims * @network_inner::dropout", "dropout": 1}), workflow)


@pytest.mark.parametrize(
    ("inner", "network", "words"),
    [
        (
            {"_target_": "monai.networks.nets.SegResnet"}, {},
            "network_inner: monai.networks.nets.SegResnet does not exist, as monai.networks.nets has no SegResnet (did "
            "you mean SegResNet",
        ),
        ({"_target_": "SwinUNETRR"}, {}, "SwinUNETRR does not exist, as MONAI has no such class (did you mean SwinUN"),
        ({"_target_": "my_package.Net"}, {}, "as there is no module my_package here; install it, or add its folder to"),
        ({"_target_": "monai.networks.nets"}, {}, "monai.networks.nets is a module; give a class or function in it"),
        ({"_target_": 3}, {}, "network_inner: _target_ 3 should be the name of a class or function"),
        (
            {"feature": 4}, {},
            "network_inner: monai.networks.nets.BasicUNet takes no feature (did you mean features?); it takes "
            "spatial_dims, in_channels, out_channels, features",
        ),
        ({}, {"multiple": 4}, "network_def: mednextv2.nets.AdaptedNetwork takes no multiple (did you mean multiples?)"),
        ({"_target_": "SegResNet", "_mode_": "default", "zzz": 1}, {}, "SegResNet takes no zzz; it takes spatial_dims"),
        ({"_target_": "torch.nn.Conv3d", "_mode_": "default", "spatial_dims": 3}, {}, "takes no spatial_dims"),
        ({}, {"name": "@network_nam"}, "refers to @network_nam, which does not exist (did you mean @network_name"),
        ({"in_channels": "$len(@chanels)"}, {}, "there are @patch, @channels, @scheme, @spacing, @network_name, @netw"),
        ({"features": ["@network_filters::3"]}, {}, "network_inner::features::0: refers to @network_filters::3"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_named_with_what_does(inner, network, words, tmp_path):
    file = write(tmp_path, inner, network)
    with pytest.raises(InputError) as caught:
        check(file)
    assert words in str(caught.value)
    assert all(line.startswith(f"{file}: network_") for line in str(caught.value).splitlines())


def test_a_keyword_that_is_needed_is_named(tmp_path):
    file = tmp_path / "mine.yaml"
    network = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3}
    file.write_text(yaml.safe_dump({"network_name": "mine", "network_def": network}))
    with pytest.raises(InputError, match=r"torch\.nn\.Conv3d needs kernel_size; give it"):
        check(file)


def test_a_module_that_fails_when_it_is_imported_is_told(tmp_path, monkeypatch):
    (tmp_path / "mine_broken.py").write_text("import package_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"mine_broken\.Net cannot be imported \(No module named 'package_that"):
        check(write(tmp_path, {"_target_": "mine_broken.Net"}))


def run(workflow, file, folder, *more):
    options = ["--network", file, "--output_dir", folder / "out", "--dataset_dir", folder]
    return call_verb("run", HIPPOCAMPUS, workflow, *options, *more)


@pytest.mark.parametrize("workflow", ["train", "evaluate"])
def test_the_command_line_ends_with_one_message_and_status_1(workflow, tmp_path):
    file = write(tmp_path, {"_target_": "monai.networks.nets.SegResnet"})
    code, _, err = run(workflow, file, tmp_path)
    assert code == 1
    assert "Traceback" not in err
    assert f"error: {file}: network_inner: monai.networks.nets.SegResnet does not exist" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("inner", "more", "words"),
    [
        ({"features": [1, 2]}, {}, "network_def cannot be built (ValueError: Sequence must have length 6"),
        (
            {"features": "$nothing"},
            {},
            "network_inner::features cannot be built (NameError: name 'nothing' is",
        ),
        ({}, {"network_filters": "$1 / 0"}, "network_filters cannot be built (ZeroDivisionError: division by zero)"),
        ({}, {"network_filters": "@network_settings"}, "cannot be built (ValueError: detected circular references"),
    ],
)
def test_what_only_fails_when_it_is_built_names_the_file_and_the_part(inner, more, words, tmp_path):
    if more:
        inner = {**inner, "features": "$[@network_filters] * 6"}
    file = write(tmp_path, inner, **more)
    code, _, err = run("train", file, tmp_path)
    assert (code, "Traceback" in err) == (1, False), err
    assert f"error: {file}: " in err
    assert words in err
