"""The start of a training from the weights of another one."""

import pytest
import torch
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets import MedNeXt, create_mednext
from mednextv2.weights.adaptation import enlarge_kernel
from mednextv2.weights.files import digest_file, save_file
from mednextv2.weights.pretrained import load_pretrained


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
        load_pretrained(network, path, **kwargs)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}], ids=["model.pt", "checkpoint"])
def test_the_same_network_takes_everything(wrap, tmp_path):
    source, target = tiny(), tiny()
    save_file(wrap(source.state_dict()), tmp_path / "model.pt")
    found = load_pretrained(target, tmp_path / "model.pt", 1, 3)
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in source.state_dict().items())
    assert (found.adapted, found.new, found.unused) == ({}, {}, {})
    total = sum(p.numel() for p in source.parameters())
    assert found.parameters == (total, total)


def test_heads_of_other_classes_are_new_and_all_else_is_loaded(tmp_path):
    source, target = tiny(), tiny(out_channels=5)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    found = load_pretrained(target, saved(source, tmp_path), 1, 5)
    assert [*found.new] == [name for name in before if name.startswith("heads.")]
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, (before if name.startswith("heads.") else source.state_dict())[name]), name
    headline, line = found.describe().splitlines()
    assert headline.startswith(
        f"pretrained {tmp_path / 'model.pt'}: {len(before) - 10} of {len(before)} tensors loaded"
    )
    assert line.strip() == (
        "newly initialised: heads.0.weight, heads.0.bias, heads.1.weight and 7 others (another number of outputs)"
    )


def test_heads_for_other_labels_are_new_even_if_their_number_is_the_same(tmp_path):
    source, target = tiny(), tiny()
    path = saved(source, tmp_path, {"labels": ["background", "liver", "tumour"]})
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    found = load_pretrained(target, path, 1, 3, ["background", "spleen", "vein"])
    assert [*found.new] == [name for name in before if name.startswith("heads.")]
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, (before if name.startswith("heads.") else source.state_dict())[name]), name
    assert found.describe().endswith(
        "newly initialised: heads.0.weight, heads.0.bias, heads.1.weight and 7 others (the weights are for the labels "
        "[background, liver, tumour], but the labels here are [background, spleen, vein])"
    )
    found = load_pretrained(target, path, 1, 3, ["background", "Liver", "tumour"])
    assert (found.new, found.remarks) == ({}, [])


def test_the_last_layer_of_other_networks_is_new_for_other_labels(tmp_path):
    path = saved(Foreign(1, 3), tmp_path, {"labels": ["background", "liver", "tumour"]})
    assert load_pretrained(Foreign(1, 3), path, 1, 3, ["background", "a", "b"]).new.keys() == {"out.weight", "out.bias"}
    network = nn.Sequential(nn.Conv3d(1, 8, 3), nn.Conv3d(8, 3, 3))  # whose last layer could be any layer
    path = saved(network, tmp_path, {"labels": ["background", "liver", "tumour"]})
    found = load_pretrained(network, path, 1, 3, ["background", "a", "b"])
    assert found.new == {}
    assert "but the last layer is not known" in found.describe()


@pytest.mark.parametrize(("theirs", "ours"), [(True, False), (False, True)])
def test_deep_supervision_may_be_on_in_one_and_off_in_the_other(theirs, ours, tmp_path):
    source, target = tiny(deep_supervision=theirs), tiny(deep_supervision=ours)
    found = load_pretrained(target, saved(source, tmp_path), 1, 3)
    deeper = [
        name for name in (source if theirs else target).state_dict() if name.startswith("heads.") and name[6] > "0"
    ]
    assert ([*found.unused], [*found.new]) == ((deeper, []) if theirs else ([], deeper))


