"""Every network of the package in the workflows of a bundle, and one of a user's own."""

import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import ROOT, read_csv
from configured_runs import PREDICT, TRAIN, copy_bundle, run_configured
from mednextv2.weights.transfer import output_tensors
from monai.networks.nets import UNETR, SegResNet, SwinUNETR

from mednextv2.bundle.networks import network_names
from mednextv2.bundle.run import configure, read_workflow, workflow_files
from mednextv2.errors import InputError, UsageError, find_input_error
from mednextv2.nets import VARIANTS, MedNeXt, create_mednext
from mednextv2.predictor import Predictor
from mednextv2.weights.provenance import read_about

#: Settings with which each network is small; the sizes of MedNeXt have none.
TINY = {
    "dynunet": {"network_filters": 4},
    "monai_mednext": {"patch_size": [32, 16, 16]},
    "nnformer": {"network_width": 12, "patch_size": [32, 32, 32]},
    "plain_conv_unet": {"network_filters": 4},
    "primus_m": {"network_width": 48, "network_depth": 1, "network_heads": 2},
    "resenc_l": {"network_filters": 4},
    "segresnet": {"network_filters": 8},
    "swin_unetr": {"network_filters": 12, "patch_size": [64, 32, 32]},
    "transbts": {"network_filters": 8},
    "transunet3d": {"network_layers": 1, "patch_size": [32, 16, 16]},
    "unetr": {"network_filters": 4, "network_width": 24},
    "uxnet3d": {"network_filters": 4, "patch_size": [32, 16, 16]},
}
OURS = {f"mednext_{variant}": variant for variant in VARIANTS}
IN_3D_ONLY = {"primus_m", "nnformer", "transbts", "transunet3d", "uxnet3d"}
#: The number of heads in training with a patch of 16 voxels a side: at every resolution but the lowest, or at all five.
HEADS = {
    "dynunet": 2, "plain_conv_unet": 2, "resenc_l": 2, "monai_mednext": 5, "mednext_v2_tiny": 5, "nnformer": 3,
    "transunet3d": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory, small_phantom):
    """The phantom's cases, cropped to one window at the border of both structures."""
    folder = tmp_path_factory.mktemp("small") / "data"
    shutil.copytree(small_phantom, folder)
    for file in (folder / "labelsTr").glob("*.nii.gz"):
        label = np.asarray(nib.load(file).dataobj)
        first = [int(np.median(np.nonzero(label)[axis])) - 8 for axis in range(3)]
        box = tuple(slice(max(0, n), max(0, n) + 16) for n in first)
        for each in (file, folder / "imagesTr" / file.name):
            nib.save(nib.Nifti1Image(np.asarray(nib.load(each).dataobj)[box], np.eye(4)), each)
    return folder


@pytest.fixture
def data(small):
    return {"dataset_dir": str(small)}


@pytest.fixture
def bundle(tmp_path):
    return copy_bundle(tmp_path)


def trained(bundle, network, data, **settings):
    """Train a step; return the run and the weights."""
    done = run_configured(bundle, "train", network=network, **data, **{**TRAIN, **settings})
    return done, bundle / "models" / Path(network).stem / "fold_0" / "model.pt"


def test_no_network_is_left_out():
    assert {*TINY} | {*OURS} == {*network_names()}


@pytest.mark.parametrize(
    "network",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "swin_unetr")) for name in (*TINY, "mednext_v2_tiny")],
)
def test_a_network_is_trained_and_evaluated(network, bundle, data, torchvision):
    done, weights = trained(bundle, network, data, **TINY.get(network, {}))
    module = done["network_def"]
    assert [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None] == []  # for DDP
    output = module.train()(torch.zeros(2, 1, *done["patch"]))
    heads = [output] if isinstance(output, torch.Tensor) else output
    assert len(heads) == HEADS.get(network, 1)
    assert all(isinstance(head, torch.Tensor) and head.shape[:2] == (2, 3) for head in heads)
    about = read_about(weights)
    assert about["network"] == network
    settings = {**TINY.get(network, {"variant": OURS.get(network)}), "patch_size": list(done["patch_size"])}
    assert settings.items() <= about["settings"].items()

    scored = run_configured(bundle, "evaluate", **data, **PREDICT, weights=str(weights))
    assert scored["network_name"] == network
    assert [*scored["inferer"].roi_size] == settings["patch_size"]
    loaded, saved = scored["predictor"].state_dict(), torch.load(weights, weights_only=True)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())
    rows = read_csv(bundle / "output" / "evaluation" / network / "fold_0" / "cases.csv")
    assert {row["label"] for row in rows} == {"anterior", "posterior"}


