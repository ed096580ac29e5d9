"""Weights of every format into every kind of network: they compute the same, or a report or an error says why not."""

import os
from pathlib import Path

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.networks.nets import MedNeXt as MonaiMedNeXt
from monai.networks.nets import UNet
from official_helpers import as_the_authors_save_it
from official_helpers import tiny as official
from pretrained_helpers import (
    as_sparse,
    features_of,
    nnssl_checkpoint,
    nnssl_plan,
    nnunet_checkpoint,
    our_plain_unet,
    our_unet,
    randomised,
    their_unet,
)

from mednextv2.errors import InputError
from mednextv2.nets import AdaptedNetwork, MedNeXt
from mednextv2.weights import load_file, load_pretrained
from mednextv2.weights.files import unwrap_state
from mednextv2.weights.foreign import READERS, find_source

SIZE = {"init_filters": 4, "blocks_down": (1,) * 4, "blocks_bottleneck": 1, "blocks_up": (1,) * 4, "kernel_size": 3}
LABELS = ["background", "anterior", "posterior"]
needs_golden = pytest.mark.skipif(
    not os.environ.get("MEDNEXTV2_GOLDEN"), reason="MEDNEXTV2_GOLDEN does not name the folder of golden files"
)


def v1(**settings):
    return MedNeXt(**{**SIZE, "out_channels": 3, "global_resp_norm": False, **settings}).eval()


def v2(**settings):
    return v1(**{"global_resp_norm": True, **settings})


def monai(channels=1, outputs=3, **settings):
    return randomised(
        MonaiMedNeXt(
            3, in_channels=channels, out_channels=outputs, use_residual_connection=True, **{**SIZE, **settings}
        )
    )


def our_monai():
    return AdaptedNetwork("monai_mednext", monai(), (32, 32, 32)).eval()


def authors(grn=False):
    network = official(global_resp_norm=grn, out_channels=3)
    return as_the_authors_save_it(network), network


def multitalent():
    state, network = authors(grn=True)
    content = nnunet_checkpoint(torch.nn.Linear(1, 1), "nnUNetTrainer_MedNeXt_L_GRN", network_weights=state)
    return content, network


def residual(**settings):
    network = their_unet(**{"outputs": 3, **settings})
    return network


#: Some of the names of a transformer that nnssl trains, too.
PRIMUS = {"down_projection.proj.weight": torch.rand(48, 1, 8, 8, 8), "eva.pos_embed": torch.rand(1, 64, 48)}
FILES = {
    "own": lambda: v2().state_dict(),
    "own checkpoint": lambda: {"model": v1().state_dict(), "epoch": 3},
    "official": lambda: authors()[0],
    "nnU-Net v1": lambda: {"state_dict": authors()[0], "epoch": 3, "best_stuff": (1.0, None)},
    "MultiTalent": lambda: multitalent()[0],
    "MONAI": lambda: monai().state_dict(),
    "MONAI B": lambda: monai(encoder_expansion_ratio=(2, 3, 4, 4), bottleneck_expansion_ratio=4).state_dict(),
    "nnssl": lambda: nnssl_checkpoint(their_unet()),
    "nnssl S3D": lambda: nnssl_checkpoint(their_unet(), state=as_sparse(their_unet().state_dict())),
    "nnU-Net ResEnc": lambda: nnunet_checkpoint(residual()),
    "nnU-Net plain": lambda: nnunet_checkpoint(residual(kind=PlainConvUNet)),
    "Primus": lambda: nnssl_checkpoint(None, nnssl_plan("PrimusM"), PRIMUS),
    "UNet": lambda: UNet(3, 1, 3, (4, 8), (2,)).state_dict(),
}
NETWORKS = {"v1": v1, "v2": v2, "resenc_l": our_unet, "plain_conv_unet": our_plain_unet, "monai_mednext": our_monai}
MEDNEXT = ("own", "own checkpoint", "official", "nnU-Net v1", "MultiTalent", "MONAI", "MONAI B")


def outcome(file, network):
    """What shall become of a file of a kind in a network of a kind: that it is loaded, or words of an error."""
    if file in ("Primus", "UNet"):
        return "error", "checkpoint of nnssl: PrimusM" if file == "Primus" else "Not one tensor has a name"
    fits = {
        "v1": {"own checkpoint", "official", "nnU-Net v1", "MONAI"},
        "v2": {*MEDNEXT} - {"MONAI B"},
        "resenc_l": {"nnssl", "nnssl S3D", "nnU-Net ResEnc"},
        "plain_conv_unet": {"nnU-Net plain"},
        "monai_mednext": {"MONAI"},
    }[network]
    if file in fits:
        return "loaded", ""
    if file == "MONAI B":
        return (
            "error",
            "another network" if network != "resenc_l" and network != "plain_conv_unet" else "MONAI's MedNeXt",
        )
    if network == "v1" and file in ("own", "MultiTalent"):
        return ("loaded", "") if file == "own" else ("error", "with GRN (v2), and the network here has none (v1)")
    return "error", "holds no weights of this network"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("file", FILES)
