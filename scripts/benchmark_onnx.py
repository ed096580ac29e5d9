"""The row `onnxruntime` of `benchmark.py`: our network, exported to ONNX, in ONNX Runtime on a CPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from benchmark_models import IN_CHANNELS, Case, Stepper
from torch import Tensor

from mednextv2.bundle.export import window_axes
from mednextv2.bundle.export_formats import FORMATS, Sizes
from mednextv2.inference.exported_network import ExportedNetwork

LEAST_EQUAL = 0.9999  # smallest share of voxels with equal labels


def network_file(case: Case) -> Path:
    """Return the file of the exported network."""
    return Path(case.cache) / "network.onnx"


def reference_file(case: Case) -> Path:
    """Return the file of our network's logits for the batch, and of its number of parameters."""
    return Path(case.cache) / "reference.npz"


def export(case: Case) -> None:
    """Export our network as `mednextv2 export --format onnx` does, with the weights and the batch of our own row.

    A process of its own does this, since the exporter's memory would otherwise count as that of the row.
    """
    ours = Stepper(replace(case, competitor="ours"))
    Path(case.cache).mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        logits = ours.net(ours.x).numpy()
    np.savez(reference_file(case), logits=logits, x=ours.x.numpy(), parameters=ours.parameters)
    sizes = Sizes(IN_CHANNELS, case.patch, window_axes(ours.net, case.patch))
    FORMATS["onnx"].write(ours.net, network_file(case), sizes)


def share_of_equal_labels(logits: Tensor, expected: Tensor) -> float:
    """Return the share of voxels with equal labels, for logits `(B, classes, X, Y, Z)` of one network, run twice.

    With random weights, nearly all voxels have the same label, so that nearly any logits would agree. The mean of the
    expected logits is therefore subtracted for each class, from both; then labels change from voxel to voxel.
    """
    means = expected.mean((0, 2, 3, 4), keepdim=True)
    return ((logits - means).argmax(1) == (expected - means).argmax(1)).double().mean().item()


class OnnxStepper(Stepper):
    """The exported network in ONNX Runtime, with as many threads as PyTorch."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        with np.load(reference_file(case)) as reference:
            self.x, self.expected = torch.from_numpy(reference["x"]), torch.from_numpy(reference["logits"])
            self.parameters = int(reference["parameters"])

    def build(self) -> ExportedNetwork:
        """Load the exported network."""
        return ExportedNetwork(network_file(self.case))

    def _check(self, outputs: Tensor | list[Tensor]) -> None:
        """Compare the labels of the first step with ours, too."""
        if self.seen:
            return
        super()._check(outputs)
        self.equal_labels = share_of_equal_labels(outputs, self.expected)
        if self.equal_labels < LEAST_EQUAL:
            raise RuntimeError(f"only {100 * self.equal_labels:.4f} % of the labels equal ours")