@pytest.mark.parametrize("network", OURS)
def test_our_sizes_are_those_of_their_names(network, bundle):
    config = read_workflow(workflow_files(bundle, "train", network)).config
    assert config["variant"] == OURS[network]
    parser = built_parser(bundle, network, [16, 16, 16])
    with torch.device("meta"):
        found, expected = parser("network_def"), create_mednext(OURS[network], 3, 1, 3, deep_supervision=True)
    assert isinstance(found, MedNeXt)
    assert sum(map(torch.numel, found.parameters())) == sum(map(torch.numel, expected.parameters()))


def built_parser(bundle, network, patch, **settings):
    """Return the function that gives an entry of the training's configuration with some facts."""
    parser = read_workflow(workflow_files(bundle, "train", network))
    parser.update({"patch_size": patch, "spacing": [1.0] * len(patch), "amp": False, **settings})

    def get(name):
        try:
            return parser.get_parsed_content(name)
        except Exception as e:
            raise find_input_error(e) or e from None

    return get


@pytest.mark.parametrize("network", sorted({*TINY} - IN_3D_ONLY))
def test_networks_in_two_dimensions(network, bundle):
    small = {key: value for key, value in TINY[network].items() if key != "patch_size"}
    module = built_parser(bundle, network, [64, 32], channels=["a", "b"], normalization=[], **small)("network_def")
    with torch.no_grad():
        assert module.eval()(torch.randn(1, 2, 64, 32)).shape == (1, 3, 64, 32)
        output = module.train()(torch.randn(2, 2, 64, 32))
    assert (output if isinstance(output, torch.Tensor) else output[0]).shape == (2, 3, 64, 32)


@pytest.mark.parametrize(
    ("network", "patch", "words"),
    [
        ("swin_unetr", [48, 64, 48], r"network swin_unetr: patch_size \[48, 64, 48\] should be multiples of 32"),
        ("swin_unetr", [32, 32, 32], r"network swin_unetr: patch_size \[32, 32, 32\] is too small"),
        ("monai_mednext", [16, 16, 16], r"network monai_mednext: patch_size \[16, 16, 16\] is too small"),
        ("primus_m", [32, 32], r"network primus_m: has 3 spatial axes, but patch_size \[32, 32\] has 2"),
    ],
)
def test_a_patch_that_a_network_cannot_take_is_refused(network, patch, words, bundle):
    with pytest.raises(InputError, match=words):
        built_parser(bundle, network, patch)("network_def")


@pytest.mark.parametrize(
    ("network", "kind", "published"),
    [
        # Lee et al. 2023, 3D UX-Net (arXiv:2209.15076), table 1, in millions
        ("swin_unetr", SwinUNETR, 62.2),
        ("unetr", UNETR, 92.8),
    ],
)
def test_numbers_of_parameters_are_the_published_ones(network, kind, published, bundle):
    module = built_parser(bundle, network, [96, 96, 96])("network_def")
    assert isinstance(module.network, kind)
    assert sum(map(torch.numel, module.parameters())) / 1e6 == pytest.approx(published, rel=0.01)


def test_segresnet_has_the_layout_of_the_paper(bundle):
    """Myronenko 2018, arXiv:1810.11654, table 1: 32 filters, 1, 2, 2 and 4 blocks down, 1 up, 8 groups."""
    inner = built_parser(bundle, "segresnet", [16, 16, 16])("network_def").network
    assert isinstance(inner, SegResNet)
    assert [len(layer) - 1 for layer in inner.down_layers] == [1, 2, 2, 4]
    assert [len(layer) for layer in inner.up_layers] == [1, 1, 1]
    assert inner.convInit.conv.out_channels == 32


QUICKLY_BUILT = {"dynunet", "nnformer", "plain_conv_unet", "segresnet"}


@pytest.mark.parametrize(
    "network",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICKLY_BUILT)) for name in TINY if name != "primus_m"],
)
def test_the_layers_of_the_outputs_are_those_that_change_with_the_number_of_classes(network, bundle, torchvision):
    """Fine-tuning for other labels starts with new values there, also if the number of classes stays the same."""
    settings = {"patch_size": [32, 32, 32], **TINY[network]}
    patch = settings.pop("patch_size")
    five, seven = (
        built_parser(bundle, network, patch, labels=[f"part {n}" for n in range(classes)], **settings)("network_def")
        for classes in (5, 7)
    )
    other = seven.state_dict()
    changed = {name: tensor.shape for name, tensor in five.state_dict().items() if tensor.shape != other[name].shape}
    axes = {
        name: [axis for axis, (a, b) in enumerate(zip(shape, other[name].shape, strict=True)) if a != b]
        for name, shape in changed.items()
    }
    assert axes
    assert {name: [axis] for name, axis in output_tensors(five, 5).items()} == axes


