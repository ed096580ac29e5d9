"""Overlays of networks, and what is taken from the record of weights."""

import pytest
import torch
import yaml

from mednextv2.bundle.networks import find_network, network_names, recorded_network
from mednextv2.errors import InputError, UsageError
from mednextv2.nets import VARIANTS
from mednextv2.weights.files import save_file

OWN = {"network_name": "mine", "network_def": {"_target_": "torch.nn.Identity"}}


def test_every_network_of_the_package_is_found_by_its_name():
    names = network_names()
    assert {"resenc_l", "swin_unetr", *(f"mednext_{variant}" for variant in VARIANTS)} <= {*names}
    for name in names:
        content = yaml.safe_load(find_network(name).read_text(encoding="utf-8"))
        assert content["network_name"] == name
        others = {key for key in content if not key.startswith("network_")}
        assert others <= {"variant", "cuda_graph", "learning_rate", "weight_decay", "warmup_epochs"}
        assert find_network(name).read_bytes().isascii()


def test_a_network_of_ones_own_is_found_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(OWN))
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "mine.yaml", "mine.yaml", "./mine.yaml"):
        assert find_network(path) == tmp_path / "mine.yaml"


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("resenc", "did you mean resenc_l?"),
        ("zzz", "Give one of dynunet, mednext_v1_b"),
        ("none.yaml", "there is no such file"),
        ("./resenc_l", "there is no such file"),
        ("../networks/resenc_l", "there is no such file"),
    ],
)
def test_a_network_that_is_not_there_is_refused(network, words):
    with pytest.raises(UsageError, match=rf"--network {network}: there is no such") as caught:
        find_network(network)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("", "is empty; it needs network_name and network_def"),
        ("- a", "holds a list, where settings by name are expected"),
        ("3", "holds only 3, where settings by name are expected"),
        ("a: [", "is not valid YAML"),
        ("1: x", "its key 1 should be a name"),
        ("network_def: 1", "network_name is missing, a name that no other network has"),
        ("network_nam: x", "network_name is missing, a name that no other network has; is network_nam meant to be it?"),
        ("network_name: mine", "network_def is missing, the network"),
        ("{network_name: 3, network_def: 1}", "network_name 3 should be a name of letters"),
        ("{network_name: a/b, network_def: 1}", "network_name 'a/b' should be a name of letters"),
        ("{network_name: fold_1, network_def: 1}", "network_name 'fold_1' should be a name of letters"),
        ("{network_name: resenc_l, network_def: 1}", "network_name resenc_l is the name of a network of the package"),
        ("{network_name: mednext, network_def: 1}", "network_name mednext is the name of the bundle's own network"),
        ("{network_name: mine, network_def: 1}", "network_def is 1; it should name a class or function"),
        ("{network_name: mine, network_def: {a: 1}}", "network_def has no _target_; it should name a class"),
        ("{network_name: mine, network_def: $x, network_settings: 3}", "network_settings 3 should be settings by name"),
    ],
)
def test_each_mistake_in_a_file_has_a_message_of_its_own(wrong, words, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(wrong)
    with pytest.raises(InputError) as caught:
        find_network(file)
    assert not isinstance(caught.value, UsageError)
    assert str(caught.value).startswith(f"{file}: {words}")


def test_a_folder_is_no_network(tmp_path):
    (tmp_path / "mine.yaml").write_text("{}")
    with pytest.raises(UsageError, match=r"is a folder; give the file of a network; it holds mine\.yaml"):
        find_network(tmp_path)


def weights(folder, name, network, settings):
    save_file({"x": torch.zeros(1)}, folder / name, {"network": network, "settings": settings})
    return folder / name


def test_weights_tell_their_network_and_settings(tmp_path):
    settings = {"patch_size": [16, 16], "network_filters": 4, "variant": "v2_tiny", "context": 1.5, "kernel_size": 3}
    first = weights(tmp_path, "a.pt", "resenc_l", settings)
    assert recorded_network([first]) == ("resenc_l", settings)
    second = weights(tmp_path, "b.pt", "resenc_l", {**settings, "patch_size": [32, 32]})
    both = {key: value for key, value in settings.items() if key != "patch_size"}
    assert recorded_network([first, second]) == ("resenc_l", both)
    third = weights(tmp_path, "c.pt", "unetr", settings)
    with pytest.raises(UsageError, match="the files are of different networks"):
        recorded_network([first, third])
    fourth = weights(tmp_path, "d.pt", "resenc_l", {**settings, "spacing": [1.0, 1.0]})
    assert recorded_network([fourth])[1]["spacing"] == [1.0, 1.0]
    fifth = weights(tmp_path, "e.pt", "resenc_l", {**settings, "spacing": [1.0, 2.0]})
    with pytest.raises(UsageError, match=r"different spacings in mm \(\[1.0, 1.0\], \[1.0, 2.0\]\); give those of one"):
        recorded_network([fourth, fifth])
    save_file({"x": torch.zeros(1)}, tmp_path / "old.pt", {"fold": 1})
    assert recorded_network([tmp_path / "old.pt", tmp_path / "none.pt"]) == recorded_network([]) == (None, {})


@pytest.mark.parametrize(
    "settings",
    [
        {"variant": "$__import__('os').system('true')"},
        {"variant": "@network_def"},
        {"network_filters": {"_target_": "os.system"}},
        {"network_def": 3, "network_name": "x", "network_settings": 1},
        {"patch_size": [[1]], "context": None},
        {"bundle_root": "x", "run": [1], "output_dir": "y"},
        {"patch_size": ["$x"]},
        [1],
        "text",
    ],
)
def test_nothing_that_could_run_is_taken_from_a_file(settings, tmp_path):
    assert recorded_network([weights(tmp_path, "a.pt", "resenc_l", settings)]) == ("resenc_l", {})
