"""Load checkpoints that nnU-Net's own package wrote, and compare outputs: see check_foreign_weights.sh.

    python foreign_weights_check.py FOLDER

FOLDER has the files of foreign_weights_make.py. Besides, each checkpoint is loaded as a published checkpoint of nnssl,
which holds the same tensors and an adaptation plan, into a network with two input channels. The exit status is the
number of comparisons that failed.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mednextv2.nets import AdaptedNetwork
from mednextv2.nets.adapters import as_heads
from mednextv2.nets.nnunet import plain_conv_unet, residual_encoder_unet
from mednextv2.weights import load_file, load_pretrained

LABELS = ["background", "anterior", "posterior"]
TOLERANCE = 1e-4  # relative L2 distance of logits in float32
#: The networks by the names of the files, and the patch for which each is planned, if it is not that of the input.
NETWORKS: dict[str, tuple[Callable[..., nn.Module], int | None]] = {
    "plain_conv_unet": (plain_conv_unet, None),
    "resenc_l_small": (residual_encoder_unet, None),
    "resenc_l": (residual_encoder_unet, 160),
}


def build(name: str, size: int, channels: int = 1) -> AdaptedNetwork:
    """Build the network of this project for a checkpoint."""
    make, planned = NETWORKS[name]
    patch = [planned or size] * 3
    return AdaptedNetwork(name, make(patch, [1.0] * 3, channels, len(LABELS)), patch)


def distance(actual: Tensor, expected: Tensor) -> float:
    """Return the relative L2 distance."""
    return float((actual - expected).norm() / expected.norm())


def compare(name: str, folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the largest distance of a comparison, and what was compared."""
    expected = torch.load(folder / f"{name}_expected.pt", weights_only=True)
    x, heads = expected["input"], expected["heads"]
    network = build(name, x.shape[2])
    report = load_pretrained(network, folder / f"{name}.pth", 1, len(LABELS), LABELS)
    print(report.describe())
    assert not report.new, report.new
    assert not report.unused, report.unused
    with torch.no_grad():
        actual = as_heads(network.train()(x), x.dim())  # these networks have no layer that training changes
    yield "logits at every resolution", max(distance(a, e) for a, e in zip(actual, heads, strict=True))

    content = load_file(folder / f"{name}.pth")
    plan = {
        "architecture_plans": {"arch_class_name": "ResEncL" if name == "resenc_l" else "ResidualEncoderUNet"},
        "pretrain_plan": {"configurations": {"onemmiso": {"spacing_style": "onemmiso", "patch_size": [160] * 3}}},
        "pretrain_num_input_channels": 1, "recommended_downstream_patchsize": [160] * 3,
        "key_to_encoder": "encoder.stages", "key_to_stem": "encoder.stem",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "checkpoint_final.pth"
        torch.save({"network_weights": content["network_weights"], "nnssl_adaptation_plan": plan}, file)
        again = build(name, x.shape[2], channels=2)
        report = load_pretrained(again, file, 2, len(LABELS))
    print(report.describe())
    assert all(".seg_layers." in tensor for tensor in report.new), report.new
    with torch.no_grad():
        features = [_features(net, x.expand(-1, number, -1, -1, -1)) for net, number in ((network, 1), (again, 2))]
    yield "features, of two equal channels", distance(features[1], features[0])


def _features(network: AdaptedNetwork, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    decoder = network.get_submodule("network.decoder.stages")
    assert isinstance(decoder, nn.ModuleList)
    handle = decoder[-1].register_forward_hook(lambda module, inputs, output: found.append(output))
    network.eval()(x)
    handle.remove()
    return found[0]


def main(folder: Path) -> int:
    """Compare all files, print a table, and return the number of comparisons that failed."""
    rows = [(name, what, found) for name in NETWORKS for what, found in compare(name, folder)]
    print("\nnetwork | compared | relative distance")
    for name, what, found in rows:
        print(f"{name} | {what} | {found:.1e}{'' if found < TOLERANCE else ' (failed)'}")
    return sum(not found < TOLERANCE for _, _, found in rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