@pytest.mark.slow
def test_the_layer_of_the_outputs_of_primus_is_its_last(bundle, torchvision):
    """The widths of the layers before it depend on the number of classes, too, so comparing shapes does not tell it."""
    settings = {**TINY["primus_m"], "labels": [f"part {n}" for n in range(5)]}
    network = built_parser(bundle, "primus_m", [32, 32, 32], **settings)("network_def")
    last = "network.up_projection.decode.2"
    assert output_tensors(network, 5) == {f"{last}.weight": 1, f"{last}.bias": 0}


# --- a network of one's own ------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """The example of the documentation."""
    text = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(network_name: my_unet.*?)```", text, re.DOTALL)
    (tmp_path / "my_unet.yaml").write_text(example)
    return str(tmp_path / "my_unet.yaml")


def test_the_example_of_the_documentation_works(own, bundle, data, small):
    _, weights = trained(bundle, own, data, network_filters=2, patch_size=[32, 16, 16])
    with pytest.raises(UsageError, match=r"the weights are of the network 'my_unet', which is not part of the package"):
        run_configured(bundle, "evaluate", **data, **PREDICT, weights=str(weights))
    scored = run_configured(bundle, "evaluate", network=own, **data, **PREDICT)
    assert scored["predictor"].weights == [str(weights)]
    image = next((small / "imagesTr").glob("*.nii.gz"))
    predictor = Predictor(bundle, network=own, overlap=0.0, test_mirror_axes=[])
    assert predictor(image).labels.shape == nib.load(image).shape


def test_the_network_of_weights_is_found_by_itself_in_a_prediction(bundle, data, small):
    _, weights = trained(bundle, "plain_conv_unet", data, network_filters=4)
    predictor = Predictor(bundle, weights=str(weights), overlap=0.0, test_mirror_axes=[])
    assert predictor.network.networks[0].name == "plain_conv_unet"
    image = next((small / "imagesTr").glob("*.nii.gz"))
    assert predictor(image).labels.shape == nib.load(image).shape


def test_weights_of_another_network_are_refused_with_their_own(bundle, data):
    _, weights = trained(bundle, "plain_conv_unet", data, network_filters=4)
    with pytest.raises(InputError, match=r"of another network.*--network plain_conv_unet --network_filters 4"):
        run_configured(bundle, "evaluate", network="segresnet", **data, **PREDICT, weights=str(weights))


def test_a_network_is_fine_tuned_from_its_own_weights(bundle, data, caplog):
    caplog.set_level("INFO")
    _, weights = trained(bundle, "resenc_l", data, network_filters=4)
    more = {**TRAIN, "network_filters": 4, "network": "resenc_l", "pretrained": str(weights)}
    regions = [{"name": "whole", "values": [1, 2], "paint": 1}]
    done = run_configured(bundle, "finetune", **data, **more, regions=regions)
    assert (bundle / "models" / "resenc_l_finetune" / "fold_0" / "model.pt").is_file()
    assert done["network_def"].eval()(torch.zeros(1, 1, 16, 16, 16)).shape[1] == 1
    (line,) = [r.getMessage() for r in caplog.records if "tensors loaded" in r.getMessage()]
    assert "newly initialised: network.decoder.seg_layers.0.weight" in line


def test_settings_of_a_network_are_known_only_with_it(bundle):
    configure(bundle, "train", {"network": "resenc_l", "network_filters": 4, "epochs": 1})
    for settings in ({"network_filters": 4}, {"network": "resenc_l", "network_filter": 4}):
        with pytest.raises(UsageError, match=r"--network_filters?: there is no such setting"):
            configure(bundle, "train", settings)


def test_monais_command_line_takes_the_file_of_a_network(bundle, data):
    """As documented: one more file, and the settings of the training again."""
    _, weights = trained(bundle, "resenc_l", data, network_filters=4)
    files = workflow_files(bundle, "evaluate", "resenc_l")
    assert [Path(file).name for file in files] == ["evaluate.yaml", "resenc_l.yaml"]
    parser = read_workflow(files)
    parser.update({"bundle_root": str(bundle), **data, "patch_size": [16, 16, 16], "network_filters": 4, **PREDICT})
    predictor = parser.get_parsed_content("predictor")
    predictor.load()
    assert predictor.weights == [str(weights)]
