"""The subjects on which inference is measured: a network and an image."""

import argparse

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from mednextv2.images.volume import read_volume
from mednextv2.nets import create_mednext
from mednextv2.ops import half_is_fast


def make_network(options: argparse.Namespace) -> nn.Module:
    """Return a network with random weights, whose logits differ as much as a trained one's."""
    torch.manual_seed(0)
    changes = {"init_filters": options.filters} if options.filters else {}
    network = create_mednext(
        options.variant, out_channels=options.classes, cpu_bfloat16=half_is_fast(options.device), **changes
    )
    return network.eval().to(options.device)


class Answering(nn.Module):
    """A network that returns a known label map, as a trained one would, with its own logits added.

    The label map is the input's second channel. If random weights alone decided, labels would change from voxel to
    voxel.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's logits, increased for the class in the label map."""
        logits = self.network(x[:, :1])
        return logits.scatter_add_(1, x[:, 1:].long(), logits.new_full((), 6.0).expand_as(x[:, 1:]))


def add_labels(image: MetaTensor, file: str, classes: int) -> MetaTensor:
    """Append a label map as a channel, on an image's grid; its values are renumbered from 0.

    Args:
        image: The image, `(1, 1, X, Y, Z)`.
        file: The file of the label map, on the whole image.
        classes: The number of classes that it may have.
    """
    values, numbers = np.unique(read_volume(file)[0], return_inverse=True)
    if len(values) > classes:
        raise SystemExit(f"{file}: has {len(values)} labels, --classes is {classes}")
    shape = read_volume(file)[0].shape
    labels = torch.from_numpy(numbers.reshape(shape).astype(np.float32))[None, None]
    labels = nn.functional.interpolate(labels, image.shape[2:], mode="nearest-exact")
    return MetaTensor(torch.cat([image.as_tensor(), labels], 1)).copy_meta_from(image)


def make_image(options: argparse.Namespace, shape: tuple[int, ...] | None = None) -> MetaTensor:
    """Return a real image, normalised, or a smooth random one, `(1, X, Y, Z)`."""
    if options.image:
        array, affine = read_volume(options.image)
        values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]
        if shape:
            values = nn.functional.interpolate(values[None], shape, mode="trilinear")[0]
        affine = torch.from_numpy(affine)
    else:
        torch.manual_seed(0)
        shape = shape or tuple(options.shape)
        coarse = torch.randn(1, 1, *(max(2, n // 16) for n in shape))
        values = nn.functional.interpolate(coarse, shape, mode="trilinear")[0]
        affine = torch.diag(torch.tensor([1.5, 1.5, 1.5, 1.0], dtype=torch.float64))
    values = (values - values.mean()) / values.std()
    return MetaTensor(values, affine=affine)