@pytest.mark.parametrize(("theirs", "ours"), [(1, 3), (2, 3), (4, 1), (3, 2)])
def test_images_whose_channels_are_alike_give_the_same_with_another_number_of_channels(theirs, ours, tmp_path):
    source, target = tiny(in_channels=theirs), tiny(in_channels=ours)
    found = load_pretrained(target, saved(source, tmp_path), ours, 3)
    assert list(found.adapted) == ["stem.weight"]
    assert found.adapted["stem.weight"].endswith(f"to {ours}")
    assert "adapted: stem.weight (from " in found.describe()
    x = torch.randn(1, 1, 16, 32)
    with torch.no_grad():
        expected, actual = source.eval()(x.expand(-1, theirs, -1, -1)), target.eval()(x.expand(-1, ours, -1, -1))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_kernels_are_enlarged_as_by_the_authors(dims, tmp_path):
    """UpKern: all else is copied. What an enlarged kernel is, `test_adaptation.py` computes in another way."""
    source, target = tiny(spatial_dims=dims), tiny(spatial_dims=dims, kernel_size=5)
    found = load_pretrained(target, saved(source, tmp_path), 1, 3)
    assert found.adapted
    assert all(name.endswith("depthwise.weight") for name in found.adapted)
    assert set(found.adapted.values()) == {"kernels enlarged from 3 to 5 voxels"}
    for name, tensor in target.state_dict().items():
        theirs = source.state_dict()[name]
        expected = enlarge_kernel(theirs, (5,) * dims) if name.endswith("depthwise.weight") else theirs
        assert torch.equal(tensor, expected), name
    assert "kernel_size" in refused(tiny(spatial_dims=dims), saved(target, tmp_path), in_channels=1, out_channels=3)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"init_filters": 8}, "filters at full resolution"),
        ({"blocks_down": 2}, "differ in depth"),
        ({"encoder_expansion_ratio": 3}, "of another shape"),
    ],
)
def test_another_variant_is_refused(other, words, tmp_path):
    path = saved(tiny(**other), tmp_path, {"network": "mednext", "settings": {"variant": "v1_s"}})
    message = refused(tiny(out_channels=5), path, in_channels=1, out_channels=5)
    assert words in message
    assert "trained with --variant v1_s" in message


def test_channels_and_classes_must_fit_if_nothing_is_said_about_them(tmp_path):
    assert "input channel" in refused(tiny(in_channels=2), saved(tiny(), tmp_path))
    found = load_pretrained(tiny(out_channels=4), saved(tiny(), tmp_path))
    assert len(found.new) == 10  # heads are known by their names


def test_less_than_half_of_the_parameters_is_refused(tmp_path):
    source = create_mednext("v2_tiny", out_channels=2, deep_supervision=True)
    target = create_mednext("v2_tiny", out_channels=4000, deep_supervision=True)  # whose heads are most of it
    message = refused(target, saved(source, tmp_path), in_channels=1, out_channels=4000)
    assert "less than half" in message
    assert "--pretrained_partial true" in message
    found = load_pretrained(target, tmp_path / "model.pt", 1, 4000, partial=True)
    assert "less than half of the network was loaded" in found.describe()
    assert found.fraction < 0.5
    assert torch.equal(target.stem.weight, source.stem.weight)


def test_files_that_hold_other_things_are_refused(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "model.pt")
    assert "Not one tensor has a name" in refused(tiny(), tmp_path / "model.pt")
    state = tiny().state_dict()
    state["stem.weight"] = torch.full_like(state["stem.weight"], float("nan"))
    save_file(state, tmp_path / "model.pt")
    assert "NaN" in refused(tiny(), tmp_path / "model.pt")
    save_file({**tiny().state_dict(), "stem.bias": "text"}, tmp_path / "model.pt")
    assert "'text'" in refused(tiny(), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"none\.pt: there is no such"):
        load_pretrained(tiny(), tmp_path / "none.pt")


