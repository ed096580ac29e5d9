import hashlib

import pytest
from comparison_helpers import network_file

from mednextv2.comparison.entries import choose_entries
from mednextv2.errors import InputError, UsageError


def test_sizes_of_mednext_networks_of_the_package_and_files(tmp_path):
    file = network_file(tmp_path, "mini")
    entries = choose_entries(f"v2_tiny, segresnet,{file}")
    assert [(e.network, e.name, e.folder) for e in entries] == [(n, n, n) for n in ("v2_tiny", "segresnet", "mini")]
    assert [e.settings for e in entries] == [{"variant": "v2_tiny"}, {"network": "segresnet"}, {"network": str(file)}]
    assert entries[2].files == {"network": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_a_network_with_weights_is_compared_twice(tmp_path):
    weights = tmp_path / "a,b.pt"
    weights.write_bytes(b"weights")
    other = tmp_path / "c.pt"
    other.write_bytes(b"others")
    entries = choose_entries("v2_tiny,v1_s", f"v2_tiny={weights},v1_s={other}")
    assert [e.name for e in entries] == ["v2_tiny", "v2_tiny, fine-tuned", "v1_s", "v1_s, fine-tuned"]
    assert len({e.folder for e in entries}) == 4
    assert [e.pretrained for e in entries] == [None, str(weights), None, str(other)]
    assert entries[1].files["pretrained"] == hashlib.sha256(b"weights").hexdigest()


def test_every_network_is_compared_from_scratch_and_from_each_named_file(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.pt").write_bytes(name.encode())
    mae, ct, own = (str(tmp_path / f"{name}.pt") for name in ("a", "b", "c"))
    entries = choose_entries("v2_tiny,v1_s", f"v1_s={own}", f"mae={mae},ct-41={ct}")
    assert [e.name for e in entries] == [
        "v2_tiny", "v2_tiny, from mae", "v2_tiny, from ct-41",
        "v1_s", "v1_s, fine-tuned", "v1_s, from mae", "v1_s, from ct-41",
    ]  # fmt: skip
    assert [e.folder for e in entries] == [
        "v2_tiny", "v2_tiny-from-mae", "v2_tiny-from-ct-41",
        "v1_s", "v1_s-finetuned", "v1_s-from-mae", "v1_s-from-ct-41",
    ]  # fmt: skip
    assert [e.pretrained for e in entries] == [None, mae, ct, None, own, mae, ct]
    assert [e.workflow for e in entries[:2]] == ["train", "finetune"]
    assert [e.option for e in entries[4:6]] == ["--pretrained v1_s", "--initial mae"]
    assert entries[2].files == {"pretrained": hashlib.sha256(b"b").hexdigest()}
    assert [e.settings for e in entries[:3]] == [{"variant": "v2_tiny"}] * 3


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ("model.pt", "--initial model.pt: should be a name and a file of weights, such as mae=model.pt"),
        ("a=FILE,a=FILE", "--initial a: is given twice"),
        ("scratch=FILE", "--initial scratch: should be a name of your own"),
        ("a/b=FILE", "--initial a/b: should be a name of your own"),
    ],
)
def test_names_of_weights_that_cannot_be_are_refused(initial, message, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(UsageError) as refused:
        choose_entries("v1_s", None, initial.replace("FILE", str(tmp_path / "model.pt")))
    assert message in str(refused.value)


def test_named_weights_that_are_missing_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"--initial .*none\.pt: there is no such file; give a model\.pt$"):
        choose_entries("v1_s", initial=f"mae={tmp_path / 'none.pt'}")


@pytest.mark.parametrize(
    ("networks", "pretrained", "message"),
    [
        ("v2_tinny", None, "there is no network v2_tinny; did you mean v2_tiny"),
        ("segresnt,v1_s", None, "did you mean segresnet"),
        ("zzz", None, "there is no network zzz. Give some of v1_s"),
        ("", None, "give the names of the networks"),
        ("v1_s,v1_s", None, "v1_s is named twice"),
        ("v1_s", "v1_b=FILE", "--pretrained v1_b: is none of the networks that are compared"),
        ("v1_s", "FILE", "should be the network and its weights"),
        (
            "v1_s",
            "v1_s=FILE,v1_s=FILE",
            "v1_s: is given twice; several files for one network are given as --initial NAME=FILE",
        ),
        ("./nothing.yaml", None, "there is no such file"),
    ],
)
def test_what_is_no_network_is_refused_at_once(networks, pretrained, message, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    given = pretrained and pretrained.replace("FILE", str(tmp_path / "model.pt"))
    with pytest.raises(UsageError) as refused:
        choose_entries(networks, given)
    assert message in str(refused.value)


def test_weights_that_are_missing_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no such file; give a model\.pt of the network v1_s"):
        choose_entries("v1_s", f"v1_s={tmp_path / 'none.pt'}")


def test_a_file_with_the_name_of_another_network_is_refused(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("network_name: v1_s\nnetwork_def: {_target_: torch.nn.Identity}\n")
    with pytest.raises(InputError, match="network_name v1_s is the name of another network"):
        choose_entries(str(file))
