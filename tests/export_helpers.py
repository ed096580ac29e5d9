"""What the tests of exported networks share: very small networks with weights, and their exports."""

from pathlib import Path

import torch
from torch import nn

from mednextv2.bundle.export import export_bundle
from mednextv2.nets import MedNeXt
from mednextv2.weights.files import save_file

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundles" / "mednextv2_hippocampus"
LABELS = ["background", "anterior", "posterior"]
PATCH = [32, 48, 16]
FORMATS = ("ts", "pt2", "onnx")

_BLOCKS = {"init_filters": 4, "blocks_down": [1] * 4, "blocks_bottleneck": 1, "blocks_up": [1] * 4}
#: One convolution, which every exporter writes in a second, and a MedNeXt, for which some need many.
_DEFINITIONS = {
    "one_convolution": {"_target_": "torch.nn.Conv3d", "kernel_size": 3, "padding": 1, "in_channels": 1},
    "small_mednext": {
        "_target_": "mednextv2.nets.MedNeXt",
        "deep_supervision": True,
        "cpu_bfloat16": "@amp",
        **_BLOCKS,
    },
}


def small_network(name: str = "one_convolution", seed: int = 0, outputs: int = 3) -> nn.Module:
    """Return the network of :func:`make_weights`, with values that make its labels change from voxel to voxel."""
    torch.manual_seed(seed)
    if name == "one_convolution":
        return nn.Conv3d(1, outputs, 3, padding=1).eval()
    network = MedNeXt(out_channels=outputs, deep_supervision=True, **_BLOCKS)
    with torch.no_grad():
        for parameter in network.parameters():  # GRN's are zero at first
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return network.eval()


def make_weights(folder: Path, name: str = "one_convolution", seed: int = 0, **about) -> tuple[Path, Path]:
    """Write the definition of a network, and weights for it; return both files."""
    definition = {**_DEFINITIONS[name], "out_channels": "$@scheme.outputs"}
    network = folder / f"{name}.yaml"
    network.write_text(
        f"network_name: {name}\nnetwork_settings: {{}}\nnetwork_def: {definition!r}\n".replace("True", "true")
    )
    file = folder / f"{name}_{seed}.pt"
    record = {
        "labels": LABELS,
        "network": name,
        "fold": 0,
        "dataset": "Task04_Hippocampus",
        "training": [f"case_{seed}"],
    }
    save_file(small_network(name, seed).state_dict(), file, {**record, **about})
    return network, file


def export_small(folder: Path, format: str, name: str = "one_convolution", made=None, **settings) -> Path:
    """Export a small network with weights, which are made in a folder beside it unless they are given."""
    network, weights = made or make_weights(folder, name)
    settings = {"weights": str(weights), "patch_size": PATCH, **settings}
    return export_bundle(BUNDLE, format, folder / f"{name}.{format}", network=network, **settings)