def test_every_file_in_every_network(file, network, tmp_path):
    torch.save(FILES[file](), tmp_path / "weights.pth")
    target = NETWORKS[network]()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    expected, words = outcome(file, network)
    if expected == "error":
        with pytest.raises(InputError) as caught:
            load_pretrained(target, tmp_path / "weights.pth", 1, 3, LABELS)
        assert str(caught.value).startswith(str(tmp_path / "weights.pth"))
        assert words in str(caught.value)
        assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())
        return
    report = load_pretrained(target, tmp_path / "weights.pth", 1, 3, LABELS)
    assert {row.tensor for row in report.rows if row.tensor} == before.keys()
    known = {row.source for row in report.rows if row.source}
    state = unwrap_state(load_file(tmp_path / "weights.pth"))
    aliases = [name for name in state if ".encoder." in name or ".conv." in name or ".norm." in name]
    assert known | {*aliases} >= state.keys()  # nothing of the file is passed over in silence
    assert report.fraction > 0.5
    for name, tensor in target.state_dict().items():
        changed = not torch.equal(before[name], tensor)
        assert changed or name in report.new or ".norm." in name or ".grn." in name, name  # which may start alike


# --- what is loaded computes the same -------------------------------------------------------------------------------


def assert_same(ours, theirs, size=32, channels=1):
    x = torch.randn(1, channels, size, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-3, atol=1e-4)


def saved(content, folder):
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.mark.parametrize("target", [v1, v2])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
def test_the_authors_v1_in_v1_and_v2(wrap, target, tmp_path):
    state, network = authors()
    ours = target()
    report = load_pretrained(ours, saved(wrap(state), tmp_path), 1, 3)
    assert report.title == "MedNeXt of its authors' code"
    assert report.unused == {"dummy_tensor": "has no effect there"}
    assert all(".grn." in name for name in report.new)
    assert_same(ours, network)


def test_a_checkpoint_of_multitalent_has_no_grn_in_its_first_down_block(tmp_path):
    content, network = multitalent()
    ours = v2()
    report = load_pretrained(ours, saved(content, tmp_path), 1, 3, LABELS)
    assert report.title == "checkpoint of nnU-Net: MedNeXt with GRN of its authors' code, nnUNetTrainer_MedNeXt_L_GRN"
    assert report.new == dict.fromkeys(("down.0.grn.gamma", "down.0.grn.beta"), "GRN that starts as the identity")
    assert report.expects.labels == tuple(LABELS)
    assert_same(ours, network)


@needs_golden
@pytest.mark.parametrize(
    ("name", "grn"), [("grn_k3", True), *((name, grn) for name in ("k3", "k5", "2d_k3") for grn in (False, True))]
)
def test_golden_files_give_the_outputs_of_the_authors_code(name, grn, tmp_path):
    golden = torch.load(Path(os.environ["MEDNEXTV2_GOLDEN"]) / f"official_v1_{name}.pt", weights_only=True)
    config = golden["config"]
    blocks, ratio = config["block_counts"], config["exp_r"]
    ratios = [ratio] * 9 if isinstance(ratio, int) else list(ratio)
    ours = MedNeXt(
        2 if config.get("dim") == "2d" else 3, config["in_channels"], config["n_classes"], config["n_channels"],
        blocks[:4], blocks[4], blocks[5:], ratios[:4], ratios[4], ratios[5:], config["kernel_size"],
        deep_supervision=True, global_resp_norm=grn,
    )  # fmt: skip
    report = load_pretrained(ours, saved(golden["state_dict"], tmp_path), config["in_channels"], config["n_classes"])
    expected = golden["outputs"] if isinstance(golden["outputs"], list | tuple) else [golden["outputs"]]
    with torch.no_grad():
        actual = ours.train()(golden["input"])
    for ours_at, theirs_at in zip(actual, expected, strict=False):
        assert ((ours_at - theirs_at).norm() / theirs_at.norm()).item() < 1e-4
    extra = [key for key in report.new if ".grn." not in key]
    assert all(key.startswith("heads.") for key in extra)
    assert not extra or not config["deep_supervision"]


@pytest.mark.parametrize("target", [v1, v2])
def test_monai_in_v1_and_v2(target, tmp_path):
    network = monai(deep_supervision=True)
    ours = target(deep_supervision=True)
    report = load_pretrained(ours, saved(network.state_dict(), tmp_path), 1, 3)
    assert report.title == "MONAI's MedNeXt"
    assert report.unused == {}
    assert_same(ours, network)


