"""Networks, images and windows for the streaming inference."""

import torch
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import list_data_collate
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd
from torch import nn

from mednextv2.data import LabelScheme
from mednextv2.inference.window_cells import Axis
from mednextv2.transforms import Resampled

WINDOW = {"sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian"}


class Blobs(nn.Module):
    """A small network whose classes form blobs of some voxels, as anatomy does; logits as different as real ones."""

    def __init__(self, outputs, dims=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = (nn.Conv3d if dims == 3 else nn.Conv2d)(1, outputs, 5, padding=2)
        self.pool = (nn.AvgPool3d if dims == 3 else nn.AvgPool2d)(3, 1, 1)

    def forward(self, x):
        return 20 * self.pool(self.conv(x))


def scheme_of(outputs, regions):
    """Return a scheme of so many classes, or of regions that overlap."""
    if not regions:
        return LabelScheme(["background", *(f"class {i}" for i in range(1, outputs))])
    entries = [{"name": f"region {i}", "values": [1 + i % 3], "paint": 1 + i % 3} for i in range(outputs)]
    return LabelScheme(["background", "a", "b", "c"], entries)


def batch_of(shape, affine, pixdim, seed=0):
    """Preprocess a random image; return the batch and the transforms."""
    torch.manual_seed(seed)
    image = torch.randn(1, *shape)
    for axis in range(1, len(shape) + 1):
        image = image.cumsum(axis) / 2
    image -= image.mean()
    image[:, :2] = 0  # is cut away
    transforms = Compose([
        Orientationd("image", "RAS"[: len(shape)], labels=[["L", "R"], ["P", "A"], ["I", "S"]][: len(shape)]),
        CropForegroundd("image", source_key="image", select_fn=lambda x: x != 0),
        Resampled("image", pixdim),
    ])  # fmt: skip
    item = transforms({"image": MetaTensor(image, affine=torch.as_tensor(affine, dtype=torch.float64))})
    return list_data_collate([item]), transforms


def invert(batch, pred, transforms):
    """Bring a prediction to the grid of the image's file, as MONAI does."""
    item = decollate_batch({"image": batch["image"], "pred": pred})[0]
    return Invertd("pred", transform=transforms, orig_keys="image", nearest_interp=False)(item)["pred"]


def axes_of(sizes, patch, step):
    """Return axes under windows at equal steps, the last of which is moved inwards."""
    return [Axis(n, patch, tuple(sorted({*range(0, n - patch + 1, step), n - patch}))) for n in sizes]