class Foreign(nn.Module):
    """A network with other names, whose parts are known by their shapes; one of them is there under two names."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.first = nn.Conv3d(channels, 6, 3)
        self.body = nn.Sequential(self.first, nn.Conv3d(6, 6, 3))
        self.out = nn.Conv3d(6, outputs, 1)


def test_networks_of_others_are_known_by_their_shapes(tmp_path):
    found = load_pretrained(Foreign(2, 5), saved(Foreign(1, 3), tmp_path), 2, 5)
    assert sorted(found.adapted) == ["body.0.weight", "first.weight"]
    assert [*found.new] == ["out.weight", "out.bias"]
    whole = sum(p.numel() for p in Foreign(2, 5).parameters())
    assert found.parameters == (whole - 5 * 7, whole)  # shared weights count once


# --- GRN ------------------------------------------------------------------------------------------------------------


def outputs(network):
    x = torch.randn(1, 1, 32, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network.train()(x)


def random_grn(network):
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".grn." in name:
                parameter.normal_()
    return network


def test_v1_becomes_v2_whose_grn_is_the_identity(tmp_path):
    source, target = tiny(global_resp_norm=False), random_grn(tiny())
    found = load_pretrained(target, saved(source, tmp_path), 1, 3)
    grn = [name for name in target.state_dict() if ".grn." in name]
    assert [*found.new] == grn
    assert {*found.new.values()} == {"GRN that starts as the identity"}
    assert not any(target.state_dict()[name].any() for name in grn)
    torch.testing.assert_close(outputs(target), outputs(source), rtol=1e-6, atol=1e-6)


def test_grn_that_a_network_does_not_have_is_refused_unless_it_is_the_identity(tmp_path):
    source, target = tiny(), tiny(global_resp_norm=False)
    found = load_pretrained(target, saved(source, tmp_path), 1, 3)  # as it is before a training
    assert {*found.unused.values()} == {"GRN that is the identity"}
    torch.testing.assert_close(outputs(target), outputs(source), rtol=1e-6, atol=1e-6)
    path = saved(random_grn(source), tmp_path)
    message = refused(tiny(global_resp_norm=False), path, in_channels=1, out_channels=3)
    assert "with GRN (v2), and the network here has none (v1)" in message
    large = random_grn(create_mednext("v2_tiny", out_channels=3))
    smaller = create_mednext("v2_tiny", out_channels=3, global_resp_norm=False)
    assert "such as --variant v2_tiny" in refused(smaller, saved(large, tmp_path), in_channels=1, out_channels=3)
    found = load_pretrained(tiny(global_resp_norm=False), saved(source, tmp_path), 1, 3, partial=True)
    assert all(".grn." in name for name in found.unused)


@pytest.mark.parametrize("how", ["argument", "record", "own"])
def test_the_other_denominator_of_grn_is_converted(how, tmp_path):
    source, target = random_grn(tiny(grn_denominator="sum")).double(), tiny().double()
    recorded = {"settings": {"network_grn_denominator": "sum"}} if how == "record" else None
    given = {"grn_denominator": "sum"} if how == "argument" else {}
    path = saved(source, tmp_path, recorded)
    if how == "own":  # nothing says that it is a sum, and nothing is converted for a network like the file's
        assert load_pretrained(tiny(grn_denominator="mean").double(), path, 1, 3).adapted == {}
        return
    found = load_pretrained(target, path, 1, 3, **given)
    assert {*found.adapted.values()} == {"GRN of the sum over channels as that of the mean"}
    x = torch.randn(1, 1, 32, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(target.eval()(x), source.eval()(x), rtol=1e-4, atol=1e-5)
    same = tiny(grn_denominator="sum").double()
    assert load_pretrained(same, path, 1, 3, **given).adapted == {}


# --- what is asked for ----------------------------------------------------------------------------------------------


def test_whatever_fits_is_loaded_if_asked_for(tmp_path):
    """A deeper network takes the blocks that the file has, and a smaller kernel is left random."""
    path = saved(tiny(kernel_size=5), tmp_path)
    target = tiny(blocks_down=2, kernel_size=3, bottleneck_expansion_ratio=3)
    assert "To load what fits all the same, give --pretrained_partial true" in refused(target, path)
    found = load_pretrained(target, path, partial=True)
    assert found.new["encoder.0.1.expand.weight"] == "not in the file"
    assert found.new["encoder.0.0.depthwise.weight"] == "(4, 1, 5, 5) in the file, (4, 1, 3, 3) in the network"
    assert "bottleneck.0.norm.weight" in found.loaded
    assert "the networks differ, and what does not fit was left out" in found.describe()
    shallow = tiny()
    found = load_pretrained(shallow, saved(tiny(blocks_down=2), tmp_path), partial=True)
    assert found.new == {}
    assert found.unused["encoder.0.1.expand.weight"] == "not in the network"


def test_if_nothing_fits_it_is_an_error_even_if_asked_for(tmp_path):
    path = saved(nn.Conv3d(1, 3, 1), tmp_path)
    assert "another network" in refused(nn.Conv3d(2, 4, 3), path, partial=True)


def test_half_precision_becomes_that_of_the_network(tmp_path):
    source, target = tiny(), tiny()
    save_file({name: tensor.half() for name, tensor in source.state_dict().items()}, tmp_path / "model.pt")
    found = load_pretrained(target, tmp_path / "model.pt", 1, 3)
    assert {*found.adapted.values()} == {"from float16"}
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name].half().float())


def test_a_wrong_checksum_is_told_before_the_file_is_read(tmp_path):
    path = saved(tiny(), tmp_path)
    load_pretrained(tiny(), path, sha256=digest_file(path))
    assert "download the file again" in refused(tiny(), path, sha256="0" * 64)
