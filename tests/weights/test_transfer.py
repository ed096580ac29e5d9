"""The start of a training from the weights of another one."""

import pytest
import torch
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets import MedNeXt, create_mednext
from mednextv2.weights import transfer
from mednextv2.weights.files import save_file
from mednextv2.weights.transfer import adapt_channels, enlarge_kernel, transfer_weights


def tiny(**kwargs):
    settings = {"spatial_dims": 2, "out_channels": 3, "init_filters": 4, "blocks_down": 1, "blocks_up": 1}
    return MedNeXt(**{"blocks_bottleneck": 1, "deep_supervision": True, **settings, **kwargs})


def saved(network, folder, about=None):
    save_file(network.state_dict(), folder / "model.pt", about)
    return folder / "model.pt"


def refused(network, path, **kwargs):
    """Return the message of a refusal, after which the network is as it was."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        transfer_weights(network, path, **kwargs)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}], ids=["model.pt", "checkpoint"])
def test_the_same_network_takes_everything(wrap, tmp_path):
    source, target = tiny(), tiny()
    save_file(wrap(source.state_dict()), tmp_path / "model.pt")
    found = transfer_weights(target, tmp_path / "model.pt", 1, 3)
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in source.state_dict().items())
    assert (found.adapted, found.new, found.unused) == ({}, [], [])
    total = sum(p.numel() for p in source.parameters())
    assert found.parameters == (total, total)


def test_heads_of_other_classes_are_new_and_all_else_is_loaded(tmp_path):
    source, target = tiny(), tiny(out_channels=5)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    found = transfer_weights(target, saved(source, tmp_path), 1, 5)
    assert found.new == [name for name in before if name.startswith("heads.")]
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, (before if name.startswith("heads.") else source.state_dict())[name]), name
    line = found.describe()
    assert line.startswith(f"pretrained {tmp_path / 'model.pt'}: {len(before) - 10} of {len(before)} tensors loaded (")
    assert line.endswith("newly initialised: heads.0.weight, heads.0.bias, heads.1.weight and 7 others")


def test_heads_for_other_labels_are_new_even_if_their_number_is_the_same(tmp_path):
    source, target = tiny(), tiny()
    path = saved(source, tmp_path, {"labels": ["background", "liver", "tumour"]})
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    found = transfer_weights(target, path, 1, 3, ["background", "spleen", "vein"])
    assert found.new == [name for name in before if name.startswith("heads.")]
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, (before if name.startswith("heads.") else source.state_dict())[name]), name
    assert found.describe().endswith(
        "newly initialised: heads.0.weight, heads.0.bias, heads.1.weight and 7 others, since the weights are for the "
        "labels [background, liver, tumour], but the labels here are [background, spleen, vein]"
    )
    found = transfer_weights(target, path, 1, 3, ["background", "Liver", "tumour"])
    assert (found.new, found.remark) == ([], "")


def test_the_last_layer_of_other_networks_is_new_for_other_labels(tmp_path):
    path = saved(Foreign(1, 3), tmp_path, {"labels": ["background", "liver", "tumour"]})
    assert transfer_weights(Foreign(1, 3), path, 1, 3, ["background", "a", "b"]).new == ["out.weight", "out.bias"]
    network = nn.Sequential(nn.Conv3d(1, 8, 3), nn.Conv3d(8, 3, 3))  # whose last layer could be any layer
    path = saved(network, tmp_path, {"labels": ["background", "liver", "tumour"]})
    found = transfer_weights(network, path, 1, 3, ["background", "a", "b"])
    assert found.new == []
    assert "but the last layer is not known" in found.describe()


@pytest.mark.parametrize(("theirs", "ours"), [(True, False), (False, True)])
def test_deep_supervision_may_be_on_in_one_and_off_in_the_other(theirs, ours, tmp_path):
    source, target = tiny(deep_supervision=theirs), tiny(deep_supervision=ours)
    found = transfer_weights(target, saved(source, tmp_path), 1, 3)
    deeper = [
        name for name in (source if theirs else target).state_dict() if name.startswith("heads.") and name[6] > "0"
    ]
    assert (found.unused, found.new) == ((deeper, []) if theirs else ([], deeper))


@pytest.mark.parametrize(("theirs", "ours"), [(1, 3), (2, 3), (4, 1), (3, 2)])
def test_images_whose_channels_are_alike_give_the_same_with_another_number_of_channels(theirs, ours, tmp_path):
    source, target = tiny(in_channels=theirs), tiny(in_channels=ours)
    found = transfer_weights(target, saved(source, tmp_path), ours, 3)
    assert list(found.adapted) == ["stem.weight"]
    assert found.adapted["stem.weight"].endswith(f"to {ours}")
    assert "adapted: stem.weight (from " in found.describe()
    x = torch.randn(1, 1, 16, 32)
    with torch.no_grad():
        expected, actual = source.eval()(x.expand(-1, theirs, -1, -1)), target.eval()(x.expand(-1, ours, -1, -1))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_every_channel_of_the_file_is_used_alike():
    weight = torch.randn(4, 2, 3, 3)
    adapted = adapt_channels(weight, 5)
    torch.testing.assert_close(adapted.sum(1), weight.sum(1))
    torch.testing.assert_close(adapted[:, 0::2].sum(1), weight[:, 0])
    torch.testing.assert_close(adapted[:, 1::2].sum(1), weight[:, 1])


@pytest.mark.parametrize("dims", [2, 3])
def test_kernels_are_enlarged_as_by_the_authors(dims, tmp_path):
    """UpKern is a linear interpolation that does not align corners: a constant stays, and 3 to 5 is exact by hand."""
    weight = torch.zeros(1, 1, *[3] * dims)
    weight[(0, 0, *[slice(None)] * (dims - 1), 1)] = 1.0  # a line in the middle of the last axis
    enlarged = enlarge_kernel(weight, (5,) * dims)
    middle = enlarged[(0, 0, *[2] * (dims - 1))]
    torch.testing.assert_close(middle, torch.tensor([0.0, 0.4, 1.0, 0.4, 0.0]), rtol=0, atol=1e-6)
    source, target = tiny(spatial_dims=dims), tiny(spatial_dims=dims, kernel_size=5)
    found = transfer_weights(target, saved(source, tmp_path), 1, 3)
    assert found.adapted
    assert all(name.endswith("depthwise.weight") for name in found.adapted)
    assert set(found.adapted.values()) == {"kernels enlarged from 3 to 5 voxels"}
    assert "kernel size" in refused(tiny(spatial_dims=dims), saved(target, tmp_path), in_channels=1, out_channels=3)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"init_filters": 8}, "filters at full resolution"),
        ({"blocks_down": 2}, "differ in depth"),
        ({"global_resp_norm": False}, "v1"),
        ({"encoder_expansion_ratio": 3}, "of another shape"),
    ],
)
def test_another_variant_is_refused(other, words, tmp_path):
    path = saved(tiny(**other), tmp_path, {"network": "mednext", "settings": {"variant": "v1_s"}})
    message = refused(tiny(out_channels=5), path, in_channels=1, out_channels=5)
    assert words in message
    assert "trained with --variant v1_s" in message


def test_channels_and_classes_must_fit_if_nothing_is_said_about_them(tmp_path):
    assert "input channels" in refused(tiny(in_channels=2), saved(tiny(), tmp_path))
    found = transfer_weights(tiny(out_channels=4), saved(tiny(), tmp_path))
    assert len(found.new) == 10  # heads are known by their names


def test_less_than_half_of_the_parameters_is_refused(tmp_path):
    source = create_mednext("v2_tiny", out_channels=2, deep_supervision=True)
    target = create_mednext("v2_tiny", out_channels=4000, deep_supervision=True)  # whose heads are most of it
    message = refused(target, saved(source, tmp_path), in_channels=1, out_channels=4000)
    assert "less than half" in message


def test_files_that_hold_other_things_are_refused(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "model.pt")
    assert "not one tensor has a name" in refused(tiny(), tmp_path / "model.pt")
    state = tiny().state_dict()
    state["stem.weight"] = torch.full_like(state["stem.weight"], float("nan"))
    save_file(state, tmp_path / "model.pt")
    assert "NaN" in refused(tiny(), tmp_path / "model.pt")
    save_file({**tiny().state_dict(), "stem.bias": "text"}, tmp_path / "model.pt")
    assert "'text'" in refused(tiny(), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"none\.pt: there is no such"):
        transfer_weights(tiny(), tmp_path / "none.pt")


class Foreign(nn.Module):
    """A network with other names, whose parts are known by their shapes; one of them is there under two names."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.first = nn.Conv3d(channels, 6, 3)
        self.body = nn.Sequential(self.first, nn.Conv3d(6, 6, 3))
        self.out = nn.Conv3d(6, outputs, 1)


def test_networks_of_others_are_known_by_their_shapes(tmp_path):
    found = transfer_weights(Foreign(2, 5), saved(Foreign(1, 3), tmp_path), 2, 5)
    assert sorted(found.adapted) == ["body.0.weight", "first.weight"]
    assert found.new == ["out.weight", "out.bias"]
    whole = sum(p.numel() for p in Foreign(2, 5).parameters())
    assert found.parameters == (whole - 5 * 7, whole)  # shared weights count once


def test_a_reader_of_other_files_can_be_added(tmp_path, monkeypatch):
    source = tiny()
    save_file({"theirs": {f"net/{k}": v for k, v in source.state_dict().items()}}, tmp_path / "model.pt")

    def read(content, network):
        return {k[4:]: v for k, v in content["theirs"].items()} if "theirs" in content else None

    monkeypatch.setattr(transfer, "READERS", [*transfer.READERS, read])
    target = tiny()
    transfer_weights(target, tmp_path / "model.pt", 1, 3)
    assert torch.equal(target.stem.weight, source.stem.weight)