def test_what_cannot_fit_of_monais_larger_sizes_is_listed(tmp_path):
    ratios = {"encoder_expansion_ratio": (2, 3, 4, 4), "bottleneck_expansion_ratio": 4}
    network = monai(decoder_expansion_ratio=(4, 4, 3, 2), **ratios)
    ours = v1(decoder_expansion_ratio=(4, 4, 3, 2), **ratios)
    report = load_pretrained(ours, saved(network.state_dict(), tmp_path), 1, 3)
    parts = ("expand.weight", "expand.bias", "compress.weight")
    assert {*report.new} == {f"down.{n}.{part}" for n in (0, 1) for part in parts}
    assert "MONAI's down block is narrower" in report.describe()
    assert torch.equal(ours.state_dict()["down.0.compress.bias"], network.state_dict()["down_blocks.0.conv3.bias"])


def test_a_checkpoint_of_nnunet_is_loaded_with_its_heads_if_they_have_the_same_labels(tmp_path):
    network = residual()
    path = saved(nnunet_checkpoint(network), tmp_path)
    ours = our_unet()
    report = load_pretrained(ours, path, 1, 3, LABELS)
    assert report.title == "checkpoint of nnU-Net: ResidualEncoderUNet, nnUNetTrainer"
    assert (report.new, report.unused, report.adapted) == ({}, {}, {})
    assert_same(ours, network)
    report = load_pretrained(our_unet(), path, 1, 3, ["background", "liver", "tumour"])
    assert all(".seg_layers." in name for name in report.new)
    assert "but the labels here are [background, liver, tumour]" in report.describe()


def test_a_plain_unet_of_nnunet_is_loaded(tmp_path):
    network, ours = residual(kind=PlainConvUNet), our_plain_unet()
    report = load_pretrained(ours, saved(nnunet_checkpoint(network), tmp_path), 1, 3, LABELS)
    assert report.new == {}
    assert_same(ours, network)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sparse", [False, True])
def test_of_nnssl_encoder_and_decoder_are_loaded(sparse, channels, tmp_path):
    network, ours = their_unet(), our_unet(channels=channels)
    state = as_sparse(network.state_dict()) if sparse else network.state_dict()
    report = load_pretrained(ours, saved(nnssl_checkpoint(network, state=state), tmp_path), channels, 3, LABELS)
    assert report.title == "checkpoint of nnssl: ResEncL, BaseMAETrainer_BS8"
    assert all(".seg_layers." in name for name in report.new)
    assert all(".seg_layers." in name for name in report.unused)
    stem = [f"network.{place}stem.convs.0.{layer}.weight" for place in ("encoder.", "decoder.encoder.")
            for layer in ("conv", "all_modules.0")]  # fmt: skip
    assert {*report.adapted} == ({*stem} if channels > 1 else set())
    assert any("sparse pretraining" in remark for remark in report.remarks) is sparse
    x = torch.randn(1, 1, 32, 32, 32)
    expected, actual = features_of(network, x), features_of(ours.network, x.expand(-1, channels, -1, -1, -1))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    assert report.expects.patch_size == (160, 160, 160)


def test_heads_that_reconstruct_are_not_taken_for_one_class(tmp_path):
    network, ours = their_unet(), our_unet(outputs=1)
    before = ours.state_dict()["network.decoder.seg_layers.0.weight"].clone()
    report = load_pretrained(ours, saved(nnssl_checkpoint(network), tmp_path), 1, 1)
    assert "the file's heads reconstruct images" in report.new.values()
    assert torch.equal(ours.state_dict()["network.decoder.seg_layers.0.weight"], before)


def test_a_pretraining_without_skip_connections_gives_its_encoder(tmp_path):
    network = their_unet()
    state = {
        name: tensor[:, : tensor.shape[1] // 2].clone() if "decoder.stages" in name and tensor.dim() > 1 else tensor
        for name, tensor in network.state_dict().items()
    }
    path = saved(nnssl_checkpoint(network, nnssl_plan("NoSkipResEncL"), state), tmp_path)
    report = load_pretrained(our_unet(), path, 1, 3)
    assert "the pretraining had no skip connections" in report.new.values()
    assert not any(".encoder." in name for name in report.new)
    path = saved(nnssl_checkpoint(network, nnssl_plan(), state), tmp_path)
    with pytest.raises(InputError, match="the weights are of another network"):
        load_pretrained(our_unet(), path, 1, 3)


def test_kernels_of_another_size_are_told(tmp_path):
    """A bundle with thick slices has flat kernels in the first stages."""
    ours = our_unet(patch=(64, 64, 16), spacing=(1.0, 1.0, 5.0))
    with pytest.raises(InputError, match="the weights are of another network") as caught:
        load_pretrained(ours, saved(nnssl_checkpoint(their_unet(stages=5)), tmp_path), 1, 3)
    assert "(4, 1, 3, 3, 3) in the file, (4, 1, 3, 3, 1) here" in str(caught.value)
    assert "checkpoint of nnssl: ResEncL" in str(caught.value)


def test_the_readers_have_an_order():
    assert len(READERS) == len({*READERS}) == 5
    assert find_source({}, {"a": torch.zeros(1)}, {"b": torch.zeros(1)}) is None
